"""The warm-up call (contract §1.11), made in the template: what it loads and keeps is in every fork.

The application is called as its server would call it, between its start-up and its shut-down hook (ASGI's lifespan),
in a loop that is gone afterwards; nothing listens. Each fork runs both hooks again, for itself. What the first leaves
behind when the second has run (threads, sockets) is looked for by whoever asked for this call."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

# As the daemon's own warm-up call.
_SECONDS = 120.0


def warm(application: Any, path: str, lifespan: str) -> str | None:
    """POST there. Why it did not work. `lifespan` is uvicorn's setting: "on", "off", or "auto"."""
    loop = asyncio.new_event_loop()
    try:
        problem = loop.run_until_complete(asyncio.wait_for(_served(application, path, lifespan), _SECONDS))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    # The second is another one before Python 3.11.
    except (TimeoutError, asyncio.TimeoutError):
        return f"the warm-up call POST {path} was not answered within {_SECONDS:g} s"
    except Exception as error:
        return f"the warm-up call POST {path} failed: {type(error).__name__}: {error}"
    finally:
        loop.close()
    return problem


async def _served(application: Any, path: str, lifespan: str) -> str | None:
    hooks = _Lifespan(application, required=lifespan == "on")
    if lifespan != "off":
        problem = await hooks.start()
        if problem:
            return f"its start-up hook failed before the warm-up call: {problem}"
    # What a request puts there is not for the next one.
    status = await _post(application, path, dict(hooks.state))
    if lifespan != "off":
        await hooks.stop()
    if status is None or not 200 <= status < 300:
        return f"the warm-up call POST {path} was answered with {status}"
    return None


class _Lifespan:
    """An application's hooks, as uvicorn calls them."""

    def __init__(self, application: Any, required: bool) -> None:
        self.state: dict[str, Any] = {}
        self._application = application
        self._required = required
        self._told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._started = asyncio.Event()
        self._stopped = asyncio.Event()
        self._problem: str | None = None

    async def start(self) -> str | None:
        """Why it did not."""
        # Kept, since the loop would let it go.
        self._task = asyncio.get_running_loop().create_task(self._run())
        await self._told.put({"type": "lifespan.startup"})
        await self._started.wait()
        return self._problem

    async def stop(self) -> None:
        """A hook that fails has said so, and a server would not mind either."""
        await self._told.put({"type": "lifespan.shutdown"})
        await self._stopped.wait()

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._application(scope, self._told.get, self._send)
        except BaseException as error:
            # Unless it must have one, an application that fails has none.
            if self._required and self._problem is None:
                self._problem = f"{type(error).__name__}: {error}"
        finally:
            self._started.set()
            self._stopped.set()

    async def _send(self, message: dict[str, Any]) -> None:
        kind, text = message["type"], str(message.get("message") or "").strip()
        if text:
            print(text, file=sys.stderr)
        if kind == "lifespan.startup.failed":
            # Of a traceback, which it is with Starlette, the last line says what happened.
            self._problem = text.rpartition("\n")[2] or "it does not say why"
        if kind.startswith("lifespan.startup."):
            self._started.set()
        else:
            self._stopped.set()


async def _post(application: Any, path: str, state: dict[str, Any]) -> int | None:
    answered = asyncio.Event()
    status: int | None = None
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            answered.set()

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"content-length", b"0")]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 80),
        "state": state,
    }
    await application(scope, receive, send)
    return status
