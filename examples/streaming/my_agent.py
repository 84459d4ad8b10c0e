"""Streams its prompt back, one word per server-sent event."""

import time
from collections.abc import Iterator

from bedrock_agentcore import BedrockAgentCoreApp

app = BedrockAgentCoreApp()


@app.entrypoint
def invoke(payload: dict[str, object]) -> Iterator[object]:
    words = str(payload.get("prompt", "Hello, world!")).split()
    delay = float(str(payload.get("delay", 0)))
    for word in words:
        yield {"text": word + " "}
        time.sleep(delay)
    yield {"done": True, "words": len(words)}


if __name__ == "__main__":
    app.run()
