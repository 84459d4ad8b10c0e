"""Asynchronous tasks on the daemon's `/v1`: paths, and waiting for an outcome over whatever happens meanwhile."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from agentcore_client import events
from agentcore_client.errors import AgentCoreError, TimedOutError, TruncatedAnswerError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentcore_client.endpoint import Answer

# The last statuses, of which a task has exactly one, once.
OUTCOMES = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT", "LOST"})

# A stream of events says something every so often; nothing for so long means that the connection is dead.
_SILENCE = 60.0
# Between attempts to go on: at first, at most.
_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


def path(task_id: str, tail: str = "") -> str:
    """Where a task is."""
    if not task_id:
        raise ValueError("task_id: the id of a task is needed")
    return f"/v1/tasks/{quote(task_id, safe='')}{tail}"


def submission(name: str, **wishes: Any) -> str:
    """Where tasks of a runtime, given by name, id or ARN, are submitted; wishes that are None are left out."""
    given = {wish: value for wish, value in wishes.items() if value is not None}
    query = f"?{urlencode(given)}" if given else ""
    return f"/v1/runtimes/{quote(_plain_name(name), safe='')}/tasks{query}"


def document(answer: Answer) -> dict[str, Any]:
    """The JSON object that answers."""
    try:
        found = json.loads(answer.read())
    except ValueError as error:
        raise AgentCoreError(f"the daemon's answer is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise AgentCoreError("the daemon's answer is not an object")
    return found


def wait(
    send: Callable[..., Answer],
    task_id: str,
    timeout: float | None,
    on_progress: Callable[[dict[str, Any]], None] | None,
) -> dict[str, Any]:
    """Follow a task's events to its outcome, from where they broke off; then the task itself."""
    until = None if timeout is None else time.monotonic() + timeout
    last_id: str | None = None
    pause = _PAUSE
    while True:
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            raise TimedOutError(f"task {task_id} has no outcome after {timeout:g} s; it goes on")
        headers = {"Accept": "text/event-stream"}
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        try:
            silence = _SILENCE if left is None else min(_SILENCE, left)
            answer = send("GET", path(task_id, "/events"), headers, None, silence)
            try:
                for number, data in events.parse_numbered(answer.pieces()):
                    last_id, pause = number or last_id, _PAUSE
                    event = json.loads(data)
                    if event.get("type") == "progress" and on_progress is not None:
                        on_progress(event["progress"])
                    # Each event is a chance to notice: an agent may report for ever.
                    if until is not None and time.monotonic() > until:
                        break
            finally:
                answer.close()
            # Only an outcome ends a stream of events in order; but who ends it may also be a daemon that stops.
            task = document(send("GET", path(task_id), {"Accept": "application/json"}, None, silence))
            if task.get("status") in OUTCOMES:
                return task
        except (UnreachableError, TruncatedAnswerError, TimedOutError):
            pass
        except AgentCoreError as error:
            # Starting, stopping, or too busy; anything else is about this task.
            if error.status not in (429, 503):
                raise
        time.sleep(pause if until is None else max(0.0, min(pause, until - time.monotonic())))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _plain_name(name: str) -> str:
    """The plain name in a name, an id (`name-AbCdEf1234`) or an ARN: `/v1` knows names."""
    _, _, last = name.rpartition(":runtime/")
    plain, dash, _ = last.partition("/")[0].rpartition("-")
    return plain if dash else last.partition("/")[0]
