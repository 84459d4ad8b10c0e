"""Answers with what the AWS SDK knows of the request; `{"background": 2}` starts two seconds of background work."""

import asyncio
from importlib.metadata import version
from typing import Any

from bedrock_agentcore import BedrockAgentCoreApp, BedrockAgentCoreContext, RequestContext

app = BedrockAgentCoreApp()
background: set[asyncio.Task[None]] = set()


@app.async_task
async def work(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.entrypoint
async def invoke(payload: dict[str, Any], context: RequestContext) -> dict[str, Any]:
    if "background" in payload:
        task = asyncio.create_task(work(float(payload["background"])))
        background.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(background.discard)
    return {
        "echo": payload,
        "session_id": context.session_id,
        "request_id": BedrockAgentCoreContext.get_request_id(),
        "sdk": version("bedrock-agentcore"),
    }


if __name__ == "__main__":
    app.run()
