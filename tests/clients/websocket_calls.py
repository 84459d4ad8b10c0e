"""WebSockets by the `websockets` client, unmodified: websocket_calls.py HOST:PORT ARN NAME. Fails by an assertion.

NAME is the plain name of the runtime of ARN, whose agent is tests/agents/websocket. The daemon's bounds are the contract's.
"""

import base64
import contextlib
import json
import sys
import time
import urllib.parse
import urllib.request
import uuid

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

host, arn, name = sys.argv[1:]
SESSION = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
CUSTOM = "X-Amzn-Bedrock-AgentCore-Runtime-Custom-"
base = f"ws://{host}/runtimes/{urllib.parse.quote(arn, safe='')}/ws"


def opened(session=None, query="", url=base, **more):
    headers = {SESSION: session} if session else {}
    headers.update(more.pop("headers", {}))
    return connect(url + query, additional_headers=headers, max_size=None, close_timeout=5, **more)


def state(session):
    """What the session's agent knows of its sockets."""
    request = urllib.request.Request(
        f"http://{host}/runtimes/{name}/invocations", b"{}", {SESSION: session, "content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def until(what, condition):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < 10, f"waited in vain for {what}"
        time.sleep(0.02)


def closed(socket):
    """How the other side ends it."""
    try:
        while True:
            socket.recv(timeout=20)
    except ConnectionClosed as error:
        assert error.rcvd is not None, "closed without a close frame"
        return error.rcvd.code, error.rcvd.reason


def frames_of_every_kind():
    session = str(uuid.uuid4())
    with opened(session) as socket:
        assert socket.response.headers[SESSION] == session
        assert "Sec-WebSocket-Extensions" not in socket.response.headers
        for message in ("hello", "ü🙂" * 1000, "", b"", bytes(range(256)), bytes(65_536)):
            socket.send(message)
            assert socket.recv(timeout=20) == message
        # Pieces, with a ping between them.
        socket.send(part for part in ("one ", "two ", "three"))
        assert socket.recv(timeout=20) == "one two three"
        assert socket.ping().wait(timeout=20), "the agent answers pings"
        assert state(session)["open"] == 1
        socket.send("headers")
        assert json.loads(socket.recv(timeout=20))["session"] == session
    until("the agent's end", lambda: state(session)["open"] == 0)
    assert state(session)["codes"] == [1000]


def headers_and_parameters():
    session = str(uuid.uuid4())
    query = f"?qualifier=DEFAULT&{SESSION.lower()}={session}&{CUSTOM}Colour=deep%20blue&{CUSTOM.upper()}SHAPE=round"
    headers = {f"{CUSTOM}Colour": "red", "X-Secret": "stays here", "Cookie": "a=b"}
    for given, colour in (({}, "deep blue"), (headers, "red")):
        with opened(query=query, headers=given) as socket:
            assert socket.response.headers[SESSION] == session
            socket.send("headers")
            said = json.loads(socket.recv(timeout=20))
            seen = said["headers"]
            assert said["session"] == session
            assert seen[f"{CUSTOM}Colour".lower()] == colour, seen
            assert seen[f"{CUSTOM}Shape".lower()] == "round", seen
            assert "x-secret" not in seen and "cookie" not in seen, seen
    # Without an id there is a new one.
    with opened() as one, opened() as other:
        ids = {socket.response.headers[SESSION] for socket in (one, other)}
        assert len(ids) == 2 and all(len(id) >= 33 for id in ids), ids


def one_session_many_sockets():
    session = str(uuid.uuid4())
    with contextlib.ExitStack() as all:
        sockets = [all.enter_context(opened(session)) for _ in range(5)]
        assert state(session)["open"] == 5
        for n, socket in enumerate(sockets):
            socket.send(str(n))
        assert [socket.recv(timeout=20) for socket in sockets] == list("01234")
    until("the agent's end", lambda: state(session)["open"] == 0)


def a_bearer_in_a_subprotocol():
    token = base64.urlsafe_b64encode(b"a.b.c").decode().rstrip("=")
    offered = [f"base64UrlBearerAuthorization.{token}", "base64UrlBearerAuthorization"]
    with opened(str(uuid.uuid4()), subprotocols=offered) as socket:
        assert socket.subprotocol == "base64UrlBearerAuthorization"
        socket.send("headers")
        assert token not in socket.recv(timeout=20), "the token stays here"


def closes_of_both_sides():
    session = str(uuid.uuid4())
    with opened(session) as socket:
        socket.send("close 4321 enough")
        assert closed(socket) == (4321, "enough")
    with opened(session) as socket:
        socket.close(3456, "bye")
    until("the agent's end", lambda: 3456 in state(session)["codes"])
    # Gone without a word, and in the middle of a frame.
    for unfinished in (b"", b"\x82\xfe\x10\x00\x00\x00\x00\x00half"):
        with opened(session) as socket:
            until("the socket", lambda: state(session)["open"] == 1)
            socket.socket.sendall(unfinished)
            # Both ways at once, and no close frame: the library's own thread finds its socket at an end.
            socket.socket.shutdown(2)
        until("the agent's end", lambda: state(session)["open"] == 0)


def bounds():
    session = str(uuid.uuid4())
    with opened(session) as socket:
        socket.send(bytes(65_537))
        code, reason = closed(socket)
        assert code == 1009 and "65537" in reason and "limits.websocket_frame" in reason, (code, reason)
    until("the agent is told", lambda: 1009 in state(session)["codes"])
    with opened(session) as socket:
        socket.send("send 65537")
        code, reason = closed(socket)
        assert code == 1009 and "agent" in reason, (code, reason)
    # 250 frames in a second, and as many at once.
    with opened(session) as socket:
        for n in range(200):
            socket.send(str(n))
        assert [socket.recv(timeout=20) for _ in range(200)] == [str(n) for n in range(200)]
    with opened(session) as socket:
        try:
            for n in range(2000):
                socket.send("x")
        except ConnectionClosed:
            pass
        code, reason = closed(socket)
        assert code == 1008 and "limits.websocket_frame_rate" in reason, (code, reason)
    # An agent's are slowed, and all of them come.
    with opened(session) as socket:
        began = time.monotonic()
        socket.send("flood 500")
        assert [socket.recv(timeout=20) for _ in range(500)] == [str(n) for n in range(500)]
        assert time.monotonic() - began > 0.9
    with opened(session) as socket:
        socket.socket.sendall(b"\xc1\x80\x00\x00\x00\x00")
        code, reason = closed(socket)
        assert code == 1002 and "reserved" in reason, (code, reason)
    until("the agent's ends", lambda: state(session)["open"] == 0)


def refusals():
    def refused(url, status, kind, **more):
        try:
            opened(url=url, **more)
        except InvalidStatus as error:
            response = error.response
            assert response.status_code == status, response
            assert response.headers["x-amzn-ErrorType"] == kind, response.headers
            return json.loads(response.body)
        raise AssertionError(f"{url} opens")

    said = refused(f"ws://{host}/runtimes/none/ws", 404, "ResourceNotFoundException")
    assert "none" in said["message"], said
    said = refused(base, 400, "ValidationException", session="short")
    assert said["fieldList"][0]["name"] == "runtimeSessionId", said
    said = refused(base + f"?{CUSTOM}a=%0a", 400, "ValidationException")
    assert said["fieldList"][0]["name"].endswith("custom-a"), said
    said = refused(base + "?qualifier=other", 404, "ResourceNotFoundException")


def an_agent_that_dies():
    session = str(uuid.uuid4())
    with opened(session) as socket:
        socket.send("die")
        code, reason = closed(socket)
        assert code == 1011 and "exit status 3" in reason, (code, reason)


for check in (
    frames_of_every_kind,
    headers_and_parameters,
    one_session_many_sockets,
    a_bearer_in_a_subprotocol,
    closes_of_both_sides,
    bounds,
    refusals,
    an_agent_that_dies,
):
    check()
    print(check.__name__, flush=True)
