"""The actions behind the built-in SDK, and what only an SDK has: HealthyBusy by an open task, and streams."""

from bedrock_agentcore import BedrockAgentCoreApp

import actions

app = BedrockAgentCoreApp()
_tasks = []


@app.entrypoint
def invoke(payload, context):
    if isinstance(payload, dict) and payload.get("do") == "busy":
        return _busy(payload.get("on", True))
    if isinstance(payload, dict) and payload.get("do") == "session":
        return {"session_id": context.session_id, "headers": dict(context.request_headers or {})}
    return actions.act(payload)


def _busy(on):
    """`{"do": "busy", "on": true}` opens one more task (HealthyBusy), `false` completes them all."""
    if on:
        _tasks.append(app.add_async_task("chaos"))
    else:
        while _tasks:
            app.complete_async_task(_tasks.pop())
    return app.get_async_task_info()


def run(port):
    # The SDK's default is 8080 whatever PORT says.
    app.run(port=port)
