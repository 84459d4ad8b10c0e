"""The event loop on which async handlers run: one thread, made when the first of them is called.

Apart from the connections' threads on purpose: an async handler that blocks stalls other async handlers, never
`/ping`. `asyncio` is imported here and nowhere else, because it takes 30 ms that a sync agent need not spend.
"""

from __future__ import annotations

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine
    from typing import Any

NAME = "agentcore-worker-loop"


class WorkerLoop:
    """A loop in a daemon thread named `agentcore-worker-loop`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        with self._lock:
            if self._loop is None:
                import asyncio

                ready = threading.Event()
                loop = asyncio.new_event_loop()
                threading.Thread(target=self._run, args=(loop, ready), daemon=True, name=NAME).start()
                ready.wait()
                self._loop = loop
            return self._loop

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop, ready: threading.Event) -> None:
        import asyncio

        asyncio.set_event_loop(loop)
        loop.call_soon(ready.set)
        loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """The coroutine's result; it sees a copy of the context variables of the calling thread."""
        import asyncio

        # call_soon_threadsafe copies this thread's context, and the task made there copies it again.
        error, result = asyncio.run_coroutine_threadsafe(_guarded(coroutine), self.get()).result()
        if error is not None:
            raise error
        return result


async def _guarded(coroutine: Coroutine[Any, Any, Any]) -> tuple[BaseException | None, Any]:
    """`sys.exit` in a task would end the loop and leave every caller waiting: carry it over to this caller instead."""
    try:
        return None, await coroutine
    except BaseException as error:
        return error, None
