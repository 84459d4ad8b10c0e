"""Tasks of `agentcore_client.RuntimeClient`, against a server whose every byte the test decides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_runtime import FakeRuntime, Pause, Reset, chunk, sized, streamed

from agentcore_client import AgentCoreError, RuntimeClient, TimedOutError

TASK = "t0123456789abcdefghijklmno"
SESSION = "x-amzn-bedrock-agentcore-runtime-session-id"


@pytest.fixture(params=["unix", "tcp"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeRuntime]:
    server = FakeRuntime(tmp_path / "api.sock" if request.param == "unix" else None)
    yield server
    server.close()


def client(runtime: FakeRuntime, name: str = "my_agent") -> RuntimeClient:
    return RuntimeClient(name, runtime.endpoint, timeout=20.0)


def task(status: str, http: str = "200 OK") -> bytes:
    return sized(json.dumps({"taskId": TASK, "status": status}).encode(), status=http)


def event(number: int, kind: str, **facts: Any) -> bytes:
    data = json.dumps({"id": number, "type": kind, **facts})
    return chunk(f"id: {number}\nevent: {kind}\ndata: {data}\n\n".encode())


def test_the_programs_of_the_description_run(runtime: FakeRuntime) -> None:
    caller = client(runtime)
    runtime.answer(task("QUEUED", "202 Accepted"))
    response = caller.invoke_async({"prompt": "é"})
    task_id = response["taskId"]
    runtime.answer(task("RUNNING"))
    assert caller.get_task_status(task_id)["status"] == "RUNNING"
    runtime.answer(task("CANCELLED", "202 Accepted"))
    assert caller.cancel_task(task_id)["status"] == "CANCELLED"
    submitted, asked, cancelled = runtime.requests
    assert (submitted.method, submitted.target) == ("POST", "/v1/runtimes/my_agent/tasks")
    assert json.loads(submitted.body) == {"prompt": "é"}
    assert submitted.headers["content-type"] == "application/json"
    assert submitted.headers[SESSION] == caller.session_id and "idempotency-key" not in submitted.headers
    assert (asked.method, asked.target) == ("GET", f"/v1/tasks/{TASK}")
    assert (cancelled.method, cancelled.target) == ("POST", f"/v1/tasks/{TASK}/cancel")


def test_every_wish_is_sent(runtime: FakeRuntime) -> None:
    runtime.answer(task("QUEUED", "202 Accepted"))
    arn = "arn:aws:bedrock-agentcore:us-local-1:000000000000:runtime/my_agent-AbCdEf1234"
    client(runtime, arn).invoke_async(
        b"\0raw",
        deadline="2h",
        callback="https://hooks.test/done?of=me",
        retries=2,
        backoff=1.5,
        idempotency_key="order-7",
        session_id="s" * 33,
    )
    (sent,) = runtime.requests
    assert sent.target == (
        "/v1/runtimes/my_agent/tasks?deadline=2h&callback=https%3A%2F%2Fhooks.test%2Fdone%3Fof%3Dme&retries=2&backoff=1.5"
    )
    assert (sent.headers["idempotency-key"], sent.headers[SESSION]) == ("order-7", "s" * 33)
    assert (sent.headers["content-type"], sent.body) == ("application/octet-stream", b"\0raw")


def test_waiting_follows_the_events_to_the_outcome(runtime: FakeRuntime) -> None:
    heard: list[dict[str, Any]] = []
    runtime.answer(
        streamed(),
        event(1, "status", status="RUNNING"),
        chunk(b": still here\n\n"),
        event(2, "progress", progress={"fraction": 0.5}),
        event(3, "status", status="FAILED"),
        chunk(b""),
    )
    runtime.answer(task("FAILED"))
    assert client(runtime).wait_task(TASK, on_progress=heard.append)["status"] == "FAILED"
    assert heard == [{"fraction": 0.5}]
    assert [sent.target for sent in runtime.requests] == [f"/v1/tasks/{TASK}/events", f"/v1/tasks/{TASK}"]


def test_waiting_goes_on_where_it_was_when_the_daemon_went_away(runtime: FakeRuntime) -> None:
    heard: list[dict[str, Any]] = []
    # Killed in the middle of a stream; starting again; stopping in order; and the end.
    runtime.answer(streamed(), event(4, "progress", progress={"fraction": 0.1}), Reset())
    runtime.answer(sized(b"{}", status="503 Service Unavailable"))
    runtime.answer(streamed(), event(5, "progress", progress={"fraction": 0.2}), chunk(b""))
    runtime.answer(task("RUNNING"))
    runtime.answer(streamed(), event(6, "status", status="SUCCEEDED"), chunk(b""))
    runtime.answer(task("SUCCEEDED"))
    assert client(runtime).wait_task(TASK, timeout=60, on_progress=heard.append)["status"] == "SUCCEEDED"
    assert heard == [{"fraction": 0.1}, {"fraction": 0.2}]
    streams = [sent for sent in runtime.requests if sent.target.endswith("/events")]
    assert [sent.headers.get("last-event-id") for sent in streams] == [None, "4", "4", "5"]


def test_waiting_has_an_end(runtime: FakeRuntime) -> None:
    silent = Pause()
    runtime.answer(streamed(), event(1, "status", status="RUNNING"), silent)
    with pytest.raises(TimedOutError, match="it goes on"):
        client(runtime).wait_task(TASK, timeout=0.3)
    silent.event.set()


def test_what_is_not_there_is_an_error_at_once(runtime: FakeRuntime) -> None:
    problem = sized(b'{"detail": "no such task"}', "application/problem+json", "404 Not Found")
    for call in (RuntimeClient.wait_task, RuntimeClient.get_task_status, RuntimeClient.get_task_result):
        runtime.answer(problem)
        with pytest.raises(AgentCoreError, match="no such task") as caught:
            call(client(runtime), TASK)
        assert caught.value.status == 404
    with pytest.raises(ValueError, match="task_id"):
        client(runtime).get_task_status("")


def test_a_result_is_what_invoke_would_have_returned(runtime: FakeRuntime) -> None:
    runtime.answer(sized(b'{"result": 1}'))
    assert client(runtime).get_task_result(TASK) == {"result": 1}
    runtime.answer(streamed(), chunk(b'id: 9\ndata: {"text": "a"}\n\n'), chunk(b"data: b\n\n"), chunk(b""))
    assert client(runtime).get_task_result(TASK) == [{"text": "a"}, {"text": "b"}]
    assert runtime.requests[0].target == f"/v1/tasks/{TASK}/result"
