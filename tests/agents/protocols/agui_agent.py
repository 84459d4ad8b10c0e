"""An AG-UI agent by the SDK's own app: one text message of three pieces, then the run's end; "die" ends it before."""

import os

from ag_ui.core import (
    RunFinishedEvent,
    RunStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
)
from bedrock_agentcore.runtime import AGUIApp

app = AGUIApp()


@app.entrypoint
async def run(run_input):
    if run_input.messages[-1].content == "die":
        os._exit(3)
    yield RunStartedEvent(thread_id=run_input.thread_id, run_id=run_input.run_id)
    yield TextMessageStartEvent(message_id="m", role="assistant")
    for piece in ("You said: ", run_input.messages[-1].content, "."):
        yield TextMessageContentEvent(message_id="m", delta=piece)
    yield TextMessageEndEvent(message_id="m")
    yield RunFinishedEvent(thread_id=run_input.thread_id, run_id=run_input.run_id)


app.run()
