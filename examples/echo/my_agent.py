"""Answers with what it was sent, and with the session that it was sent to."""

from bedrock_agentcore import BedrockAgentCoreApp, RequestContext

app = BedrockAgentCoreApp()


@app.entrypoint
def invoke(payload: object, context: RequestContext) -> dict[str, object]:
    return {"echo": payload, "session_id": context.session_id}


if __name__ == "__main__":
    app.run()
