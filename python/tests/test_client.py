"""`agentcore_client.RuntimeClient` against a server whose every byte the test decides."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_runtime import FakeRuntime, Pause, Reset, chunk, sized, streamed

from agentcore_client import (
    AgentCoreError,
    AgentFailedError,
    RuntimeClient,
    TimedOutError,
    TruncatedAnswerError,
    UnreachableError,
)

SESSION = "x-amzn-bedrock-agentcore-runtime-session-id"


@pytest.fixture(params=["unix", "tcp"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeRuntime]:
    server = FakeRuntime(tmp_path / "api.sock" if request.param == "unix" else None)
    yield server
    server.close()


def client(runtime: FakeRuntime, **arguments: Any) -> RuntimeClient:
    return RuntimeClient("my_agent", runtime.endpoint, **{"timeout": 20.0, **arguments})


# What is sent


def test_an_invocation_on_the_wire(runtime: FakeRuntime) -> None:
    runtime.answer(sized(b'{"result": "\xc3\xa9"}'))
    assert client(runtime, session_id="s" * 33).invoke({"prompt": "é"}) == {"result": "é"}
    (sent,) = runtime.requests
    assert (sent.method, sent.target) == ("POST", "/runtimes/my_agent/invocations")
    assert json.loads(sent.body) == {"prompt": "é"}
    assert sent.headers[SESSION] == "s" * 33
    assert (sent.headers["accept"], sent.headers["content-type"]) == ("application/json", "application/json")
    assert "transfer-encoding" not in sent.headers


def test_a_client_keeps_one_session(runtime: FakeRuntime) -> None:
    caller = client(runtime)
    for _ in range(3):
        runtime.answer(sized(b"null"))
        assert caller.invoke(None) is None
    assert {sent.headers[SESSION] for sent in runtime.requests} == {caller.session_id}
    assert uuid.UUID(caller.session_id).version == 4 and client(runtime).session_id != caller.session_id


def test_an_arn_is_one_label_of_the_path(runtime: FakeRuntime) -> None:
    arn = "arn:aws:bedrock-agentcore:us-local-1:000000000000:runtime/echo-0123456789"
    runtime.answer(sized(b"1"))
    RuntimeClient(arn, runtime.endpoint).invoke({})
    escaped = "arn%3Aaws%3Abedrock-agentcore%3Aus-local-1%3A000000000000%3Aruntime%2Fecho-0123456789"
    assert runtime.requests[0].target == f"/runtimes/{escaped}/invocations"


def test_bytes_are_sent_as_they_are(runtime: FakeRuntime) -> None:
    runtime.answer(sized(b"1"))
    client(runtime).invoke(b"\x00raw")
    assert runtime.requests[0].body == b"\x00raw"
    assert runtime.requests[0].headers["content-type"] == "application/octet-stream"


def test_stopping_a_session(runtime: FakeRuntime) -> None:
    runtime.answer(sized(b"{}"))
    caller = client(runtime)
    caller.stop_session()
    (sent,) = runtime.requests
    assert (sent.method, sent.target) == ("POST", "/runtimes/my_agent/stopruntimesession")
    assert sent.headers[SESSION] == caller.session_id and len(json.loads(sent.body)["clientToken"]) >= 33


def test_the_endpoint_comes_from_the_environment(runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTCORE_ENDPOINT", runtime.endpoint)
    runtime.answer(sized(b"1"))
    assert RuntimeClient("my_agent").invoke({}) == 1
    monkeypatch.delenv("AGENTCORE_ENDPOINT")
    assert RuntimeClient("my_agent").endpoint.text == "unix:/run/agentcore/api.sock"


def test_a_prefix_of_the_endpoint_is_kept() -> None:
    server = FakeRuntime()
    server.answer(sized(b"1"))
    RuntimeClient("a", server.endpoint + "/behind/").invoke({})
    assert server.requests[0].target == "/behind/runtimes/a/invocations"
    server.close()


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_not_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    server = FakeRuntime()
    server.answer(sized(b"1"))
    assert RuntimeClient("a", server.endpoint).invoke({}) == 1
    server.close()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name": ""}, "name"),
        ({"name": "a", "session_id": "short"}, "33 to 256 characters are needed, 5 were given"),
        ({"name": "a", "session_id": "s" * 257}, "257 were given"),
        ({"name": "a", "session_id": "s" * 33 + "\r\nX: 1"}, "printable"),
        ({"name": "a", "endpoint": "ftp://x"}, "neither unix:PATH nor http://HOST:PORT"),
        ({"name": "a", "endpoint": "localhost:8080"}, "neither unix:PATH nor http://HOST:PORT"),
        ({"name": "a", "endpoint": "unix:"}, "names no socket"),
    ],
)
def test_bad_arguments_are_told_at_once(arguments: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RuntimeClient(**arguments)  # type: ignore[arg-type]


# What comes back


def test_answers_of_every_kind(runtime: FakeRuntime) -> None:
    caller = client(runtime)
    runtime.answer(streamed("application/json; charset=utf-8"), chunk(b'{"a"'), chunk(b": 1}"), chunk(b""))
    assert caller.invoke({}) == {"a": 1}
    runtime.answer(sized("grün".encode(), "text/plain; charset=utf-8"))
    assert caller.invoke({}) == "grün"
    runtime.answer(sized(b"\x00\xff", "application/octet-stream"))
    assert caller.invoke({}) == b"\x00\xff"
    runtime.answer(streamed(), chunk(b"data: 1\n\ndata: two\n\n"), chunk(b""))
    assert caller.invoke({}) == [{"data": 1}, {"text": "two"}]
    runtime.answer(sized(b"{"))
    with pytest.raises(AgentCoreError, match="not the JSON that it says it is"):
        caller.invoke({})


def test_a_stream_yields_dicts_as_they_come(runtime: FakeRuntime) -> None:
    pauses = [Pause(), Pause()]
    runtime.answer(
        streamed("text/event-stream; charset=utf-8"),
        chunk(b'data: {"text": "one"}\n\n'),
        pauses[0],
        chunk(b'data: "two"\n\ndata: th'),
        pauses[1],
        chunk("ree ü".encode()[:-1]),
        chunk("ü".encode()[-1:] + b"\n\n: comment\nevent: x\nid: 1\ndata: [1]\ndata:,2\n\ndata: null\n\n"),
        chunk(b""),
    )
    stream = client(runtime).invoke_stream({"prompt": "x"})
    assert next(stream) == {"text": "one"}, "before the server goes on"
    pauses[0].event.set()
    assert next(stream) == {"text": "two"}
    pauses[1].event.set()
    assert list(stream) == [{"text": "three ü"}, {"text": "[1]\n,2"}, {"data": None}]
    assert "text/event-stream" in runtime.requests[0].headers["accept"]


def test_a_stream_of_an_agent_that_does_not_stream(runtime: FakeRuntime) -> None:
    caller = client(runtime)
    for body, events in [(b'{"a": 1}', [{"a": 1}]), (b'"t"', [{"text": "t"}]), (b"[1]", [{"data": [1]}])]:
        runtime.answer(sized(body))
        assert list(caller.invoke_stream({})) == events
    runtime.answer(streamed("text/plain"), chunk("ü".encode()[:1]), chunk("ü".encode()[1:]), chunk(b""))
    assert list(caller.invoke_stream({})) == [{"text": "ü"}]
    runtime.answer(sized(b"\x00", "application/octet-stream"))
    assert list(caller.invoke_stream({})) == [{"data": b"\x00"}]


@pytest.mark.parametrize("how", ["close", "with", "drop"])
def test_leaving_a_stream_hangs_up(how: str, runtime: FakeRuntime) -> None:
    pause = Pause()
    runtime.answer(streamed(), chunk(b"data: 1\n\n"), pause, chunk(b"data: 2\n\n"), chunk(b""))
    with client(runtime) as caller:
        stream = caller.invoke_stream({})
        assert next(stream) == {"data": 1}
        if how == "close":
            stream.close()  # type: ignore[attr-defined]
        elif how == "drop":
            del stream
    pause.event.set()
    assert runtime.hung_up.wait(20)


# What goes wrong

WHOLE = b'{"complete": true}'
CUT: dict[str, tuple[bytes | Reset, ...]] = {
    "no answer": (),
    "reset at once": (Reset(),),
    "cut head": (b"HTTP/1.1 200 OK\r\nContent-Ty",),
    "cut sized body": (sized(WHOLE + b" ")[:-1],),
    "no sized body": (sized(WHOLE)[: -len(WHOLE)],),
    "reset in sized body": (sized(WHOLE + b" ")[:-1], Reset()),
    "no last chunk": (streamed("application/json"), chunk(WHOLE)),
    "cut chunk": (streamed("application/json"), chunk(WHOLE)[:-10]),
    "cut after a chunk": (streamed("application/json"), chunk(WHOLE)[:-2]),
    "cut chunk size": (streamed("application/json"), chunk(WHOLE), b"5"),
    "garbage for a chunk size": (streamed("application/json"), chunk(WHOLE), b"zz\r\n"),
    "reset between chunks": (streamed("application/json"), chunk(WHOLE), Reset()),
    "neither length nor chunks": (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + WHOLE,),
    "cut event stream": (streamed(), chunk(b'data: {"a": 1}\n\n')),
}


@pytest.mark.parametrize("case", CUT)
def test_a_truncated_answer_never_looks_complete(case: str, runtime: FakeRuntime) -> None:
    runtime.answer(*CUT[case])
    with pytest.raises(TruncatedAnswerError):
        client(runtime).invoke({})
    runtime.answer(*CUT[case])
    with pytest.raises(TruncatedAnswerError):
        list(client(runtime).invoke_stream({}))
    assert len(runtime.requests) == 2, "nothing is retried"


def test_what_came_before_a_cut_is_yielded(runtime: FakeRuntime) -> None:
    runtime.answer(streamed(), chunk(b"data: 1\n\ndata: 2"))
    stream = client(runtime).invoke_stream({})
    assert next(stream) == {"data": 1}
    with pytest.raises(TruncatedAnswerError, match="broke off"):
        next(stream)


def test_an_aws_shaped_error(runtime: FakeRuntime) -> None:
    body = (
        b'{"message": "no runtime nope", "reason": "x", "fieldList": [{"name": "agentRuntimeArn", "message": "bad"}]}'
    )
    runtime.answer(
        sized(
            body, status="404 Not Found", x_amzn_ErrorType="ResourceNotFoundException:http://x", x_amzn_RequestId="r-1"
        )
    )
    with pytest.raises(AgentCoreError) as caught:
        client(runtime).invoke({})
    error = caught.value
    assert type(error) is AgentCoreError
    assert (error.status, error.error, error.request_id) == (404, "ResourceNotFoundException", "r-1")
    assert error.message == "no runtime nope" and error.fields == [{"name": "agentRuntimeArn", "message": "bad"}]
    assert str(error) == "no runtime nope (404, ResourceNotFoundException, request r-1)"


def test_a_problem_of_rfc_9457(runtime: FakeRuntime) -> None:
    body = json.dumps({"title": "Conflict", "detail": "no.", "code": "ConflictException", "requestId": "r-2"})
    runtime.answer(sized(body.encode(), "application/problem+json", "409 Conflict"))
    with pytest.raises(AgentCoreError) as caught:
        client(runtime).stop_session()
    assert (caught.value.error, caught.value.request_id, caught.value.message) == ("ConflictException", "r-2", "no.")


def test_an_agents_own_failure(runtime: FakeRuntime) -> None:
    told = {
        "message": "Received error (500) from runtime.",
        "agentStatus": 500,
        "agentBody": '{"error":"broken"}',
        "agentLog": ["Traceback", "ValueError: broken"],
    }
    failed = sized(json.dumps(told).encode(), status="424 Failed Dependency", x_amzn_ErrorType="RuntimeClientError")
    for method in ("invoke", "invoke_stream"):
        runtime.answer(failed)
        with pytest.raises(AgentFailedError) as caught:
            getattr(client(runtime), method)({})
        error = caught.value
        assert (error.status, error.error) == (424, "RuntimeClientError")
        assert (error.agent_status, error.agent_body) == (500, '{"error":"broken"}')
        assert error.agent_log == ["Traceback", "ValueError: broken"]


def test_an_error_without_a_readable_body(runtime: FakeRuntime) -> None:
    for body, message in [(b"", "HTTP 502"), (b"<html>bad</html>", "<html>bad</html>"), (b"[1]", "[1]")]:
        runtime.answer(sized(body, "text/html", "502 Bad Gateway"))
        with pytest.raises(AgentCoreError) as caught:
            client(runtime).invoke({})
        assert (caught.value.status, caught.value.error, caught.value.message) == (502, None, message)


@pytest.mark.parametrize(("header", "seconds"), [("x-amz-retry-after", 1.5), ("Retry-After", 1500)])
def test_when_to_try_again(header: str, seconds: float, runtime: FakeRuntime) -> None:
    runtime.answer(sized(b"{}", status="429 Too Many Requests", **{header: "1500"}))
    with pytest.raises(AgentCoreError) as caught:
        client(runtime).invoke({})
    assert caught.value.retry_after == seconds


def test_silence_times_out(runtime: FakeRuntime) -> None:
    pauses = [Pause(), Pause()]
    runtime.answer(pauses[0])
    with pytest.raises(TimedOutError, match=r"sent nothing for 0\.2 s"):
        client(runtime, timeout=0.2).invoke({})
    runtime.answer(streamed(), chunk(b"data: 1\n\n"), pauses[1])
    stream = client(runtime, timeout=0.2).invoke_stream({})
    assert next(stream) == {"data": 1}
    with pytest.raises(TimedOutError):
        next(stream)
    for pause in pauses:
        pause.event.set()


@pytest.mark.parametrize("endpoint", ["unix:/nonexistent/api.sock", "http://127.0.0.1:1"])
def test_nobody_there(endpoint: str) -> None:
    with pytest.raises(UnreachableError, match="is agentcored running"):
        RuntimeClient("a", endpoint).invoke({})


def test_a_refusal_before_the_body_is_sent_is_heard(tmp_path: Path) -> None:
    """The daemon may answer 413 and close while the client still sends."""
    import socket

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()

    def refuse() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(sized(b'{"message": "too large"}', status="413 Content Too Large"))
            connection.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=refuse, daemon=True).start()
    with pytest.raises(AgentCoreError) as caught:
        RuntimeClient("a", f"unix:{tmp_path / 's'}", timeout=20).invoke(b"x" * 50_000_000)
    assert (caught.value.status, caught.value.message) == (413, "too large")
    listener.close()


def test_large_answers_and_payloads(runtime: FakeRuntime) -> None:
    large = b'"' + b"x" * 20_000_000 + b'"'
    runtime.answer(sized(large))
    assert client(runtime).invoke(json.loads(large)) == json.loads(large)
    assert runtime.requests[0].body == large
