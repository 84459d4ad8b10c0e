"""From a request to its answer: routes, entrypoint, forms of response (contract §1.4).

Runs in the connection's thread, each request inside a `contextvars.Context` of its own. What goes wrong in an agent's
function becomes an answer here; what goes wrong with the connection (`ClientGone`, `BadRequest`) goes up to `_server`.
"""

from __future__ import annotations

import json
import time
from contextvars import copy_context

from bedrock_agentcore.runtime import _asgi, _payload, models
from bedrock_agentcore.runtime._handler import is_async_generator, is_generator
from bedrock_agentcore.runtime._http import ClientGone, Connection
from bedrock_agentcore.runtime._loop import WorkerLoop
from bedrock_agentcore.runtime._stream import EventStream
from bedrock_agentcore.runtime.context import bind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bedrock_agentcore.runtime._handler import Handler
    from bedrock_agentcore.runtime._request import Request
    from bedrock_agentcore.runtime.app import BedrockAgentCoreApp
    from bedrock_agentcore.runtime.context import RequestContext

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_ROUTES = {"/invocations": ("POST",), "/ping": ("GET", "HEAD")}


class Dispatch:
    """Answers the requests of one application."""

    def __init__(self, app: BedrockAgentCoreApp) -> None:
        self._app = app
        self._loop = WorkerLoop()
        self._lifespan: Any = None
        # Connections' threads start with an empty context; requests see what the agent set at import.
        self._context = copy_context()

    def answer(self, connection: Connection, request: Request) -> None:
        """Answer one request."""
        self._context.copy().run(self._answer, connection, request)

    def answer_overloaded(self, connection: Connection, request: Request) -> None:
        """Answer one request from the accepting thread: `/ping`, or come back later."""
        if request.path == "/ping" and self._app._health.custom is None:
            self.answer(connection, request)
            return
        connection.discard_body(request)
        body = _payload.compact({"error": "Too many connections"})
        connection.respond(503, _JSON, body, [("retry-after", "1")])

    def _answer(self, connection: Connection, request: Request) -> None:
        path = request.path
        if path == "/invocations" and request.method == "POST":
            self._invoke(connection, request)
        elif path == "/ws" and self._is_handshake(request):
            self._websocket(connection, request)
        else:
            connection.discard_body(request)
            if path == "/ping" and request.method in ("GET", "HEAD"):
                self._ping(connection, request)
            elif path in _ROUTES:
                allowed = ", ".join(_ROUTES[path])
                connection.respond(405, _TEXT, b"Method Not Allowed", [("allow", allowed)])
            elif path.rstrip("/") in _ROUTES:
                location = path.rstrip("/") + (f"?{request.query_string}" if request.query_string else "")
                host = request.headers.get("host")
                connection.respond(307, _TEXT, b"", [("location", f"http://{host}{location}")])
            else:
                connection.respond(404, _TEXT, b"Not Found")

    # GET /ping

    def _ping(self, connection: Connection, request: Request) -> None:
        try:
            status = {
                "status": self._app.get_current_ping_status().value,
                "time_of_last_update": self._app._health.since,
            }
        except Exception:
            self._app._log_exception("Ping endpoint failed")
            status = {"status": models.PingStatus.HEALTHY.value, "time_of_last_update": int(time.time())}
        connection.respond(200, _JSON, _payload.compact(status), body_follows=request.method != "HEAD")

    # POST /invocations

    def _invoke(self, connection: Connection, request: Request) -> None:
        body = connection.read_body(request)
        request.set_body(body)
        context = bind(request.headers, request)
        started = time.monotonic()
        try:
            payload = json.loads(body)
        except (ValueError, RecursionError) as error:
            # RecursionError and over-long integers are not JSONDecodeErrors, but the caller's fault all the same.
            what = "Invalid encoding" if isinstance(error, UnicodeDecodeError) else "Invalid JSON"
            self._log_done("WARNING", f"{what} in request", started)
            self._respond_json(connection, 400, {"error": what, "details": str(error)})
            return
        try:
            self._run_entrypoint(connection, request, context, payload, started)
        except ClientGone:
            raise
        except Exception as error:
            self._respond_error(connection, error, started)
        except BaseException as error:
            # `sys.exit` in a handler: the AWS SDK's server answers this, and lives on.
            self._break_off_if_begun(connection, error)
            self._app._log_exception(f"Invocation ended by {type(error).__name__}")
            connection.respond(500, _TEXT, b"Internal Server Error")

    def _run_entrypoint(
        self,
        connection: Connection,
        request: Request,
        context: RequestContext,
        payload: Any,
        started: float,
    ) -> None:
        if self._app.debug and self._debug_action(connection, payload):
            return
        handler = self._app._entrypoint
        if handler is None:
            self._app._log("ERROR", "No entrypoint defined")
            self._respond_json(connection, 500, {"error": "No entrypoint defined"})
            return
        result = self._call(handler, payload, context)
        if is_generator(result):
            self._log_done("INFO", "Returning streaming response (generator)", started)
            self._stream(connection).send_sync(result)
        elif is_async_generator(result):
            self._log_done("INFO", "Returning streaming response (async generator)", started)
            self._stream(connection).send_async(result, self._loop)
        elif _asgi.is_response(result):
            level = "WARNING" if result.status_code >= 400 else "INFO"
            self._log_done(level, f"Invocation returned HTTP {result.status_code}", started)
            _asgi.send(result, connection, request, self._loop)
        else:
            answer = _payload.to_json(result, self._warn)
            self._log_done("INFO", "Invocation completed successfully", started)
            connection.respond(200, _JSON, answer)

    def _call(self, handler: Handler, payload: Any, context: RequestContext) -> Any:
        args = (payload, context) if handler.takes_context else (payload,)
        if handler.is_coroutine and not handler.is_async_generator:
            return self._loop.run(handler.function(*args))
        return handler.function(*args)

    def _stream(self, connection: Connection) -> EventStream:
        return EventStream(connection, self._warn, self._app._log_exception)

    def _respond_error(self, connection: Connection, error: Exception, started: float) -> None:
        self._break_off_if_begun(connection, error)
        if _asgi.is_http_exception(error):
            status, detail = error.status_code, error.detail  # type: ignore[attr-defined]
            level = "ERROR" if status >= 500 else "WARNING"
            self._log_done(level, f"HTTP {status}: {detail}", started)
            self._respond_json(connection, status, {"error": detail})
        else:
            self._app._log_exception(f"Invocation failed ({time.monotonic() - started:.3f}s)")
            self._respond_json(connection, 500, {"error": str(error)})

    def _break_off_if_begun(self, connection: Connection, error: BaseException) -> None:
        """An answer that is on its way can only be broken off: what was sent must not look like all of it."""
        if connection.head_sent:
            self._app._log_exception("Invocation failed after its answer began")
            raise ClientGone("the answer broke off") from error

    def _debug_action(self, connection: Connection, payload: Any) -> bool:
        """Answer `_agent_core_app_action`, if the payload has one."""
        action = payload.get("_agent_core_app_action")
        if not action:
            return False
        app, forced = self._app, None
        if action == models.TASK_ACTION_PING_STATUS:
            status = app.get_current_ping_status().value
            answer: dict[str, Any] = {"status": status, "time_of_last_update": app._health.since}
        elif action == models.TASK_ACTION_JOB_STATUS:
            answer = app.get_async_task_info()
        elif action == models.TASK_ACTION_FORCE_HEALTHY:
            forced = models.PingStatus.HEALTHY
        elif action == models.TASK_ACTION_FORCE_BUSY:
            forced = models.PingStatus.HEALTHY_BUSY
        elif action == models.TASK_ACTION_CLEAR_FORCED_STATUS:
            app.clear_forced_ping_status()
            answer = {"forced_status": "Cleared"}
        else:
            app._log("WARNING", f"Unknown debug action requested: {action}")
            self._respond_json(connection, 400, {"error": f"Unknown action: {action}"})
            return True
        if forced is not None:
            app.force_ping_status(forced)
            answer = {"forced_status": forced.value}
        self._respond_json(connection, 200, answer)
        return True

    # GET /ws

    def _is_handshake(self, request: Request) -> bool:
        if "upgrade" not in request.headers:
            return False
        from bedrock_agentcore.runtime.websocket import is_handshake

        return is_handshake(request)

    def _websocket(self, connection: Connection, request: Request) -> None:
        from bedrock_agentcore.runtime._websocket_session import serve

        connection.keep_alive = False
        context = bind(request.headers, request)
        handler = self._app._websocket_handler
        if handler is None:
            self._app._log("ERROR", "No WebSocket handler defined")
        serve(connection, request, context, handler, self._loop, self._app._log_exception)

    # The application's lifespan

    def enter_lifespan(self, function: Any) -> None:
        """The agent's own set-up, on the worker loop, before the first request is answered."""
        if function is not None:
            self._lifespan = function(self._app)
            self._loop.run(self._lifespan.__aenter__())

    def leave_lifespan(self) -> None:
        """Its clean-up, after the last."""
        if self._lifespan is not None:
            self._loop.run(self._lifespan.__aexit__(None, None, None))

    # Small change

    def _respond_json(self, connection: Connection, status: int, value: Any) -> None:
        connection.respond(status, _JSON, _payload.compact(value))

    def _warn(self, message: str) -> None:
        self._app._log("WARNING", message)

    def _log_done(self, level: str, message: str, started: float) -> None:
        self._app._log(level, f"{message} ({time.monotonic() - started:.3f}s)")
