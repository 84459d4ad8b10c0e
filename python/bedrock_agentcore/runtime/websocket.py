"""`/ws`: a WebSocket (RFC 6455) as the handler of `@app.websocket` sees it.

Names and behaviour follow Starlette's `WebSocket`, which the AWS SDK hands out: `accept` first, then `send_*`,
`receive_*`, `close`. No extensions are negotiated. Runs on the worker loop, on a socket it owns until it ends.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import struct

from bedrock_agentcore.runtime._http import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from typing import Any
    from urllib.parse import SplitResult

    from bedrock_agentcore.runtime._request import Headers, Request

MAX_MESSAGE = 16 * 1024 * 1024  # as uvicorn's default `ws_max_size`
CLOSE_SECONDS = 5.0  # how long to wait for the other side's close frame

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class WebSocketDisconnect(Exception):
    """The other side has closed; `code` says why (1005: it did not say, 1006: the connection broke)."""

    def __init__(self, code: int = 1000, reason: str | None = None) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason or ""


class _ProtocolError(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class WebSocket:
    """One WebSocket connection."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self._request = request
        self._sock = connection.sock
        self._buffer = bytearray()
        self._send_lock = asyncio.Lock()
        self._receive_lock = asyncio.Lock()
        self._accepted = False
        self._close_sent = False
        self._closed: tuple[int, str] | None = None

    # What was asked for

    @property
    def headers(self) -> Headers:
        """The handshake's headers."""
        return self._request.headers

    @property
    def query_params(self) -> dict[str, str]:
        """The handshake's query parameters."""
        return self._request.query_params

    @property
    def url(self) -> SplitResult:
        """The handshake's URL, in parts."""
        return self._request.url

    # Opening and closing

    async def accept(
        self, subprotocol: str | None = None, headers: Iterable[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Answer the handshake; nothing can be sent or received before."""
        if self._accepted or self._close_sent:
            raise RuntimeError("accept() came after accept() or close()")
        key = (self._request.headers.get("sec-websocket-key") or "").encode("latin-1")
        answer = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode("ascii")
        fields = [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", answer)]
        if subprotocol is not None:
            fields.append(("sec-websocket-protocol", subprotocol))
        for name, value in headers or ():
            fields.append((name.decode("latin-1"), value.decode("latin-1")))
        self._accepted = True
        self._buffer += self._connection.take_unread()
        await self._write(self._connection.head(101, fields))

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        """Close with a code; before `accept` this refuses the handshake with 403."""
        if self._close_sent:
            raise RuntimeError('Cannot call "send" once a close message has been sent.')
        self._close_sent = True
        if not self._accepted:
            await self._write(
                self._connection.head(403, [("content-length", "0"), ("connection", "close")]),
            )
            return
        await self._frame(_CLOSE, struct.pack("!H", code) + (reason or "").encode("utf-8")[:123])
        # A task of the handler's that is receiving at this moment sees the other side's close frame itself.
        if self._closed is None and not self._receive_lock.locked():
            await self._await_close()

    async def _await_close(self) -> None:
        """Read on until the other side's close frame, so that both know that nothing was cut off."""

        async def drain() -> None:
            while True:
                opcode, _, _ = await self._read_frame()
                if opcode == _CLOSE:
                    return

        try:
            await asyncio.wait_for(drain(), CLOSE_SECONDS)
        except (asyncio.TimeoutError, WebSocketDisconnect, _ProtocolError):
            pass

    # Sending

    async def send_text(self, data: str) -> None:
        """One text message."""
        await self._send(_TEXT, data.encode("utf-8"))

    async def send_bytes(self, data: bytes) -> None:
        """One binary message."""
        await self._send(_BINARY, data)

    async def send_json(self, data: Any, mode: str = "text") -> None:
        """One message of JSON; `mode` is "text" or "binary"."""
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        await self._send(_opcode_of(mode), text)

    async def send(self, message: dict[str, Any]) -> None:
        """One ASGI message: `websocket.accept`, `websocket.send` or `websocket.close`."""
        kind = message["type"]
        if kind == "websocket.accept":
            await self.accept(message.get("subprotocol"), message.get("headers"))
        elif kind == "websocket.close":
            await self.close(message.get("code", 1000), message.get("reason"))
        elif kind != "websocket.send":
            raise RuntimeError(f"unexpected message {kind!r}")
        elif message.get("bytes") is not None:
            await self.send_bytes(message["bytes"])
        else:
            await self.send_text(message["text"])

    async def _send(self, opcode: int, data: bytes) -> None:
        self._must_be_open()
        if self._close_sent:
            raise RuntimeError('Cannot call "send" once a close message has been sent.')
        if self._closed is not None:
            raise WebSocketDisconnect(*self._closed)
        await self._frame(opcode, data)

    # Receiving

    async def receive_text(self) -> str:
        """The next message, which must be text."""
        message = await self._receive_message()
        if "text" not in message:
            raise KeyError("text")
        text: str = message["text"]
        return text

    async def receive_bytes(self) -> bytes:
        """The next message, which must be binary."""
        message = await self._receive_message()
        if "bytes" not in message:
            raise KeyError("bytes")
        data: bytes = message["bytes"]
        return data

    async def receive_json(self, mode: str = "text") -> Any:
        """The next message, parsed; `mode` is "text" or "binary"."""
        return json.loads(await (self.receive_text() if _opcode_of(mode) == _TEXT else self.receive_bytes()))

    async def receive(self) -> dict[str, Any]:
        """The next ASGI message: `websocket.connect`, `websocket.receive` or `websocket.disconnect`."""
        if not self._accepted:
            return {"type": "websocket.connect"}
        if self._closed is not None:
            raise RuntimeError('Cannot call "receive" once a disconnect message has been received.')
        try:
            return await self._receive_message()
        except WebSocketDisconnect as end:
            return {"type": "websocket.disconnect", "code": end.code, "reason": end.reason}

    async def iter_text(self) -> AsyncIterator[str]:
        """Text messages until the other side closes."""
        try:
            while True:
                yield await self.receive_text()
        except WebSocketDisconnect:
            pass

    async def iter_bytes(self) -> AsyncIterator[bytes]:
        """Binary messages until the other side closes."""
        try:
            while True:
                yield await self.receive_bytes()
        except WebSocketDisconnect:
            pass

    async def iter_json(self) -> AsyncIterator[Any]:
        """Parsed messages until the other side closes."""
        try:
            while True:
                yield await self.receive_json()
        except WebSocketDisconnect:
            pass

    async def _receive_message(self) -> dict[str, Any]:
        self._must_be_open()
        if self._closed is not None:
            raise WebSocketDisconnect(*self._closed)
        try:
            async with self._receive_lock:
                opcode, data = await self._read_message()
            if opcode == _TEXT:
                return {"type": "websocket.receive", "text": _utf8(data)}
            return {"type": "websocket.receive", "bytes": data}
        except _ProtocolError as error:
            self._closed = (error.code, error.reason)
            if not self._close_sent:
                self._close_sent = True
                await self._frame(_CLOSE, struct.pack("!H", error.code) + error.reason.encode("utf-8"))
            raise WebSocketDisconnect(error.code, error.reason) from None

    async def _read_message(self) -> tuple[int, bytes]:
        kind, pieces, size = 0, [], 0
        while True:
            opcode, final, data = await self._read_frame()
            if opcode == _CLOSE:
                await self._answer_close(data)
            if opcode == _PING:
                await self._frame(_PONG, data)
            if opcode >= _CLOSE:
                continue
            if (opcode == _CONTINUATION) != bool(kind):
                raise _ProtocolError(1002, "unexpected continuation")
            kind = kind or opcode
            size += len(data)
            if size > MAX_MESSAGE:
                raise _ProtocolError(1009, "message too big")
            pieces.append(data)
            if final:
                return kind, b"".join(pieces)

    async def _answer_close(self, data: bytes) -> None:
        if len(data) == 1:
            raise _ProtocolError(1002, "bad close frame")
        code = struct.unpack("!H", data[:2])[0] if data else 1005
        self._closed = (code, _utf8(data[2:]))
        if not self._close_sent:
            self._close_sent = True
            await self._frame(_CLOSE, data[:2])
        raise WebSocketDisconnect(*self._closed)

    # Frames (RFC 6455 §5.2)

    async def _read_frame(self) -> tuple[int, bool, bytes]:
        first, second = await self._read(2)
        opcode, final, length = first & 0x0F, bool(first & 0x80), second & 0x7F
        if first & 0x70 or opcode not in (_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG):
            raise _ProtocolError(1002, "reserved bits or opcode")
        if not second & 0x80:
            raise _ProtocolError(1002, "frame without a mask")
        if opcode >= _CLOSE and (not final or length > 125):
            raise _ProtocolError(1002, "bad control frame")
        if length == 126:
            (length,) = struct.unpack("!H", await self._read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self._read(8))
        if length > MAX_MESSAGE:
            raise _ProtocolError(1009, "message too big")
        mask = await self._read(4)
        return opcode, final, _unmask(await self._read(length), mask)

    async def _read(self, count: int) -> bytes:
        loop = asyncio.get_running_loop()
        while len(self._buffer) < count:
            try:
                data = await loop.sock_recv(self._sock, 64 * 1024)
            except OSError:
                data = b""
            if not data:
                self._closed = (1006, "")
                raise WebSocketDisconnect(1006)
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def _frame(self, opcode: int, data: bytes) -> None:
        size = len(data)
        if size < 126:
            head = struct.pack("!BB", 0x80 | opcode, size)
        elif size < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 127, size)
        await self._write(head + data)

    async def _write(self, data: bytes) -> None:
        # Two tasks of one handler may send at once; a frame must not land inside another.
        async with self._send_lock:
            try:
                await asyncio.get_running_loop().sock_sendall(self._sock, data)
            except OSError:
                self._closed = (1006, "")
                raise WebSocketDisconnect(1006) from None

    def _must_be_open(self) -> None:
        if not self._accepted:
            raise RuntimeError('WebSocket is not connected. Need to call "accept" first.')

    async def end(self, code: int) -> None:
        """After the handler: close what it left open."""
        if self._close_sent or self._closed is not None:
            return
        try:
            await self.close(code)
        except WebSocketDisconnect:
            pass


def is_handshake(request: Request) -> bool:
    """Whether this request asks for a WebSocket (RFC 6455 §4.2.1)."""
    headers = request.headers
    connection = [token.strip() for token in (headers.get("connection") or "").lower().split(",")]
    return (
        request.method == "GET"
        and (headers.get("upgrade") or "").lower() == "websocket"
        and "upgrade" in connection
        and headers.get("sec-websocket-version") == "13"
        and "sec-websocket-key" in headers
    )


def _opcode_of(mode: str) -> int:
    if mode not in ("text", "binary"):
        raise RuntimeError('The "mode" argument should be "text" or "binary".')
    return _TEXT if mode == "text" else _BINARY


def _utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise _ProtocolError(1007, "invalid UTF-8") from None


def _unmask(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    repeated = (mask * (size // 4 + 1))[:size]
    # One big integer instead of a loop over bytes: two orders of magnitude faster in CPython.
    return (int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")
