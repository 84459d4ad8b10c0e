"""Starlette responses returned by an entrypoint, passed through as they are (contract §1.4).

The built-in SDK has no response class of its own: an agent that wants to choose its status or stream bytes vendors
Starlette, and its `Response` is then run as the ASGI application that it is, on the worker loop.
"""

from __future__ import annotations

import sys

from bedrock_agentcore.runtime._http import ClientGone, Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bedrock_agentcore.runtime._loop import WorkerLoop
    from bedrock_agentcore.runtime._request import Request


def is_response(value: object) -> bool:
    """Whether this is a Starlette response; without Starlette loaded nothing can be."""
    module = sys.modules.get("starlette.responses")
    return module is not None and isinstance(value, module.Response)


def is_http_exception(error: BaseException) -> bool:
    """Whether this is Starlette's HTTPException (FastAPI's derives from it)."""
    module = sys.modules.get("starlette.exceptions")
    return module is not None and isinstance(error, module.HTTPException)


def send(response: Any, connection: Connection, request: Request, loop: WorkerLoop) -> None:
    """Run the response against the connection; returns when it has been written."""
    connection.sock.setblocking(False)
    try:
        loop.run(_run(response, connection, request))
    finally:
        connection.sock.setblocking(True)


async def _run(response: Any, connection: Connection, request: Request) -> None:
    import asyncio

    loop = asyncio.get_running_loop()
    finished = asyncio.Event()
    chunked = False

    async def write(data: bytes) -> None:
        try:
            await loop.sock_sendall(connection.sock, data)
        except OSError as error:
            raise ClientGone(str(error)) from error

    async def receive() -> dict[str, Any]:
        # The request's body has been read; what is left to tell is that the client went away.
        watching = asyncio.ensure_future(loop.sock_recv(connection.sock, 4096))
        ended = asyncio.ensure_future(finished.wait())
        try:
            await asyncio.wait({watching, ended}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done() and not watching.exception() and watching.result():
                connection.unread(watching.result())  # a next request that came early
                await ended
        finally:
            watching.cancel()
            ended.cancel()
        return {"type": "http.disconnect"}

    async def send_message(message: dict[str, Any]) -> None:
        nonlocal chunked
        if message["type"] == "http.response.start":
            status = message["status"]
            fields = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in message.get("headers", [])]
            sized = any(name.lower() == "content-length" for name, _ in fields)
            chunked = not sized and status not in (204, 304)
            await write(connection.stream_head(status, fields, chunked))
        elif message["type"] == "http.response.body":
            if message.get("body"):
                await write(connection.frame(message["body"]) if chunked else message["body"])
            if not message.get("more_body", False):
                finished.set()
                if chunked:
                    await write(connection.last_chunk())

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "path": request.path,
        "query_string": request.query_string.encode("latin-1"),
        "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in request.headers.items()],
    }
    await response(scope, receive, send_message)
