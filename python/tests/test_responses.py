"""Forms of response (contract §1.4): each asked of the built-in SDK and of the AWS SDK, against one expectation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import Start
from http_probe import call, invoke

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
SSE = "text/event-stream; charset=utf-8"

DEEP = "[" * 51 + '"<too_deep:list>"' + "]" * 51

VALUES = {
    "none": "null",
    "text": '"é \\"quoted\\""',
    "number": "1.5",
    "dict": '{"a": [1, 2, {"b": null}], "ü": "é", "emoji": "🚀"}',
    "tuple": "[1, 2]",
    "set": "[7]",
    "dataclass": '{"x": 1, "tags": ["a"]}',
    "dataclass_inside": '{"points": [{"x": 2, "tags": []}], "set": [1]}',
    "model": '{"dumped": true}',
    "opaque": '"opaque é"',
    "hostile": '{"error": "Serialization failed", "original_type": "Hostile"}',
    "bytes": "\"b'raw'\"",
    "bad_keys": '"{(1, 2): 3}"',
    "deep": DEEP,
    "nan": "NaN",
    "class": "\"<class '__main__.Point'>\"",
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_value_is_json(sdk: str, kind: str, name: str, shared_agents: Start) -> None:
    answer = invoke(shared_agents(sdk, kind).port, {"case": "value", "name": name})
    assert answer.shape == (200, JSON, VALUES[name].encode())
    assert answer.header("content-length") == str(len(answer.body))


def test_an_object_inside_a_value_makes_the_whole_text(sdk: str, shared_agents: Start) -> None:
    answer = invoke(shared_agents(sdk, "sync").port, {"case": "value", "name": "opaque_inside"})
    assert answer.shape[:2] == (200, JSON)
    assert answer.body.startswith(b"\"{'a': <__main__.Opaque object at 0x")


def test_a_value_that_contains_itself_is_cut_off(sdk: str, shared_agents: Start) -> None:
    answer = invoke(shared_agents(sdk, "sync").port, {"case": "value", "name": "loop"})
    assert answer.shape == (200, JSON, ('{"self": ' * 51 + '"<too_deep:dict>"' + "}" * 51).encode())


def test_text_that_is_no_unicode_is_an_error(sdk: str, shared_agents: Start) -> None:
    answer = invoke(shared_agents(sdk, "sync").port, {"case": "value", "name": "surrogate"})
    assert answer.status == 500
    assert json.loads(answer.body)["error"].startswith("'utf-8' codec can't encode character")


@pytest.mark.parametrize("payload", [{"a": 1}, [1, 2], "text", 17, True, None, {}])
def test_any_json_is_a_payload(sdk: str, payload: Any, shared_agents: Start) -> None:
    for kind in ("sync", "payload_only", "async"):
        answer = invoke(shared_agents(sdk, kind).port, payload)
        assert answer.shape == (200, JSON, json.dumps(payload).encode())


BAD = {
    b"{": "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    b"": "Expecting value: line 1 column 1 (char 0)",
    b"{'a': 1}": "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    b"\xef\xbb\xbf{": "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    b'{"a": 1} x': "Extra data: line 1 column 10 (char 9)",
}


@pytest.mark.parametrize("body", BAD)
def test_bad_json_is_400(sdk: str, body: bytes, shared_agents: Start) -> None:
    answer = call(shared_agents(sdk, "sync").port, "POST", "/invocations", body)
    told = json.dumps({"error": "Invalid JSON", "details": BAD[body]}, separators=(",", ":"))
    assert answer.shape == (400, JSON, told.encode())


def test_bad_encoding_is_400(sdk: str, shared_agents: Start) -> None:
    answer = call(shared_agents(sdk, "sync").port, "POST", "/invocations", b'{"a": "\xff"}')
    assert answer.shape[:2] == (400, JSON)
    told = json.loads(answer.body)
    assert told["error"] == "Invalid encoding" and "can't decode byte 0xff" in told["details"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32", "utf-8-sig"])
def test_json_may_come_in_any_unicode_encoding(sdk: str, encoding: str, shared_agents: Start) -> None:
    body = json.dumps({"é": "🚀"}, ensure_ascii=False).encode(encoding)
    answer = call(shared_agents(sdk, "sync").port, "POST", "/invocations", body)
    assert answer.shape == (200, JSON, '{"é": "🚀"}'.encode())


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_the_content_type_of_a_request_does_not_matter(sdk: str, content_type: str, shared_agents: Start) -> None:
    answer = call(shared_agents(sdk, "sync").port, "POST", "/invocations", b"[1]", Content_Type=content_type)
    assert answer.shape == (200, JSON, b"[1]")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_exception_is_500(sdk: str, kind: str, shared_agents: Start) -> None:
    answer = invoke(shared_agents(sdk, kind).port, {"case": "raise", "text": "brøken"})
    assert answer.shape == (500, JSON, '{"error":"brøken"}'.encode())


def test_no_entrypoint_is_500(sdk: str, shared_agents: Start) -> None:
    answer = invoke(shared_agents(sdk, "none").port, {})
    assert answer.shape == (500, JSON, b'{"error":"No entrypoint defined"}')


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(("status", "detail"), [(404, "no such thing"), (503, {"why": ["busy"]})])
def test_a_starlette_http_exception_keeps_its_status(
    sdk: str, kind: str, status: int, detail: Any, shared_agents: Start
) -> None:
    answer = invoke(shared_agents(sdk, kind).port, {"case": "http_exception", "status": status, "detail": detail})
    assert answer.shape == (status, JSON, json.dumps({"error": detail}, separators=(",", ":")).encode())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_starlette_response_is_passed_through(sdk: str, kind: str, shared_agents: Start) -> None:
    port = shared_agents(sdk, kind).port
    answer = invoke(port, {"case": "response", "form": "json", "status": 418})
    assert answer.shape == (418, JSON, b'{"made":"here"}') and answer.header("x-agent") == "yes"
    answer = invoke(port, {"case": "response", "form": "text", "status": 200})
    assert answer.shape == (200, TEXT, "plain é".encode())
    answer = invoke(port, {"case": "response", "form": "stream"})
    assert answer.shape == (200, "application/x-pieces", b"one two") and answer.chunks == [b"one ", b"two"]
    answer = invoke(port, {"case": "response", "form": "empty", "status": 204})
    assert answer.shape == (204, None, b"")


def test_unusual_functions_are_called_as_they_should(sdk: str, shared_agents: Start) -> None:
    session = {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "s" * 33}
    answer = invoke(shared_agents(sdk, "partial").port, {}, **session)
    assert json.loads(answer.body) == {"extra": "bound", "session": None} | {"session": "s" * 33}
    answer = invoke(shared_agents(sdk, "wrapped").port, {}, **session)
    assert json.loads(answer.body) == {"session": "s" * 33}
    answer = invoke(shared_agents(sdk, "callable").port, {}, **session)
    assert json.loads(answer.body) == {"session": "s" * 33, "thread": "agentcore-worker-loop"}


# Streams


def frames(*values: str) -> list[bytes]:
    return [f"data: {value}\n\n".encode() for value in values]


STREAMED = ["none", "text", "dict", "dataclass", "set", "opaque", "hostile", "bytes"]


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        ("generator", None),
        ("async_generator", None),
        ("sync", "returned_generator"),
        ("sync", "returned_async_generator"),
        ("async", "returned_async_generator"),
    ],
)
def test_a_generator_is_an_event_stream(sdk: str, kind: str, case: str | None, shared_agents: Start) -> None:
    answer = invoke(shared_agents(sdk, kind).port, {"case": case, "names": STREAMED})
    assert answer.status == 200 and answer.header("content-type") == SSE
    assert answer.header("transfer-encoding") == "chunked" and answer.header("content-length") is None
    assert answer.chunks == frames(*(VALUES[name] for name in STREAMED)), "one chunk per event"


@pytest.mark.parametrize("kind", ["generator", "async_generator"])
def test_an_empty_generator_is_an_empty_stream(sdk: str, kind: str, shared_agents: Start) -> None:
    answer = invoke(shared_agents(sdk, kind).port, {})
    assert answer.shape == (200, SSE, b"")


@pytest.mark.parametrize("kind", ["generator", "async_generator"])
def test_an_error_midway_is_the_last_event(sdk: str, kind: str, shared_agents: Start) -> None:
    answer = invoke(shared_agents(sdk, kind).port, {"names": ["text"], "raise": "brøken"})
    told = '{"error": "brøken", "error_type": "ValueError", "message": "An error occurred during streaming"}'
    assert answer.status == 200 and answer.chunks == frames(VALUES["text"], told)


@pytest.mark.parametrize("kind", ["generator", "async_generator"])
def test_an_item_that_is_no_unicode_is_the_last_event(sdk: str, kind: str, shared_agents: Start) -> None:
    answer = invoke(shared_agents(sdk, kind).port, {"names": ["text", "surrogate", "text"]})
    assert answer.chunks[0] == frames(VALUES["text"])[0] and len(answer.chunks) == 2
    assert json.loads(answer.chunks[1][6:])["error_type"] == "UnicodeEncodeError"


# Debug actions


@pytest.mark.parametrize("action", ["ping_status", "job_status", "force_busy", "force_healthy", "clear_forced_status"])
def test_debug_actions_are_payload_without_debug(sdk: str, action: str, shared_agents: Start) -> None:
    payload = {"_agent_core_app_action": action}
    assert json.loads(invoke(shared_agents(sdk, "sync").port, payload).body) == payload


def test_debug_actions(sdk: str, own_agent: Start) -> None:
    port = own_agent(sdk, "debug").port

    def act(action: str) -> tuple[int, Any]:
        answer = invoke(port, {"_agent_core_app_action": action})
        return answer.status, json.loads(answer.body)

    status, said = act("ping_status")
    assert status == 200 and said["status"] == "Healthy" and isinstance(said["time_of_last_update"], int)
    assert act("job_status") == (200, {"active_count": 0, "running_jobs": []})
    assert act("force_busy") == (200, {"forced_status": "HealthyBusy"})
    assert act("ping_status")[1]["status"] == "HealthyBusy"
    assert act("force_healthy") == (200, {"forced_status": "Healthy"})
    invoke(port, {"case": "task"})
    assert act("ping_status")[1]["status"] == "Healthy", "forced wins over tasks"
    assert act("clear_forced_status") == (200, {"forced_status": "Cleared"})
    assert act("ping_status")[1]["status"] == "HealthyBusy"
    jobs = act("job_status")[1]
    assert jobs["active_count"] == 1 and jobs["running_jobs"][0]["name"] == "job"
    assert isinstance(jobs["running_jobs"][0]["duration"], float)
    assert act("nonsense") == (400, {"error": "Unknown action: nonsense"})
    assert invoke(port, {"a": 1}).body == b'{"a": 1}', "a payload without an action reaches the entrypoint"
    answer = invoke(port, [1])
    assert answer.shape == (500, JSON, b"{\"error\":\"'list' object has no attribute 'get'\"}")
