"""Every way to answer HTTP wrongly (or rightly, at an extreme), by name: `{"do": "http", "case": NAME, …}`.

Each case gets the connection and the payload, and says whether the connection may be used again. What the runtime must make of
them: the caller gets 424 (or a reset once bytes have flowed), never a truncated answer that looks whole; no other session
notices; no memory grows with what is sent.
"""

import itertools
import os
import random
import socket
import struct
import threading
import time

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_PIECE = 65536


def answer(client, payload):
    case = CASES.get(payload.get("case"))
    if case is None:
        body = f"no case {payload.get('case')!r}; known are {', '.join(sorted(CASES))}".encode()
        client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return True
    return bool(case(client, payload))


def _raw(data):
    """A case that sends these bytes and closes."""
    return lambda client, payload: client.sendall(data)


def _hang(client, data):
    client.sendall(data)
    threading.Event().wait()


def _body(length, text=b'"whole"'):
    return _OK + b"Content-Length: %s\r\n\r\n" % length + text


# --- cut off ----------------------------------------------------------------------------------------------------------


def _truncated(client, payload):
    """Content-Length says `claim`, `bytes` come."""
    client.sendall(_OK + b"Content-Length: %d\r\n\r\n" % payload.get("claim", 1000) + b"x" * payload.get("bytes", 10))


def _truncated_reset(client, payload):
    _truncated(client, payload)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _truncated_hang(client, payload):
    _truncated(client, payload)
    threading.Event().wait()


def _truncated_death(client, payload):
    """The whole agent dies in the middle of its answer."""
    _truncated(client, payload)
    os._exit(9)


def _chunked(*pieces):
    return _OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(pieces)


# --- too much ---------------------------------------------------------------------------------------------------------


def _huge_header(client, payload):
    client.sendall(_OK + b"X-Huge: " + b"h" * payload.get("bytes", 1 << 20) + b"\r\nContent-Length: 2\r\n\r\n{}")
    return True


def _many_headers(client, payload):
    lines = b"".join(b"X-Number-%d: %d\r\n" % (number, number) for number in range(payload.get("count", 10_000)))
    client.sendall(_OK + lines + b"Content-Length: 2\r\n\r\n{}")
    return True


def _endless_head(client, payload):
    client.sendall(_OK)
    for number in itertools.count():
        client.sendall(b"X-Number-%d: and so on\r\n" % number)


def _endless_header(client, payload):
    client.sendall(_OK + b"X-Long: ")
    while True:
        client.sendall(b"h" * _PIECE)


def _endless_body(client, payload):
    client.sendall(_chunked())
    while True:
        client.sendall(b"10000\r\n" + b"b" * 65536 + b"\r\n")


def _endless_until_close(client, payload):
    """No length at all: the body ends with the connection, which never ends."""
    client.sendall(_OK + b"\r\n")
    while True:
        client.sendall(b"b" * _PIECE)


def _big(client, payload):
    """A correct body of `bytes`."""
    left = payload.get("bytes", 100_000_000)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % left)
    while left > 0:
        client.sendall(b"b" * min(_PIECE, left))
        left -= _PIECE
    return True


def _tiny_chunks(client, payload):
    """`count` chunks of one byte each: ten bytes of wire for one of body."""
    client.sendall(_chunked())
    for _ in range(payload.get("count", 100_000)):
        client.sendall(b"1\r\nx\r\n")
    client.sendall(b"0\r\n\r\n")
    return True


def _chunk_extension(client, payload):
    client.sendall(_chunked(b"1;x=" + b"e" * payload.get("bytes", 1 << 20) + b"\r\nx\r\n0\r\n\r\n"))
    return True


def _trailers(client, payload):
    lines = b"".join(b"X-Trailer-%d: t\r\n" % number for number in range(payload.get("count", 10_000)))
    client.sendall(_chunked(b"1\r\nx\r\n0\r\n", lines, b"\r\n"))
    return True


def _informational(client, payload):
    """`count` answers of 1xx before the real one (-1: without end)."""
    count = payload.get("count", 1000)
    for number in itertools.count():
        if number == count:
            break
        client.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    client.sendall(_body(b"7"))
    return True


# --- after the end, and twice -----------------------------------------------------------------------------------------


def _extra(client, payload):
    """`bytes` after the end of the body, on a connection that stays: they must not become the next answer."""
    client.sendall(_body(b"7") + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged" * payload.get("count", 1))
    return True


def _second_later(client, payload):
    client.sendall(_body(b"7"))
    time.sleep(payload.get("delay", 0.5))
    client.sendall(_body(b"8", b'"forged"'))
    return True


# --- slow -------------------------------------------------------------------------------------------------------------


def _slow_body(client, payload):
    """`bytes`, one at a time, `delay` seconds apart."""
    count = payload.get("bytes", 20)
    client.sendall(_OK + b"Content-Length: %d\r\n\r\n" % count)
    for _ in range(count):
        client.sendall(b"s")
        time.sleep(payload.get("delay", 0.1))
    return True


def _slow_head(client, payload):
    for byte in _body(b"7"):
        client.sendall(bytes([byte]))
        time.sleep(payload.get("delay", 0.1))
    return True


# --- events -----------------------------------------------------------------------------------------------------------

_EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(data):
    return b"%x\r\n" % len(data) + data + b"\r\n"


def _sse(client, payload):
    """`events` (-1: without end), `delay` apart; `cut` ends the connection without the last chunk."""
    client.sendall(_EVENTS)
    for number in itertools.count():
        if number == payload.get("events", 3):
            break
        client.sendall(_chunk(b"data: %d\n\n" % number))
        time.sleep(payload.get("delay", 0))
    if not payload.get("cut"):
        client.sendall(b"0\r\n\r\n")
    return not payload.get("cut")


def _sse_giant(client, payload):
    """One event of `bytes` without a newline."""
    client.sendall(_EVENTS + _chunk(b"data: "))
    left = payload.get("bytes", 1 << 30)
    while left > 0:
        client.sendall(_chunk(b"g" * min(_PIECE, left)))
        left -= _PIECE
    client.sendall(_chunk(b"\n\n") + b"0\r\n\r\n")
    return True


def _sse_silent(client, payload):
    """A stream that has begun and says nothing more."""
    _hang(client, _EVENTS)


# --- the rest ---------------------------------------------------------------------------------------------------------


def _status(client, payload):
    """Any status with any text: an agent's error, told by the agent."""
    body = payload.get("body", "chaos").encode()
    head = f"HTTP/1.1 {payload.get('status', 500)} {payload.get('reason', 'Chaos')}\r\nContent-Type: {payload.get('type', 'text/plain')}\r\n"
    for name, value in payload.get("headers", {}).items():
        head += f"{name}: {value}\r\n"
    client.sendall(head.encode("latin-1") + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return True


def _noise(client, payload):
    client.sendall(random.Random(payload.get("seed", 1)).randbytes(payload.get("bytes", 4096)))


def _half_close(client, payload):
    """Shuts its reading side, then answers."""
    client.shutdown(socket.SHUT_RD)
    client.sendall(_body(b"7"))


def _claim(text):
    return _raw(_body(text))


CASES = {
    # cut off
    "truncated": _truncated, "truncated_reset": _truncated_reset, "truncated_hang": _truncated_hang, "truncated_death": _truncated_death,
    "chunked_cut": _raw(_chunked(b"5\r\nhello\r\n")), "chunk_short": _raw(_chunked(b"ff\r\nshort\r\n")),
    "chunked_no_body": _raw(_chunked()), "no_answer": lambda client, payload: None,
    "half_head": _raw(_OK[:20]), "half_head_hang": lambda client, payload: _hang(client, _OK[:20]),
    "until_close": _raw(_OK + b"\r\nends with the connection"),
    # too much
    "huge_header": _huge_header, "many_headers": _many_headers, "endless_head": _endless_head, "endless_header": _endless_header,
    "endless_body": _endless_body, "endless_until_close": _endless_until_close, "big": _big, "tiny_chunks": _tiny_chunks,
    "chunk_extension": _chunk_extension, "trailers": _trailers, "informational": _informational,
    # after the end
    "extra": _extra, "second_later": _second_later,
    # slow
    "slow_body": _slow_body, "slow_head": _slow_head,
    # events
    "sse": _sse, "sse_giant": _sse_giant, "sse_silent": _sse_silent,
    # lengths that lie or contradict
    "length_negative": _claim(b"-1"), "length_text": _claim(b"seven"), "length_huge": _claim(b"99999999999999999999999"),
    "length_plus": _claim(b"+7"), "length_list": _claim(b"7, 7"), "length_differs": _raw(_OK + b"Content-Length: 7\r\nContent-Length: 3\r\n\r\n\"whole\""),
    "length_and_chunked": _raw(_OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n\"whole\"\r\n0\r\n\r\n"),
    "encoding_unknown": _raw(_OK + b"Transfer-Encoding: xchunked\r\n\r\n7\r\n\"whole\"\r\n0\r\n\r\n"),
    "encoding_twice": _raw(_OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    "chunk_bad_size": _raw(_chunked(b"zz\r\nhello\r\n0\r\n\r\n")), "chunk_negative": _raw(_chunked(b"-5\r\nhello\r\n0\r\n\r\n")),
    "chunk_huge_size": _raw(_chunked(b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n")), "chunk_no_end": _raw(_chunked(b"5\r\nhelloX")),
    # heads that are none
    "garbage": _noise, "http09": _raw(b"just a body\n"), "http2": _raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
    "version": _raw(b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n"), "status_text": _raw(b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n"),
    "status_0": _raw(b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n"), "status_999": _raw(b"HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n"),
    "status_long": _raw(b"HTTP/1.1 200 " + b"r" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n"),
    "continue_only": lambda client, payload: _hang(client, b"HTTP/1.1 100 Continue\r\n\r\n"),
    "switching": lambda client, payload: _hang(client, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chaos\r\nConnection: Upgrade\r\n\r\nraw bytes"),
    "no_content_with_body": _raw(b"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n\"whole\""),
    "not_modified": _raw(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"),
    "redirect": _raw(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
    "folded": _raw(_OK + b"X-Folded: one\r\n two\r\nContent-Length: 2\r\n\r\n{}"), "bare_newlines": _raw(b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}"),
    "bare_return": _raw(_OK + b"X-A: one\rX-B: two\r\nContent-Length: 2\r\n\r\n{}"),
    "space_before_colon": _raw(_OK + b"Content-Length : 2\r\n\r\n{}"), "no_colon": _raw(_OK + b"nothing here\r\nContent-Length: 2\r\n\r\n{}"),
    "nul_in_header": _raw(_OK + b"X-Nul: a\0b\r\nContent-Length: 2\r\n\r\n{}"), "high_bytes": _raw(_OK + b"X-High: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}"),
    "empty_name": _raw(_OK + b": value\r\nContent-Length: 2\r\n\r\n{}"),
    # headers that must not pass
    "hop_by_hop": _raw(_OK + b"Connection: close, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=1\r\nProxy-Authenticate: Basic\r\nTE: x\r\nUpgrade: h2c\r\n"
                       b"Content-Length: 2\r\n\r\n{}"),
    "cookies": _raw(_OK + b"Set-Cookie: session=stolen; Domain=localhost\r\nAccess-Control-Allow-Origin: *\r\nServer: forged\r\n"
                    b"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id: forged-session-id-of-somebody-else-000\r\nContent-Length: 2\r\n\r\n{}"),
    "no_type": _raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
    # the rest
    "status": _status, "half_close": _half_close,
}
