"""`BedrockAgentCoreApp`: what an agent registers its functions with, and what serves them.

The public face. It knows the decorators, the tasks and `run`; how a request becomes an answer is in `_dispatch`,
sockets and threads are in `_server`. Creating an app opens nothing and starts no thread, so that a template can
stop at `run()` and fork (architecture §7).
"""

from __future__ import annotations

import os
import sys

from bedrock_agentcore.runtime._handler import Handler, is_coroutine_function
from bedrock_agentcore.runtime._health import Health
from bedrock_agentcore.runtime.models import PingStatus

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable
    from typing import Any, TypeVar

    from bedrock_agentcore.runtime.context import RequestContext
    from bedrock_agentcore.runtime.websocket import WebSocket

    F = TypeVar("F", bound=Callable[..., Any])
    A = TypeVar("A", bound=Callable[..., Awaitable[Any]])
    P = TypeVar("P", bound=Callable[[], object])
    W = TypeVar("W", bound=Callable[[WebSocket, RequestContext], Awaitable[Any]])


class BedrockAgentCoreApp:
    """An agent's application: one entrypoint, optionally a ping status, a WebSocket and background tasks."""

    def __init__(self, debug: bool = False, lifespan: Any = None, middleware: Any = None) -> None:
        """Make an application.

        Args:
            debug: answer debug actions (`_agent_core_app_action`) and log more.
            lifespan: an async context manager function, entered with the app before the first request and left
                after the last.
            middleware: refused; Starlette's middleware needs the AWS SDK.
        """
        if middleware:
            raise TypeError(
                "the built-in bedrock_agentcore has no middleware; "
                "add `bedrock-agentcore` to requirements.txt to run with the AWS SDK"
            )
        self.debug = debug
        self._entrypoint: Handler | None = None
        self._websocket_handler: Callable[..., Any] | None = None
        self._lifespan = lifespan
        self._health = Health()
        self._logger: logging.Logger | None = None

    # Registering

    def entrypoint(self, func: F) -> F:
        """Register the function that answers `POST /invocations`.

        It takes `(payload)` or `(payload, context)` and may be sync, async, a generator or an async generator; the
        last two are streamed as server-sent events. It also gets a `run` of its own.
        """
        self._entrypoint = Handler(func)

        def run(port: int = 8080, host: str | None = None) -> None:
            self.run(port, host)

        try:
            func.run = run  # type: ignore[attr-defined]
        except AttributeError:  # a bound method takes no attributes
            pass
        return func

    def ping(self, func: P) -> P:
        """Register the function that says this agent's status, as a `PingStatus` or its text."""
        self._health.custom = func
        return func

    def websocket(self, func: W) -> W:
        """Register the async function `(websocket, context)` that serves `/ws`; it must `accept()` first."""
        self._websocket_handler = func
        return func

    def async_task(self, func: A) -> A:
        """Make an async function count as background work: `/ping` says HealthyBusy while it runs."""
        if not is_coroutine_function(func):
            raise ValueError("@async_task can only be applied to async functions")
        name = func.__name__

        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            task_id = self.add_async_task(name)
            try:
                return await func(*args, **kwargs)
            except Exception:
                self.logger.exception("Async task failed: %s", name)
                raise
            finally:
                self.complete_async_task(task_id)

        wrapper.__name__ = name
        return wrapper  # type: ignore[return-value]

    # Background tasks and status

    def add_async_task(self, name: str, metadata: dict[str, Any] | None = None) -> int:
        """Begin background work by hand; returns the id that `complete_async_task` takes."""
        task_id = self._health.add_task(name, metadata)
        self._log("INFO", f"Async task started: {name} (ID: {task_id})")
        return task_id

    def complete_async_task(self, task_id: int) -> bool:
        """End background work; False if there is none of this id."""
        done = self._health.complete_task(task_id)
        if done is None:
            self._log("WARNING", f"Attempted to complete unknown task ID: {task_id}")
            return False
        name, seconds = done
        self._log("INFO", f"Async task completed: {name} (ID: {task_id}, Duration: {seconds:.2f}s)")
        return True

    def get_async_task_info(self) -> dict[str, Any]:
        """`{"active_count": N, "running_jobs": [{"name", "duration"}]}`."""
        return self._health.task_info()

    def report_progress(
        self,
        fraction: float | None = None,
        message: str | None = None,
        *,
        checkpoint: Any = None,
        task_id: str | None = None,
        **data: Any,
    ) -> None:
        """Say how far the asynchronous task is that is worked on: its status and `agentcore task wait` show it.

            app.report_progress(0.4, "page 2 of 5", checkpoint={"page": 2}, tokens=1800)

        From handlers, sync and async, and from threads: one that did not inherit the request's context is understood as
        long as one task alone runs in the session, else say `task_id`. Outside of a task it is a line of the log. A few
        records a second are kept, the newest of them.

        Args:
            fraction: how much is done, from 0 to 1; leave it out if nobody knows.
            message: what is being done, for people.
            checkpoint: where a later attempt can go on (`context.checkpoint`); it stays until there is another one.
                Anything that JSON can say, with the rest of the record 8 KiB at most.
            task_id: which task; that of the request by default.
            **data: more of your own, 16 KiB with everything else.

        Raises:
            ValueError: a value that is out of bounds, or that JSON cannot say. Nothing was reported.
        """
        from bedrock_agentcore.runtime import _progress
        from bedrock_agentcore.runtime.context import BedrockAgentCoreContext

        task_id = task_id or BedrockAgentCoreContext.get_task_id()
        _progress.write(_progress.line(task_id, fraction, message, checkpoint, data))

    def force_ping_status(self, status: PingStatus) -> None:
        """Say this status until `clear_forced_ping_status`."""
        self._health.forced = status

    def clear_forced_ping_status(self) -> None:
        """Go back to the custom or automatic status."""
        self._health.forced = None

    def get_current_ping_status(self) -> PingStatus:
        """The status that `/ping` gives now: forced, else custom, else automatic."""
        return self._health.status(lambda text: self._log("WARNING", text))

    # Logging

    @property
    def logger(self) -> logging.Logger:
        """The application's logger: JSON lines on standard error."""
        if self._logger is None:
            from bedrock_agentcore.runtime import _log

            self._logger = _log.make_logger(self.debug)
        return self._logger

    def _log(self, level: str, message: str) -> None:
        from bedrock_agentcore.runtime import _log

        if "logging" in sys.modules:
            self.logger.log(_log.LEVELS[level], "%s", message)
        elif self.debug or level != "DEBUG":
            _log.write(level, message)

    def _log_exception(self, message: str) -> None:
        """An error with its stack trace: to be called while it is being handled."""
        self.logger.exception("%s", message, stacklevel=2)

    # Serving

    def run(self, port: int = 8080, host: str | None = None, **options: Any) -> None:
        """Serve until SIGTERM or SIGINT.

        Args:
            port: the port to listen on.
            host: the address to listen on; `0.0.0.0` in a container or session, else `127.0.0.1`.
            **options: the AWS SDK hands these to uvicorn; here they are named in the log and otherwise ignored.
        """
        from bedrock_agentcore.runtime._server import Server

        if host is None:
            inside = os.environ.get("DOCKER_CONTAINER") or os.path.exists("/.dockerenv")
            host = "0.0.0.0" if inside else "127.0.0.1"
        try:
            server = Server(host, port, self._log_exception)
        except OSError as error:
            self._log("ERROR", f"Cannot listen on {host}:{port}: {error.strerror or error}")
            raise SystemExit(1) from None

        # From here on the port accepts; what answering needs is loaded while the first client connects.
        from bedrock_agentcore.runtime._dispatch import Dispatch

        if options:
            self._log("WARNING", f"Ignored by the built-in SDK: {', '.join(sorted(options))}")
        dispatch = Dispatch(self)
        try:
            dispatch.enter_lifespan(self._lifespan)
            try:
                server.serve(dispatch.answer, dispatch.answer_overloaded)
            finally:
                dispatch.leave_lifespan()
            server.finish()
        except KeyboardInterrupt:
            pass
