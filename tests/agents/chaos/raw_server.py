"""A small HTTP/1.1 server on sockets, so that every byte of an answer can be wrong on purpose.

Requests are read properly (Content-Length or chunked, keep-alive). `{"do": "http", "case": …}` answers by wrong_answers.py,
`{"do": "ping", "as": …}` changes `/ping`, every other action is answered as the SDK would: JSON, or events.
"""

import collections
import json
import os
import socket
import threading

import actions
import wrong_answers
from raw_ping import STYLES, Ping

Request = collections.namedtuple("Request", "method path headers body")
_LARGEST_HEAD = 1 << 20


class Server:
    def __init__(self):
        self.ping = Ping(os.environ.get("AGENT_PING", "healthy"))

    def serve(self, port):
        host = "0.0.0.0" if os.environ.get("DOCKER_CONTAINER") else "127.0.0.1"
        with socket.create_server((host, port), backlog=1024) as listener:
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def _connection(self, client):
        """Requests one after another, until either side has enough."""
        reader = client.makefile("rb")
        try:
            while (request := _read(reader)) is not None:
                if not self._answer(client, request):
                    break
        except (OSError, ValueError):
            pass  # the other side went away, or spoke no HTTP: nobody is left to tell
        finally:
            reader.close()
            client.close()

    def _answer(self, client, request):
        """False when the connection must end."""
        if request.path == "/ping":
            self.ping.answer(client)
            return True
        try:
            payload = json.loads(request.body or b"{}")
        except ValueError:
            _send_json(client, {"error": "Invalid JSON"}, "400 Bad Request")
            return True
        if payload.get("do") == "http":
            return wrong_answers.answer(client, payload)
        if payload.get("do") == "ping":
            return self._change_ping(client, payload)
        if payload.get("do") == "headers":
            _send_json(client, {"method": request.method, "path": request.path, "headers": request.headers})
            return True
        return _answer_with(client, actions.act(payload))

    def _change_ping(self, client, payload):
        style = payload.get("as", self.ping.style)
        if style.partition(":")[0] not in STYLES:
            _send_json(client, {"error": f"no style {style!r}", "known": sorted(STYLES)})
            return True
        self.ping.style = style
        _send_json(client, {"as": style, "asked": self.ping.asked})
        return True


def serve(port):
    Server().serve(port)


def _read(reader):
    """The next request, or None at the end of the connection."""
    line = reader.readline(_LARGEST_HEAD)
    if not line:
        return None
    method, path, _ = line.decode("latin-1").split(" ", 2)
    headers = {}
    while (line := reader.readline(_LARGEST_HEAD)).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b"".join(_chunks(reader))
    else:
        body = reader.read(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body)


def _chunks(reader):
    while size := int(reader.readline(1024).split(b";")[0], 16):
        yield reader.read(size)
        reader.readline(8)
    while reader.readline(_LARGEST_HEAD).strip():
        pass  # trailers


def _answer_with(client, value):
    """What the SDK makes of a handler's value."""
    if not hasattr(value, "__next__"):
        _send_json(client, value)
        return True
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n")
    for event in value:
        data = f"data: {json.dumps(event)}\n\n".encode()
        client.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    client.sendall(b"0\r\n\r\n")
    return True


def _send_json(client, value, status="200 OK"):
    body = json.dumps(value, ensure_ascii=False).encode()
    client.sendall(f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
