"""HTTP/1.1 on one connection: read a request, write an answer.

For the session's relay, a developer's curl and nobody else: no TLS, no HTTP/2, no compression. Strict where
leniency would let two readers of the same bytes disagree about where a message ends (RFC 9112 §6.3, §11.2):
a request that is not plainly framed is refused and its connection closed. What routes exist is not known here.
"""

from __future__ import annotations

import socket
import struct
import time

from bedrock_agentcore.runtime._request import Headers, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_HEAD = 128 * 1024  # 20 forwarded headers of 4 KB and 8 KB of baggage (contract §1.3, §2.2) fit
MAX_HEADERS = 256
MAX_BODY = 100_000_000  # contract §6: payload, both directions
MAX_CHUNK_LINE = 4096

IDLE_SECONDS = 300.0  # between requests of one connection
HEAD_SECONDS = 30.0  # from a request's first byte to the end of its head
STALL_SECONDS = 120.0  # between two pieces of a body
_TICK_SECONDS = 15  # how often a blocked read looks at those clocks

_HEAD_READ = 64 * 1024  # above malloc's mmap threshold a read would cost page faults
_BODY_READ = 256 * 1024
_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CONTROLS = bytes(range(0x20)).replace(b"\t", b"") + b"\x7f"
_HEX = b"0123456789abcdefABCDEF"


class BadRequest(Exception):
    """The request cannot be read any further: answer `status` with `text`, then close."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class ClientGone(Exception):
    """The client closed, reset or stalled its connection; nobody is left to answer."""


class Connection:
    """One accepted connection, owned by one thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.keep_alive = True
        self.linger = False
        self.head_sent = False
        self.on_stop: Callable[[], None] | None = None
        self._hurried = False
        self._http10 = False
        self._chunked_answer = False
        self._buffer = bytearray()
        sock.setblocking(True)
        # The kernel's own timeout: unlike settimeout() it costs no extra system call per read and leaves
        # writes unbounded, so that a client may take its time over a stream.
        self._set_tick(_TICK_SECONDS)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def hurry(self) -> None:
        """Serve one request, whose bytes must be here within a second or so: there is no thread to wait in."""
        self.keep_alive = False
        self._hurried = True
        self._set_tick(1)

    def _set_tick(self, seconds: int) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))

    # Reading

    def read_request(self) -> Request | None:
        """The next request's head; None when the client closed between two requests."""
        self.head_sent = False
        buffer = self._buffer
        searched = 0
        idle_until = time.monotonic() + IDLE_SECONDS
        head_until = None if not buffer else time.monotonic() + HEAD_SECONDS
        while True:
            # RFC 9112 §2.2: an empty line before the request line is to be skipped.
            while buffer.startswith(b"\r\n"):
                del buffer[:2]
            end = buffer.find(b"\r\n\r\n", max(0, searched - 3))
            if end >= 0:
                break
            searched = len(buffer)
            if searched > MAX_HEAD:
                raise BadRequest(431, "Request header fields too large")
            if not self._fill(head_until or idle_until):
                if buffer:
                    raise ClientGone("closed within a request head")
                return None
            if head_until is None:
                head_until = time.monotonic() + HEAD_SECONDS
        if end > MAX_HEAD:
            raise BadRequest(431, "Request header fields too large")
        head = bytes(buffer[:end])
        del buffer[: end + 4]
        return self._parse_head(head)

    def read_body(self, request: Request) -> bytearray:
        """The request's whole body, however it is framed."""
        length = request.content_length
        if length == 0:
            return bytearray()
        if request.expects_continue and not self._buffer:
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if length is None:
            return self._read_chunked()
        return self._take(length)

    def discard_body(self, request: Request) -> None:
        """Get past a body that nobody wants: read it if that is cheap, else give the connection up."""
        length = request.content_length
        if length is not None and length <= _HEAD_READ and not request.expects_continue:
            self._take(length)
        else:
            self.keep_alive = False
            self.linger = True

    def _read_chunked(self) -> bytearray:
        body = bytearray()
        while True:
            size_line = self._take_line(MAX_CHUNK_LINE)
            digits = size_line.partition(b";")[0].rstrip(b" \t")
            if not digits or len(digits) > 16 or digits.translate(None, _HEX):
                raise BadRequest(400, "Invalid HTTP request received.")
            size = int(digits, 16)
            if size == 0:
                break
            if len(body) + size > MAX_BODY:
                raise BadRequest(413, f"Request body exceeds {MAX_BODY} bytes")
            body += self._take(size)
            if self._take(2) != b"\r\n":
                raise BadRequest(400, "Invalid HTTP request received.")
        trailers = 0
        while True:
            line = self._take_line(MAX_HEAD)
            if not line:
                return body
            trailers += len(line)
            if trailers > MAX_HEAD:
                raise BadRequest(431, "Request header fields too large")

    def _take(self, count: int) -> bytearray:
        buffer = self._buffer
        if len(buffer) >= count:
            taken = buffer[:count]
            del buffer[:count]
            return taken
        # Grown as bytes come, never from the length that the head claims.
        taken = buffer
        self._buffer = bytearray()
        while len(taken) < count:
            stalled = time.monotonic() + STALL_SECONDS
            data = self._receive(min(_BODY_READ, count - len(taken)), stalled)
            if not data:
                raise ClientGone("closed within a request body")
            taken += data
        return taken

    def _take_line(self, limit: int) -> bytearray:
        while True:
            end = self._buffer.find(b"\r\n", 0, limit + 2)
            if end >= 0:
                line = self._buffer[:end]
                del self._buffer[: end + 2]
                return line
            if len(self._buffer) > limit:
                raise BadRequest(400, "Invalid HTTP request received.")
            if not self._fill(time.monotonic() + STALL_SECONDS):
                raise ClientGone("closed within a request body")

    def _fill(self, until: float) -> bool:
        data = self._receive(_HEAD_READ, until)
        self._buffer += data
        return bool(data)

    def _receive(self, size: int, until: float) -> bytes:
        while True:
            try:
                return self.sock.recv(size)
            except BlockingIOError:
                if self._hurried or time.monotonic() >= until:
                    raise ClientGone("sent nothing for too long") from None
            except OSError as error:
                raise ClientGone(str(error)) from error

    def _parse_head(self, head: bytes) -> Request:
        lines = head.split(b"\r\n")
        parts = lines[0].split(b" ")
        if len(parts) != 3 or parts[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
            raise BadRequest(400, "Invalid HTTP request received.")
        method, target, version = parts
        if not method or method.translate(None, _TOKEN) or not target or target != target.translate(None, _CONTROLS):
            raise BadRequest(400, "Invalid HTTP request received.")
        if len(lines) - 1 > MAX_HEADERS:
            raise BadRequest(431, "Request header fields too large")
        pairs: list[tuple[str, str]] = []
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            value = value.strip(b" \t")
            # An empty name, a blank before the colon and a folded line all fail the token test.
            if not colon or not name or name.translate(None, _TOKEN) or value != value.translate(None, _CONTROLS):
                raise BadRequest(400, "Invalid HTTP request received.")
            pairs.append((name.decode("ascii").lower(), value.decode("latin-1")))
        headers = Headers(pairs)
        self._http10 = version == b"HTTP/1.0"
        if not self._http10 and len(headers.getlist("host")) != 1:
            raise BadRequest(400, "Invalid HTTP request received.")
        connection = ",".join(headers.getlist("connection")).lower()
        if self._http10 or self._hurried or "close" in [token.strip() for token in connection.split(",")]:
            self.keep_alive = False
        return Request(
            method.decode("ascii"),
            target.decode("latin-1"),
            headers,
            _body_length(headers, self._http10),
            self,
        )

    # Writing

    def respond(
        self,
        status: int,
        content_type: str,
        body: bytes,
        headers: Iterable[tuple[str, str]] = (),
        *,
        body_follows: bool = True,
    ) -> None:
        """A whole answer; head and small body leave in one segment. To HEAD, no body follows."""
        fields = [("content-type", content_type), *headers, ("content-length", str(len(body)))]
        head = self._head(status, fields)
        if not body_follows:
            self.send(head)
        elif len(body) <= 64 * 1024:
            self.send(head + body)
        else:
            self.send(head)
            self.send(body)

    def begin_stream(self, content_type: str) -> None:
        """The head of an answer whose length is not known; `write` and `finish` follow."""
        self.send(self.stream_head(200, [("content-type", content_type)], True))

    def stream_head(self, status: int, fields: list[tuple[str, str]], chunked: bool) -> bytes:
        """A head after which the body comes piece by piece. An HTTP/1.0 client gets it unframed."""
        self._chunked_answer = chunked and not self._http10
        if self._chunked_answer:
            fields = [*fields, ("transfer-encoding", "chunked")]
        return self._head(status, fields)

    def write(self, data: bytes) -> None:
        """One piece of a streamed answer, as one chunk."""
        if data:
            self.send(self.frame(data))

    def frame(self, data: bytes) -> bytes:
        """What `write` puts on the wire."""
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked_answer else data

    def finish(self) -> None:
        """The end of a streamed answer. Without it the client sees a truncated one."""
        self.send(self.last_chunk())

    def last_chunk(self) -> bytes:
        """What `finish` puts on the wire."""
        return b"0\r\n\r\n" if self._chunked_answer else b""

    def send(self, data: bytes) -> None:
        """All of `data`, waiting for the client as long as it lives."""
        try:
            self.sock.sendall(data)
        except OSError as error:
            self.keep_alive = False
            raise ClientGone(str(error)) from error

    def head(self, status: int, headers: Iterable[tuple[str, str]]) -> bytes:
        """A response head with exactly these headers."""
        lines = [f"HTTP/1.1 {status} {_reason(status)}", *(f"{name}: {value}" for name, value in headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _head(self, status: int, fields: list[tuple[str, str]]) -> bytes:
        self.head_sent = True
        ending = [] if self.keep_alive else [("connection", "close")]
        return self.head(status, [("date", _date()), *fields, *ending])

    # Ending

    def client_gone(self) -> bool:
        """Whether the client has closed its side: asked between two pieces of a stream."""
        if self._buffer:
            return False
        try:
            return not self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def unread(self, data: bytes) -> None:
        """Put bytes that were read ahead back for the next request."""
        self._buffer += data

    def take_unread(self) -> bytes:
        """Everything read ahead so far: for whoever takes the connection over (WebSocket)."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def stop(self, answering: bool) -> None:
        """The server ends: wake a read for the next request, or tell a WebSocket. Called from another thread."""
        if answering:
            if self.on_stop is not None:
                self.on_stop()
            return
        try:
            self.sock.shutdown(socket.SHUT_RD)
        except OSError:
            pass

    def close(self) -> None:
        """Close; with `linger`, first let the client read an answer that came before its request's end.

        Closing with unread input makes the kernel send a reset, and that can destroy the answer on its way.
        """
        if self.linger:
            try:
                self.sock.shutdown(socket.SHUT_WR)
                until = time.monotonic() + 2.0
                self.sock.settimeout(0.5)
                while time.monotonic() < until and self.sock.recv(_BODY_READ):
                    pass
            except OSError:
                pass
        self.sock.close()


def _body_length(headers: Headers, http10: bool) -> int | None:
    """Bytes of body to expect; None for chunked."""
    codings = headers.getlist("transfer-encoding")
    lengths = set(headers.getlist("content-length"))
    if codings:
        if lengths or http10 or [c.lower() for c in codings] != ["chunked"]:
            raise BadRequest(400, "Invalid HTTP request received.")
        return None
    if not lengths:
        return 0
    length = lengths.pop()
    if lengths or not length.isascii() or not length.isdigit() or len(length) > 18:
        raise BadRequest(400, "Invalid HTTP request received.")
    if int(length) > MAX_BODY:
        raise BadRequest(413, f"Request body exceeds {MAX_BODY} bytes")
    return int(length)


# `http.HTTPStatus` has them all, but takes 3 ms to import.
_REASONS = {
    101: "Switching Protocols",
    200: "OK",
    307: "Temporary Redirect",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


def _reason(status: int) -> str:
    known = _REASONS.get(status)
    if known is None:
        from http import HTTPStatus

        known = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    return known


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_stamp = (0, "")


def _date() -> str:
    """The Date header (RFC 9110 §6.6.1), formatted once a second and independent of the locale."""
    global _stamp
    now = int(time.time())
    second, text = _stamp
    if second != now:
        t = time.gmtime(now)
        text = (
            f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year} "
            f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT"
        )
        _stamp = (now, text)
    return text
