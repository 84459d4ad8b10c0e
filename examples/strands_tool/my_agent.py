"""A Strands agent whose model may call a tool; text and tool results are streamed as they come."""

from collections.abc import AsyncIterator
from typing import Any

from bedrock_agentcore import BedrockAgentCoreApp
from strands import Agent, tool

app = BedrockAgentCoreApp()


@tool
def letter_count(word: str, letter: str) -> int:
    """Count how often a letter occurs in a word.

    Args:
        word: the word to look at
        letter: the letter to count
    """
    return word.lower().count(letter.lower())


agent = Agent(tools=[letter_count], callback_handler=None)


@app.entrypoint
async def invoke(payload: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    async for event in agent.stream_async(payload.get("prompt", "How many r are in strawberry?")):
        if "data" in event:
            yield {"text": event["data"]}
        for block in event.get("message", {}).get("content", []):
            if "toolResult" in block:
                yield {"tool": block["toolResult"]["content"][0]["text"]}


if __name__ == "__main__":
    app.run()
