"""AG-UI events of an agent in a session, read by the protocol's own types: agui_calls.py ENDPOINT ARN. Fails by an assertion."""

import json
import sys
import uuid
from urllib.parse import quote

import httpx
from ag_ui.core import Event, EventType, RunAgentInput, UserMessage
from pydantic import TypeAdapter

endpoint, arn = sys.argv[1:]
url = f"{endpoint}/runtimes/{quote(arn, safe='')}/invocations"
header = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
session = f"agui-{uuid.uuid4()}"


def run(words, session=session):
    body = RunAgentInput(
        thread_id="t",
        run_id="r",
        state={},
        messages=[UserMessage(id="u", role="user", content=words)],
        tools=[],
        context=[],
        forwarded_props={},
    )
    headers = {header: session, "accept": "text/event-stream", "content-type": "application/json"}
    answer = httpx.post(url, content=body.model_dump_json(by_alias=True), headers=headers, timeout=60)
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.headers
    lines = [line for line in answer.text.split("\n\n") if line]
    events = [TypeAdapter(Event).validate_python(json.loads(line.removeprefix("data: "))) for line in lines]
    return answer, events


answer, events = run("hi")
assert answer.status_code == 200 and answer.headers[header] == session, answer.headers
kinds = [event.type for event in events]
text = [EventType.TEXT_MESSAGE_START, *[EventType.TEXT_MESSAGE_CONTENT] * 3, EventType.TEXT_MESSAGE_END]
assert kinds == [EventType.RUN_STARTED, *text, EventType.RUN_FINISHED], kinds
assert "".join(event.delta for event in events if event.type == EventType.TEXT_MESSAGE_CONTENT) == "You said: hi."

for words, name, status, code in (
    ("hi", "short", 400, "VALIDATION_ERROR"),
    ("die", session, 200, "AGENT_ERROR"),
):
    answer, events = run(words, name)
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert [event.type for event in events] == [EventType.RUN_ERROR], events
    assert events[0].code == code and events[0].message, events
