"""Generators as server-sent events: one frame per item, each on its way before the next is asked for.

A sync generator runs in the connection's thread. An async one runs on the worker loop, which also watches the
connection meanwhile: a client that goes away cancels the generator at its `await`, so that an abandoned agent
stops at once rather than at its next item.
"""

from __future__ import annotations

from bedrock_agentcore.runtime import _payload
from bedrock_agentcore.runtime._http import ClientGone, Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from typing import Any

    from bedrock_agentcore.runtime._loop import WorkerLoop

CONTENT_TYPE = "text/event-stream; charset=utf-8"


class EventStream:
    """The streamed answer to one request."""

    def __init__(
        self,
        connection: Connection,
        warn: Callable[[str], None],
        failed: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._warn = warn
        self._failed = failed

    def send_sync(self, generator: Generator[Any, Any, Any]) -> None:
        """Stream a generator from this thread."""
        connection = self._connection
        # The head goes first, before an item that may take minutes: the caller learns that it is a stream.
        connection.begin_stream(CONTENT_TYPE)
        try:
            for item in generator:
                if connection.client_gone():
                    raise ClientGone("closed within a stream")
                connection.write(_payload.to_event(item, self._warn))
        except ClientGone:
            raise
        except Exception as error:
            self._failed("Error in sync streaming")
            connection.write(_payload.error_event(error, self._warn))
        finally:
            self._close(generator)
        connection.finish()

    def _close(self, generator: Generator[Any, Any, Any]) -> None:
        try:
            generator.close()
        except Exception:  # an agent's own clean-up failed; its answer is already out
            self._failed("Closing a sync stream failed")

    def send_async(self, generator: AsyncGenerator[Any, Any], loop: WorkerLoop) -> None:
        """Stream an async generator from the worker loop; returns when it has ended."""
        connection = self._connection
        connection.begin_stream(CONTENT_TYPE)
        connection.sock.setblocking(False)
        from asyncio import CancelledError

        try:
            loop.run(self._pump(generator))
        except CancelledError:
            raise ClientGone("closed at the end of a stream") from None
        finally:
            connection.sock.setblocking(True)
        connection.finish()

    async def _pump(self, generator: AsyncGenerator[Any, Any]) -> None:
        import asyncio

        connection = self._connection
        sock = connection.sock
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        gone = False

        def readable() -> None:
            nonlocal gone
            try:
                ahead = sock.recv(4096)
            except BlockingIOError:
                return
            except OSError:
                ahead = b""
            # A next request that came early says that the client is there; one such is enough to know.
            loop.remove_reader(sock)
            if ahead:
                connection.unread(ahead)
                return
            gone = True
            if task is not None:
                task.cancel()

        async def write(event: bytes) -> None:
            try:
                await loop.sock_sendall(sock, connection.frame(event))
            except OSError as error:
                raise ClientGone(str(error)) from error
            # A send that does not block does not suspend either; a generator that never waits would keep the
            # loop from seeing that its client has gone, and from every other handler.
            await asyncio.sleep(0)

        loop.add_reader(sock, readable)
        try:
            async for item in generator:
                await write(_payload.to_event(item, self._warn))
        except ClientGone:
            raise
        except asyncio.CancelledError:
            # Either the client has gone, or the agent cancelled itself: then the answer must look cut off.
            raise ClientGone("closed within a stream" if gone else "the agent cancelled its stream") from None
        except Exception as error:
            self._failed("Error in async streaming")
            await write(_payload.error_event(error, self._warn))
        finally:
            loop.remove_reader(sock)
            await self._aclose(generator)

    async def _aclose(self, generator: AsyncGenerator[Any, Any]) -> None:
        try:
            await generator.aclose()
        except Exception:  # an agent's own clean-up failed; its answer is already out
            self._failed("Closing an async stream failed")
