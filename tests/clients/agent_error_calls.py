"""Errors of the daemon's as the A2A client and the types of AG-UI read them: agent_error_calls.py ENDPOINT A2A|AGUI SITUATIONS, a JSON
list of objects with runtime, session, query, and the code and status to expect. Fails by an assertion. What boto3 shows of them too."""

import asyncio
import json
import sys
import uuid

import boto3
import httpx
from a2a.client import ClientConfig, ClientFactory
from a2a.client.client_factory import minimal_agent_card
from a2a.client.errors import A2AClientHTTPError
from a2a.types import JSONRPCErrorResponse, Message, Part, Role, TextPart
from ag_ui.core import Event, EventType
from botocore.config import Config
from botocore.exceptions import ClientError
from pydantic import TypeAdapter

endpoint, protocol, situations = sys.argv[1:]
HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"


async def a2a(situation, url, headers):
    async with httpx.AsyncClient(timeout=60, headers=headers) as client:
        card = minimal_agent_card(url, ["JSONRPC"])
        agent = ClientFactory(ClientConfig(httpx_client=client, streaming=False)).create(card)
        message = Message(role=Role.user, message_id=str(uuid.uuid4()), parts=[Part(root=TextPart(text="x"))])
        try:
            async for _ in agent.send_message(message):
                pass
            raise AssertionError(f"no error: {situation}")
        except A2AClientHTTPError as error:
            assert error.status_code == situation["status"], (situation, error)
        answer = await client.post(url, json={"jsonrpc": "2.0", "id": 5, "method": "message/send", "params": {}})
        error = JSONRPCErrorResponse.model_validate(answer.json())
        assert (error.id, error.error.code) == (5, situation["code"]), (situation, error)
        return error.error.message


async def agui(situation, url, headers):
    async with httpx.AsyncClient(timeout=60, headers=headers) as client:
        answer = await client.post(url, json={})
    assert answer.status_code == situation["status"], (situation, answer.text)
    event = TypeAdapter(Event).validate_python(json.loads(answer.text.removeprefix("data: ")))
    assert (event.type, event.code) == (EventType.RUN_ERROR, situation["code"]), (situation, event)
    return event.message


def by_boto3(situation, message):
    if len(situation["session"]) < 33:
        return  # boto3 itself refuses it
    agentcore = boto3.client(
        "bedrock-agentcore",
        endpoint_url=endpoint,
        region_name="us-west-2",
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
        config=Config(retries={"total_max_attempts": 1}),
    )
    words = {"qualifier": situation["query"].removeprefix("?qualifier=")} if situation["query"] else {}
    try:
        answer = agentcore.invoke_agent_runtime(
            agentRuntimeArn=situation["runtime"], runtimeSessionId=situation["session"], payload=b"{}", **words
        )
        # AG-UI tells what its agents do wrong with a 200.
        assert situation["status"] == 200, situation
        assert situation["code"].encode() in answer["response"].read()
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == situation["status"], error.response
        # Of AG-UI it shows the event as it is.
        message = message.split(";")[0]
        shown = message if protocol == "A2A" else json.dumps(message, ensure_ascii=False)[1:-1]
        assert shown in str(error), (str(error), message)


async def main():
    for situation in json.loads(situations):
        url = f"{endpoint}/runtimes/{situation['runtime']}/invocations{situation['query']}"
        call = a2a if protocol == "A2A" else agui
        message = await call(situation, url, {HEADER: situation["session"]})
        assert message, situation
        by_boto3(situation, message)


asyncio.run(asyncio.wait_for(main(), 120))
