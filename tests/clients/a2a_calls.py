"""The A2A client against an agent in a session: a2a_calls.py ENDPOINT ARN. Fails by an assertion."""

import asyncio
import sys
import uuid
from urllib.parse import quote

import httpx
from a2a.client import ClientConfig, ClientFactory
from a2a.client.client_factory import minimal_agent_card
from a2a.client.errors import A2AClientHTTPError, A2AClientJSONRPCError
from a2a.types import Message, Part, Role, TextPart

endpoint, arn = sys.argv[1:]
url = f"{endpoint}/runtimes/{quote(arn, safe='')}/invocations"
header = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"


def message(words):
    return Message(role=Role.user, message_id=str(uuid.uuid4()), parts=[Part(root=TextPart(text=words))])


async def say(client, words):
    async for answer in client.send_message(message(words)):
        assert isinstance(answer, Message), answer
        return answer.parts[0].root.text


async def main():
    async with httpx.AsyncClient(timeout=60, headers={header: f"a2a-{uuid.uuid4()}"}) as http:
        for streaming in (False, True):
            config = ClientConfig(httpx_client=http, streaming=streaming)
            card = minimal_agent_card(url, ["JSONRPC"])
            card.capabilities.streaming = streaming
            client = ClientFactory(config).create(card)
            base = 2 if streaming else 0
            assert await say(client, "hello") == f"{base + 1}: hello"
            assert await say(client, "again") == f"{base + 2}: again"
        # The agent's own errors pass through, as it says them.
        bad = {"jsonrpc": "2.0", "id": "mine", "method": "no/such", "params": {}}
        answer = await http.post(url, json=bad)
        assert answer.status_code == 200 and answer.json()["id"] == "mine", answer.text
        assert answer.json()["error"]["code"] == -32601, answer.text

        # Ours have the request's id and the real status.
        answer = await http.post(url, json=bad, headers={header: "short"})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] == -32052 and answer.json()["id"] == "mine", answer.text
        client = ClientFactory(ClientConfig(httpx_client=http, streaming=False)).create(minimal_agent_card(url, ["JSONRPC"]))
        try:
            await say(client, "die")
            raise AssertionError("no error")
        except A2AClientHTTPError as error:
            assert error.status_code == 424, error
        except A2AClientJSONRPCError as error:
            assert error.error.code == -32055, error


asyncio.run(asyncio.wait_for(main(), 120))
