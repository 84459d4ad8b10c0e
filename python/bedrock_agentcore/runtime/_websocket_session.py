"""One run of an agent's WebSocket handler: from the handshake to the close frame that its end calls for."""

from __future__ import annotations

import asyncio

from bedrock_agentcore.runtime._http import Connection
from bedrock_agentcore.runtime.websocket import WebSocket, WebSocketDisconnect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bedrock_agentcore.runtime._loop import WorkerLoop
    from bedrock_agentcore.runtime._request import Request
    from bedrock_agentcore.runtime.context import RequestContext

_INTERNAL_ERROR, _SERVICE_RESTART, _NORMAL = 1011, 1012, 1000


def serve(
    connection: Connection,
    request: Request,
    context: RequestContext,
    handler: Callable[..., Any] | None,
    loop: WorkerLoop,
    failed: Callable[[str], None],
) -> None:
    """Run the handler on the worker loop; returns when the WebSocket is over."""
    connection.sock.setblocking(False)
    tasks: list[asyncio.Task[None]] = []

    async def session() -> None:
        task = asyncio.ensure_future(_session(WebSocket(connection, request), context, handler, failed))
        tasks.append(task)
        await asyncio.wait({task})

    def stop() -> None:
        loop.get().call_soon_threadsafe(lambda: [task.cancel() for task in tasks])

    connection.on_stop = stop
    try:
        loop.run(session())
    finally:
        connection.on_stop = None


async def _session(
    websocket: WebSocket,
    context: RequestContext,
    handler: Callable[..., Any] | None,
    failed: Callable[[str], None],
) -> None:
    code = _NORMAL
    try:
        if handler is None:
            code = _INTERNAL_ERROR
        else:
            await handler(websocket, context)
    except WebSocketDisconnect:
        pass
    except asyncio.CancelledError:
        code = _SERVICE_RESTART
    except BaseException:  # sys.exit too: it would end the loop that all handlers share
        failed("WebSocket handler failed")
        code = _INTERNAL_ERROR
    await websocket.end(code)
