"""The agent of the wire tests, run under both SDKs: `$AGENT_KIND` picks its entrypoint, the payload what it does."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bedrock_agentcore import BedrockAgentCoreApp, BedrockAgentCoreContext, PingStatus, RequestContext

KIND = os.environ["AGENT_KIND"]
app = BedrockAgentCoreApp(debug=KIND == "debug")
inherited: contextvars.ContextVar[str] = contextvars.ContextVar("inherited")
inherited.set("from import")


@dataclass
class Point:
    x: int
    tags: list[str] = field(default_factory=list)


class Model:
    def model_dump(self) -> dict[str, Any]:
        return {"dumped": True}


class Opaque:
    def __str__(self) -> str:
        return "opaque é"


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def deep(levels: int) -> Any:
    value: Any = Point(1)
    for _ in range(levels):
        value = [value]
    return value


def loop() -> Any:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


VALUES: dict[str, Any] = {
    "none": None,
    "text": 'é "quoted"',
    "number": 1.5,
    "dict": {"a": [1, 2, {"b": None}], "ü": "é", "emoji": "\N{ROCKET}"},
    "tuple": (1, 2),
    "set": {7},
    "dataclass": Point(1, ["a"]),
    "dataclass_inside": {"points": [Point(2)], "set": {1}},
    "model": Model(),
    "opaque": Opaque(),
    "opaque_inside": {"a": Opaque()},
    "hostile": Hostile(),
    "bytes": b"raw",
    "bad_keys": {(1, 2): 3},
    "deep": deep(60),
    "loop": loop(),
    "nan": float("nan"),
    "surrogate": "\ud800",
    "class": Point,
}


def value(name: str) -> Any:
    return VALUES[name]


def facts(context: RequestContext | None = None) -> dict[str, Any]:
    """Everything that an agent can learn of its request."""
    known = BedrockAgentCoreContext
    return {
        "request_id": known.get_request_id(),
        "session_id": known.get_session_id(),
        "token": known.get_workload_access_token(),
        "callback": known.get_oauth2_callback_url(),
        "headers": known.get_request_headers(),
        "experiment": [known.get_routing_experiment_arn(), known.get_routing_experiment_variant()],
        "inherited": inherited.get(None),
        "context": None if context is None else [context.session_id, context.request_headers],
        "path": None if context is None else context.request.url.path,
        "query": None if context is None else dict(context.request.query_params),
    }


def act(payload: Any, context: RequestContext | None) -> Any:
    case = payload.get("case") if isinstance(payload, dict) else None
    if case == "value":
        return value(payload["name"])
    if case == "raise":
        raise ValueError(payload["text"])
    if case == "facts":
        return facts(context)
    if case == "sleep":
        time.sleep(payload["seconds"])
        return "slept"
    if case == "wait_for":
        # Blocks the handler until the test lets it go on: no guessing at durations.
        Path(payload["begun"]).touch()
        while not Path(payload["file"]).exists():
            time.sleep(0.005)
        return "released"
    if case == "thread":
        return {"main": threading.current_thread() is threading.main_thread(), "name": threading.current_thread().name}
    if case == "progress":
        return progress(payload, context)
    if case == "length":
        return len(payload["data"])
    if case == "task":
        return {"added": bool(app.add_async_task("job", {"k": "v"})), "info": app.get_async_task_info()["active_count"]}
    if case == "complete_unknown":
        return app.complete_async_task(12345)
    if case == "force":
        app.force_ping_status(PingStatus(payload["status"]))
        return app.get_current_ping_status().value
    if case == "clear":
        app.clear_forced_ping_status()
        return app.get_current_ping_status().value
    if case == "exit":
        sys.exit(payload["code"])
    if case == "response":
        return starlette_response(payload)
    if case == "http_exception":
        from starlette.exceptions import HTTPException

        raise HTTPException(payload["status"], detail=payload["detail"])
    if case == "sdk":
        return sys.modules["bedrock_agentcore"].__file__
    if case == "log":
        app.logger.info("said %s", payload["text"])
        return "logged"
    return payload


def progress(payload: Any, context: RequestContext | None) -> Any:
    """Report from this thread, or from `threads` of its own while others write half lines; what the task is."""
    if "threads" not in payload:
        app.report_progress(*payload.get("args", []), **payload.get("report", {}))
        return None if context is None else [context.task_id, context.attempt, context.progress, context.checkpoint]

    def report(number: int) -> None:
        for step in range(payload["each"]):
            app.report_progress(message="x" * 3000, number=number, step=step)

    def work(number: int) -> None:
        if payload["inherit"]:
            contexts[number].run(report, number)
        else:
            report(number)

    contexts = [contextvars.copy_context() for _ in range(payload["threads"])]
    threads = [threading.Thread(target=work, args=(number,)) for number in range(payload["threads"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return "reported"


def starlette_response(payload: dict[str, Any]) -> Any:
    from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

    form = payload["form"]
    if form == "json":
        return JSONResponse({"made": "here"}, status_code=payload["status"], headers={"x-agent": "yes"})
    if form == "text":
        return PlainTextResponse("plain é", status_code=payload["status"])
    if form == "stream":
        return StreamingResponse(iter([b"one ", b"two"]), media_type="application/x-pieces")
    return Response(status_code=payload["status"])


def items(payload: Any) -> Iterator[Any]:
    for name in payload.get("names", []):
        yield value(name)
    if payload.get("facts"):
        yield facts()
    if "raise" in payload:
        raise ValueError(payload["raise"])
    if "exit" in payload:
        sys.exit(payload["exit"])


async def async_items(payload: Any) -> AsyncIterator[Any]:
    for item in items(payload):
        await asyncio.sleep(0)
        yield item


async def endless(payload: dict[str, Any]) -> AsyncIterator[Any]:
    """Waits for ever in its second step (or yields for ever, with `ticks`), and tells in a file how that ended."""
    try:
        yield "first"
        while payload.get("ticks"):
            await asyncio.sleep(0.005)
            yield "tick"
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        Path(payload["told"]).write_text("cancelled")
        raise
    finally:
        Path(payload["closed"]).touch()


def endless_sync(payload: dict[str, Any]) -> Iterator[Any]:
    try:
        while True:
            yield "x" * 1000
            time.sleep(0.005)
    finally:
        Path(payload["closed"]).touch()


if KIND in ("sync", "debug"):

    @app.entrypoint
    def sync_entry(payload: Any, context: RequestContext) -> Any:
        if isinstance(payload, dict) and payload.get("case") == "returned_generator":
            return items(payload)
        if isinstance(payload, dict) and payload.get("case") == "returned_async_generator":
            return async_items(payload)
        return act(payload, context)

elif KIND == "signal":
    signal.signal(signal.SIGUSR1, lambda *_: Path(os.environ["AGENT_SIGNALLED"]).touch())

    @app.entrypoint
    def signal_entry(payload: Any) -> Any:
        return payload

elif KIND == "payload_only":

    @app.entrypoint
    def payload_entry(payload: Any) -> Any:
        return act(payload, None)

elif KIND == "async":

    @app.async_task
    async def job(seconds: float) -> None:
        await asyncio.sleep(seconds)

    @app.entrypoint
    async def async_entry(payload: Any, context: RequestContext) -> Any:
        await asyncio.sleep(0)
        if isinstance(payload, dict) and payload.get("case") == "job":
            await job(payload["seconds"])
            return app.get_async_task_info()
        if isinstance(payload, dict) and payload.get("case") == "job_status":
            background = asyncio.ensure_future(job(30))
            await asyncio.sleep(0)
            info = app.get_async_task_info()
            status = app.get_current_ping_status().value
            background.cancel()
            return [info["active_count"], info["running_jobs"][0]["name"], status]
        if isinstance(payload, dict) and payload.get("case") == "returned_async_generator":
            return async_items(payload)
        return act(payload, context)

elif KIND == "generator":

    @app.entrypoint
    def generator_entry(payload: Any) -> Iterator[Any]:
        yield from endless_sync(payload) if "closed" in payload else items(payload)

elif KIND == "async_generator":

    @app.entrypoint
    async def async_generator_entry(payload: Any) -> AsyncIterator[Any]:
        async for item in endless(payload) if "closed" in payload else async_items(payload):
            yield item

elif KIND == "callable":

    class Entry:
        async def __call__(self, payload: Any, context: RequestContext) -> Any:
            return {"session": context.session_id, "thread": threading.current_thread().name}

    app.entrypoint(Entry())

elif KIND == "partial":
    import functools

    def partial_entry(extra: str, payload: Any, context: RequestContext) -> Any:
        return {"extra": extra, "session": context.session_id}

    app.entrypoint(functools.partial(partial_entry, "bound"))

elif KIND == "wrapped":
    import functools

    def plain(payload: Any, context: RequestContext) -> Any:
        return {"session": context.session_id}

    @functools.wraps(plain)
    def wrapper(*args: Any) -> Any:
        return plain(*args)

    app.entrypoint(wrapper)

elif KIND in ("ping_text", "ping_enum", "ping_raises", "ping_nonsense", "ping_wrong_type"):

    @app.ping
    def custom_ping() -> Any:
        if KIND == "ping_raises":
            raise RuntimeError("no status today")
        return {
            "ping_text": "HealthyBusy",
            "ping_enum": PingStatus.HEALTHY_BUSY,
            "ping_nonsense": "Sleepy",
            "ping_wrong_type": 17,
        }[KIND]

    @app.entrypoint
    def ping_entry(payload: Any) -> Any:
        return act(payload, None)

elif KIND == "lifespan":
    import contextlib

    @contextlib.asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        state = Path(os.environ["AGENT_STATE"])
        state.write_text("entered")
        yield
        state.write_text("left")

    app = BedrockAgentCoreApp(lifespan=lifespan)

    @app.entrypoint
    def lifespan_entry(payload: Any) -> Any:
        return Path(os.environ["AGENT_STATE"]).read_text()

elif KIND == "websocket":

    @app.websocket
    async def websocket_entry(websocket: Any, context: RequestContext) -> None:
        how = websocket.query_params.get("how", "echo")
        if how == "refuse":
            await websocket.close(code=1008)
            return
        if how == "raise_before":
            raise RuntimeError("before accept")
        await websocket.accept()
        if how == "facts":
            await websocket.send_json(facts(context) | {"thread": threading.current_thread().name, "headers": None})
        if how == "raise":
            raise RuntimeError("after accept")
        if how == "exit":
            sys.exit(3)
        if how == "return":
            return
        if how == "close":
            await websocket.close(code=4001, reason="enough")
            return
        if how == "text":
            async for text in websocket.iter_text():
                await websocket.send_text(text.upper())
            Path(os.environ["AGENT_STATE"]).write_text("iterated to the end")
            return
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                Path(os.environ["AGENT_STATE"]).write_text(f"disconnected {message['code']}")
                return
            await websocket.send(
                {"type": "websocket.send", **{k: message[k] for k in ("text", "bytes") if message.get(k) is not None}}
            )


if __name__ == "__main__":
    app.run(port=int(os.environ["AGENT_PORT"]))
