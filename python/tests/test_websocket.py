"""`/ws` under both SDKs, spoken to by an independent implementation (the `websockets` package)."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from conftest import Agent, Start, wait_until
from http_probe import Probe, call
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect


def open_socket(agent: Agent, how: str = "echo", **headers: str) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{agent.port}/ws?how={how}", additional_headers=headers, max_size=None)


def state(agent: Agent) -> Path:
    return agent.log.with_suffix(".state")


def test_messages_go_both_ways(sdk: str, own_agent: Start) -> None:
    agent = own_agent(sdk, "websocket")
    with open_socket(agent) as socket:
        messages: list[Any] = ["text é", b"\x00\xff", "", b"", "x" * 200, "y" * 70_000, os.urandom(1_000_000)]
        for message in messages:
            socket.send(message)
            assert socket.recv(20) == message
        socket.send(["in ", "pieces"])
        assert socket.recv(20) == "in pieces"
        assert socket.ping().wait(20), "a ping is answered"
    wait_until(state(agent).exists, "the handler is told")
    assert state(agent).read_text() == "disconnected 1000"


def test_iterating_ends_with_the_connection(sdk: str, own_agent: Start) -> None:
    agent = own_agent(sdk, "websocket")
    with open_socket(agent, "text") as socket:
        socket.send("abc")
        assert socket.recv(20) == "ABC"
    wait_until(state(agent).exists, "the handler ends")
    assert state(agent).read_text() == "iterated to the end"


def test_the_handler_knows_its_request(sdk: str, shared_agents: Start) -> None:
    session = {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "s" * 33}
    with open_socket(shared_agents(sdk, "websocket"), "facts", **session) as socket:
        facts = json.loads(socket.recv(20))
    assert facts["session_id"] == "s" * 33 == facts["context"][0]
    assert facts["path"] == "/ws" and facts["query"] == {"how": "facts"} and facts["request_id"]


@pytest.mark.parametrize(("how", "code", "reason"), [("raise", 1011, ""), ("close", 4001, "enough")])
def test_the_close_code(sdk: str, how: str, code: int, reason: str, shared_agents: Start) -> None:
    with open_socket(shared_agents(sdk, "websocket"), how) as socket, pytest.raises(ConnectionClosed) as closed:
        socket.recv(20)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, reason)


@pytest.mark.parametrize(("kind", "how"), [("websocket", "refuse"), ("websocket", "raise_before"), ("sync", "echo")])
def test_a_close_before_accept_refuses_the_handshake(sdk: str, kind: str, how: str, shared_agents: Start) -> None:
    with pytest.raises(InvalidStatus) as refused, open_socket(shared_agents(sdk, kind), how):
        pass
    assert refused.value.response.status_code == 403


def test_a_handler_that_returns_closes(shared_agents: Start) -> None:
    agent = shared_agents("builtin", "websocket")
    with open_socket(agent, "return") as socket, pytest.raises(ConnectionClosed) as closed:
        socket.recv(20)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1000


def test_a_lost_connection_is_told(sdk: str, own_agent: Start) -> None:
    agent = own_agent(sdk, "websocket")
    with open_socket(agent) as socket:
        socket.send("a")
        assert socket.recv(20) == "a"
        socket.socket.shutdown(2)
        wait_until(lambda: state(agent).exists() and bool(state(agent).read_text()), "the handler is told")
    # RFC 6455 §7.1.5 says 1006; which of the two uvicorn says depends on its WebSocket implementation.
    assert state(agent).read_text() in ("disconnected 1006", *(["disconnected 1005"] if sdk == "aws" else []))


def handshake(probe: Probe) -> None:
    probe.send(
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    head = probe.head()
    assert head.status == 101
    # RFC 6455 §1.3 gives this key's answer.
    assert head.header("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def masked(first: int, data: bytes, length: int | None = None) -> bytes:
    return struct.pack("!BBI", first, 0x80 | (len(data) if length is None else length), 0) + data


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x01a", 1002),  # no mask
        (masked(0xC1, b"a"), 1002),  # a reserved bit
        (masked(0x83, b"a"), 1002),  # a reserved opcode
        (masked(0x80, b"a"), 1002),  # a continuation of nothing
        (masked(0x09, b"a"), 1002),  # a fragmented ping
        (masked(0x01, b"a") + masked(0x81, b"b"), 1002),  # a message inside a message
        (masked(0x88, b"a"), 1002),  # half a close code
        (masked(0x81, b"\xff"), 1007),
        (struct.pack("!BBQI", 0x82, 0x80 | 127, 1 << 40, 0), 1009),
    ],
)
def test_broken_frames_close_with_the_right_code(sdk: str, frame: bytes, code: int, own_agent: Start) -> None:
    with Probe(own_agent(sdk, "websocket").port) as probe:
        handshake(probe)
        probe.send(frame)
        first, second, got = struct.unpack("!BBH", probe._exactly(4))
        assert first == 0x88 and second & 0x7F >= 2 and got == code


def test_a_plain_get_of_ws_is_no_handshake(sdk: str, shared_agents: Start) -> None:
    assert call(shared_agents(sdk, "websocket").port, "GET", "/ws").status == 404


def test_websockets_are_told_when_the_agent_ends(sdk: str, own_agent: Start) -> None:
    agent = own_agent(sdk, "websocket")
    with open_socket(agent) as socket:
        socket.send("a")
        assert socket.recv(20) == "a"
        agent.process.terminate()
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(20)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
    assert agent.process.wait(20) == -15
