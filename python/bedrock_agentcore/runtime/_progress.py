"""Progress of the task that is being answered: one line of output that the daemon reads (docs/tasks.md).

    ::agentcore-progress:: {"task": "…", "fraction": 0.4, "message": "page 2 of 5", "checkpoint": {"page": 2}}

Not part of the AWS SDK. A line, because every agent in every language can write one; outside of a task it is nothing
but a line of the log.
"""

from __future__ import annotations

import json
import os
from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MARK = "::agentcore-progress:: "
# Of a record's JSON. The second is what fits the header that brings a record to the next attempt.
MAX_RECORD = 16 * 1024
MAX_WITH_CHECKPOINT = 8 * 1024

_STANDARD_ERROR = 2
_writing = allocate_lock()


def line(
    task_id: str | None,
    fraction: float | None,
    message: str | None,
    checkpoint: Any,
    data: dict[str, Any],
) -> bytes:
    """The line of a record; raises if it is none that the daemon takes."""
    record: dict[str, Any] = {}
    if task_id is not None:
        record["task"] = task_id
    if fraction is not None:
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)):
            raise TypeError(f"fraction: a number from 0 to 1 is needed, not {type(fraction).__name__}")
        # Not a number fails both comparisons.
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction: a number from 0 to 1 is needed, not {fraction}; 40 percent is 0.4")
        record["fraction"] = fraction
    if message is not None:
        record["message"] = str(message)
    if checkpoint is not None:
        record["checkpoint"] = checkpoint
    if "task" in data:
        raise ValueError("task: the task is known; to report on another one say task_id")
    record.update(data)
    try:
        # ASCII, so that no locale and no cut inside a character can spoil it.
        text = json.dumps(record, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"progress must be what JSON can say: {error}") from error
    most = MAX_RECORD if checkpoint is None else MAX_WITH_CHECKPOINT
    if len(text) > most:
        what = "a record" if checkpoint is None else "a record with a checkpoint"
        raise ValueError(
            f"{what} may have {most} bytes of JSON, this one has {len(text)}; keep what is larger in a file of the "
            "session's storage and report its name"
        )
    return f"{MARK}{text}\n".encode("ascii")


def write(line: bytes) -> None:
    """Write it in one piece, past `sys.stderr`: an agent may have redirected that, or left half a line in it."""
    with _writing:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(_STANDARD_ERROR, rest) :]
