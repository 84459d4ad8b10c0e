"""A server that says exactly the bytes a test gives it, over a Unix socket or TCP: the daemon at its best and worst."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Received:
    """One request."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Pause:
    """A point in a script at which the server waits until the test lets it go on."""

    event: threading.Event = field(default_factory=threading.Event)


class Reset:
    """A point in a script at which the connection is reset."""


Script = Iterable["bytes | Pause | Reset"]


class FakeRuntime:
    """Answers connection after connection with the next script."""

    def __init__(self, path: Path | None = None) -> None:
        self.requests: list[Received] = []
        self.scripts: list[Script] = []
        self.hung_up = threading.Event()
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen()
            self.endpoint = f"unix:{path}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        # Unlike close(), this ends an accept() that another thread is in.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def answer(self, *script: bytes | Pause | Reset) -> None:
        """What to say to the next request."""
        self.scripts.append(script)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection, self.scripts.pop(0)), daemon=True).start()

    def _talk(self, connection: socket.socket, script: Script) -> None:
        with connection, connection.makefile("rb") as reader:
            words = reader.readline().decode().split()
            headers = {}
            while (line := reader.readline().decode().strip()) != "":
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = reader.read(int(headers.get("content-length", 0)))
            self.requests.append(Received(words[0], words[1], headers, body))
            for step in script:
                if isinstance(step, Pause):
                    step.event.wait(20)
                elif isinstance(step, Reset):
                    # Closing with a linger time of zero sends a reset instead of an end.
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    return
                else:
                    try:
                        connection.sendall(step)
                    except OSError:
                        self.hung_up.set()
                        return
            connection.shutdown(socket.SHUT_WR)
            if not reader.read():
                self.hung_up.set()


def sized(body: bytes, kind: str = "application/json", status: str = "200 OK", **headers: str) -> bytes:
    """A whole answer with `Content-Length`."""
    fields = {"Content-Type": kind, "Content-Length": str(len(body)), **headers}
    return _head(status, fields) + body


def streamed(kind: str = "text/event-stream", status: str = "200 OK") -> bytes:
    """The head of a chunked answer."""
    return _head(status, {"Content-Type": kind, "Transfer-Encoding": "chunked"})


def chunk(data: bytes) -> bytes:
    """One chunk; of nothing: the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _head(status: str, fields: dict[str, str]) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1")
