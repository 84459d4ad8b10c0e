"""The warm-up call (contract §1.11), made in the template: what it loads and keeps is in every fork.

The application is called as its server would call it, in a loop that is gone afterwards; nothing listens. Its
lifespan does not run here: that begins in each fork."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

# As the daemon's own warm-up call.
_SECONDS = 120.0
# For threads that end when their loop has: as long as a process that does not end them should be waited for.
_PATIENCE = 2.0
_PAUSE = 0.005


def warm(application: Any, path: str) -> str | None:
    """POST there. Why it did not work."""
    loop = asyncio.new_event_loop()
    try:
        status = loop.run_until_complete(asyncio.wait_for(_post(application, path), _SECONDS))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    except TimeoutError:
        return f"the warm-up call POST {path} was not answered within {_SECONDS:g} s"
    except Exception as error:
        return f"the warm-up call POST {path} failed: {type(error).__name__}: {error}"
    finally:
        loop.close()
    if status is None or not 200 <= status < 300:
        return f"the warm-up call POST {path} was answered with {status}"
    until = time.monotonic() + _PATIENCE
    while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < until:
        time.sleep(_PAUSE)
    return None


async def _post(application: Any, path: str) -> int | None:
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
        "state": {},
    }
    await application(scope, receive, send)
    return status
