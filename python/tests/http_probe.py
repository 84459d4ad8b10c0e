"""A client that shows what is on the wire: raw bytes out, status, headers, chunks and body in."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from typing import Any

SECONDS = 30.0


@dataclass
class RawAnswer:
    """One answer as it was framed."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def shape(self) -> tuple[int, str | None, bytes]:
        """What a client can tell apart."""
        return self.status, self.header("content-type"), self.body


class Probe:
    """One connection to an agent."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        self._file = self.sock.makefile("rb")

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def head(self) -> RawAnswer:
        """Status and headers of the next answer."""
        line = self._file.readline()
        if not line:
            raise ConnectionError("closed without an answer")
        answer = RawAnswer(int(line.split()[1]), [])
        while True:
            line = self._file.readline()
            if line == b"\r\n":
                return answer
            assert line.endswith(b"\r\n"), f"a head that breaks off: {line!r}"
            name, _, value = line.decode("latin-1").partition(":")
            answer.headers.append((name.lower(), value.strip()))

    def chunk(self) -> bytes:
        """The next chunk of a chunked answer; empty at its end."""
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("closed before the last chunk")
        size = int(line.split(b";")[0], 16)
        data = self._exactly(size)
        assert self._exactly(2) == b"\r\n"
        return data

    def answer(self, method: str = "POST") -> RawAnswer:
        """The next answer, whole; raises if it breaks off."""
        answer = self.head()
        if answer.header("transfer-encoding") == "chunked":
            while True:
                piece = self.chunk()
                if not piece:
                    break
                answer.chunks.append(piece)
            answer.body = b"".join(answer.chunks)
        elif method != "HEAD" and answer.status not in (204, 304) and answer.status >= 200:
            length = answer.header("content-length")
            answer.body = self._file.read() if length is None else self._exactly(int(length))
        return answer

    def at_end(self) -> bool:
        """Whether the agent has closed."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def _exactly(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise ConnectionError(f"{count - len(data)} of {count} bytes missing")
        return data


def request(method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
    """A request's bytes, with `Host` and `Content-Length`."""
    fields = {"Host": "agent", **(headers or {})}
    if body is not None:
        fields.setdefault("Content-Length", str(len(body)))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + (body or b"")


def call(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> RawAnswer:
    """One exchange on a connection of its own."""
    with Probe(port) as probe:
        probe.send(request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}))
        return probe.answer(method)


def invoke(port: int, payload: Any, **headers: str) -> RawAnswer:
    """One invocation with a JSON payload."""
    return call(port, "POST", "/invocations", json.dumps(payload).encode(), **headers)
