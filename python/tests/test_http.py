"""Routes and HTTP/1.1 itself, under both SDKs where they agree, and the built-in server's own bounds."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from conftest import SOURCE, Start
from http_probe import Probe, RawAnswer, call, invoke, request

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


def test_each_sdk_is_the_one_that_it_is_said_to_be(sdk: str, shared_agents: Start) -> None:
    loaded = Path(json.loads(invoke(shared_agents(sdk, "sync").port, {"case": "sdk"}).body))
    assert loaded.is_relative_to(SOURCE) == (sdk == "builtin")


@pytest.mark.parametrize("path", ["/", "/nothing", "/invocations/more", "/pingu", "/ws", "//ping", "/PING"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_404(sdk: str, method: str, path: str, shared_agents: Start) -> None:
    answer = call(shared_agents(sdk, "sync").port, method, path, b"" if method == "POST" else None)
    assert answer.shape == (404, TEXT, b"Not Found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/invocations", {"POST"}),
        ("PUT", "/invocations", {"POST"}),
        ("DELETE", "/invocations", {"POST"}),
        ("OPTIONS", "/invocations", {"POST"}),
        ("POST", "/ping", {"GET", "HEAD"}),
        ("OPTIONS", "/ping", {"GET", "HEAD"}),
    ],
)
def test_a_wrong_method_is_405(sdk: str, method: str, path: str, allow: set[str], shared_agents: Start) -> None:
    answer = call(shared_agents(sdk, "sync").port, method, path, b"{}")
    assert answer.shape == (405, TEXT, b"Method Not Allowed")
    assert set((answer.header("allow") or "").split(", ")) == allow


@pytest.mark.parametrize(("method", "path"), [("GET", "/ping/"), ("POST", "/invocations/"), ("GET", "/ping/?a=1")])
def test_a_trailing_slash_is_redirected(sdk: str, method: str, path: str, shared_agents: Start) -> None:
    answer = call(shared_agents(sdk, "sync").port, method, path, b"{}" if method == "POST" else None)
    assert answer.status == 307 and answer.body == b""
    assert answer.header("location") == "http://agent" + path.replace("/?", "?").rstrip("/")


def test_head_of_ping_has_no_body(sdk: str, shared_agents: Start) -> None:
    with Probe(shared_agents(sdk, "sync").port) as probe:
        probe.send(request("HEAD", "/ping") + request("GET", "/ping"))
        head, full = probe.answer("HEAD"), probe.answer()
    assert head.status == full.status == 200
    assert head.header("content-length") == str(len(full.body)) and full.body


def test_paths_are_decoded_and_queries_ignored(sdk: str, shared_agents: Start) -> None:
    port = shared_agents(sdk, "sync").port
    assert call(port, "POST", "/%69nvocations?x=/ping", b"[1]").body == b"[1]"


def test_a_connection_serves_many_requests(sdk: str, shared_agents: Start) -> None:
    with Probe(shared_agents(sdk, "sync").port) as probe:
        for number in range(5):
            probe.send(request("POST", "/invocations", str(number).encode()))
            assert probe.answer().body == str(number).encode()
        probe.send(request("GET", "/nothing", b"a body that nobody reads"))
        assert probe.answer().status == 404
        probe.send(request("POST", "/invocations", b'"after"'))
        assert probe.answer().body == b'"after"'


def test_requests_may_come_ahead_of_answers(sdk: str, shared_agents: Start) -> None:
    with Probe(shared_agents(sdk, "sync").port) as probe:
        probe.send(b"".join(request("POST", "/invocations", str(number).encode()) for number in range(20)))
        assert [probe.answer().body for _ in range(20)] == [str(number).encode() for number in range(20)]


def test_a_stream_leaves_the_connection_usable(sdk: str, shared_agents: Start) -> None:
    for kind in ("generator", "async_generator"):
        with Probe(shared_agents(sdk, kind).port) as probe:
            # The second comes while the first is still streaming.
            probe.send(request("POST", "/invocations", b'{"names": ["none"]}') * 2)
            assert probe.answer().chunks == [b"data: null\n\n"]
            assert probe.answer().chunks == [b"data: null\n\n"]


def test_connection_close_is_kept(sdk: str, shared_agents: Start) -> None:
    with Probe(shared_agents(sdk, "sync").port) as probe:
        probe.send(request("GET", "/ping", headers={"Connection": "close"}))
        answer = probe.answer()
        assert answer.status == 200 and answer.header("connection") == "close" and probe.at_end()


def test_http_1_0_gets_an_answer_without_chunks(sdk: str, shared_agents: Start) -> None:
    with Probe(shared_agents(sdk, "generator").port) as probe:
        body = b'{"names": ["none"]}'
        probe.send(b"POST /invocations HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        answer = probe.answer()
        assert answer.header("transfer-encoding") is None and answer.body == b"data: null\n\n"


def chunked(*pieces: bytes, trailer: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n" + trailer + b"\r\n"


def test_a_request_may_be_chunked(sdk: str, shared_agents: Start) -> None:
    with Probe(shared_agents(sdk, "sync").port) as probe:
        head = request("POST", "/invocations", headers={"Transfer-Encoding": "chunked"})
        probe.send(head + chunked(b'{"a"', b": ", b"1}") + head + b"3;ext=1\r\n[1,\r\n2\r\n2]\r\n0\r\nX-T: 1\r\n\r\n")
        assert probe.answer().body == b'{"a": 1}'
        assert probe.answer().body == b"[1, 2]"
        for byte in head + chunked(b"[", b"3]"):
            probe.send(bytes([byte]))
        assert probe.answer().body == b"[3]"


def test_a_client_that_expects_100_is_told_to_continue(sdk: str, shared_agents: Start) -> None:
    with Probe(shared_agents(sdk, "sync").port) as probe:
        probe.send(request("POST", "/invocations", headers={"Expect": "100-continue", "Content-Length": "3"}))
        assert probe.head().status == 100
        probe.send(b"[1]")
        assert probe.answer().body == b"[1]"


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a\r\nBad Header: 1\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n",
        b"GET /ping HTTP/1.1\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n11",
        b"POST /invocations HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n",
    ],
)
def test_what_is_no_http_is_400_and_closes(sdk: str, data: bytes, shared_agents: Start) -> None:
    with Probe(shared_agents(sdk, "sync").port) as probe:
        probe.send(data)
        answer = probe.answer()
        assert (answer.status, answer.header("connection")) == (400, "close")
        assert probe.at_end()


@pytest.mark.parametrize(
    "data",
    [
        b"GET /ping HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET  /ping HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a\r\n folded: 1\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a\r\nX: 1\nY: 2\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n11",
        b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\n1",
        b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n1",
        b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n1\r\n0\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n12\r\n0\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    ],
)
def test_ambiguous_framing_is_400_and_closes(data: bytes, shared_agents: Start) -> None:
    with Probe(shared_agents("builtin", "sync").port) as probe:
        probe.send(data)
        answer = probe.answer()
        assert answer.shape == (400, TEXT, b"Invalid HTTP request received.")
        assert answer.header("connection") == "close" and probe.at_end()


def test_a_head_is_bounded(shared_agents: Start) -> None:
    port = shared_agents("builtin", "sync").port
    large = {f"X-{n}": "v" * 4000 for n in range(20)} | {"Baggage": "b" * 8192}
    with Probe(port) as probe:
        probe.send(request("GET", "/ping", headers=large))
        assert probe.answer().status == 200, "all that a runtime may forward fits"
    for headers in ({"X": "v" * 200_000}, {f"X-{n}": "v" for n in range(300)}):
        with Probe(port) as probe:
            probe.send(request("GET", "/ping", headers=headers))
            assert probe.answer().shape == (431, TEXT, b"Request header fields too large")
            assert probe.at_end()


@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_100_mb_pass_and_more_is_413(framing: str, own_agent: Start) -> None:
    port = own_agent("builtin", "payload_only").port
    opening, end = b'{"case": "length", "data": "', b'"}'

    def send(total: int) -> RawAnswer:
        with Probe(port) as probe:
            piece = b"x" * 1_000_000
            parts = [opening, *[piece] * 99]
            parts += [b"x" * (total - sum(map(len, parts)) - len(end)), end]
            if framing == "sized":
                head = request("POST", "/invocations", headers={"Content-Length": str(total)})
            else:
                head = request("POST", "/invocations", headers={"Transfer-Encoding": "chunked"})

            def write() -> None:
                try:
                    probe.send(head)
                    for part in parts:
                        probe.send(part if framing == "sized" else b"%x\r\n%b\r\n" % (len(part), part))
                    if framing == "chunked":
                        probe.send(b"0\r\n\r\n")
                except OSError:
                    pass  # refused before its end

            writing = threading.Thread(target=write)
            writing.start()
            answer = probe.answer()
            writing.join(20)
            return answer

    largest = send(100_000_000)
    assert largest.shape == (200, JSON, str(100_000_000 - len(opening) - len(end)).encode())
    assert send(100_000_001).shape == (413, TEXT, b"Request body exceeds 100000000 bytes")
    assert call(port, "GET", "/ping").status == 200


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"n": ' + b"1" * 5000 + b"}"])
def test_json_that_python_cannot_hold_is_the_callers_fault(body: bytes, shared_agents: Start) -> None:
    """The AWS SDK answers 500 here: not a case to copy."""
    answer = call(shared_agents("builtin", "sync").port, "POST", "/invocations", body)
    assert answer.status == 400 and json.loads(answer.body)["error"] == "Invalid JSON"


def test_a_head_and_a_small_body_leave_in_one_segment(shared_agents: Start) -> None:
    with Probe(shared_agents("builtin", "sync").port) as probe:
        for _ in range(50):
            probe.send(request("POST", "/invocations", b'{"a": 1}'))
            segment = probe.sock.recv(65536)
            assert segment.endswith(b'\r\n\r\n{"a": 1}')
