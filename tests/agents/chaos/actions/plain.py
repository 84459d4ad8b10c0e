"""Answers that are well made: at once, late, never, large, in pieces without end."""

import ctypes
import os
import threading
import time

from .processes import let_go

_marks = 0


def echo(payload):
    return {"echo": payload.get("value")}


def sleep(payload):
    time.sleep(payload.get("seconds", 1))
    return {"slept": payload.get("seconds", 1)}


def never(_payload):
    threading.Event().wait()


def big(payload):
    """A JSON string of this many bytes."""
    return "x" * payload.get("bytes", 1 << 20)


def fail(payload):
    raise RuntimeError(payload.get("message", "chaos: this handler raises"))


def stream(payload):
    """`events` (-1: without end) of `bytes` each, `delay` seconds apart; `fail_after` raises, `die_after` ends the process."""
    events, delay, filler = payload.get("events", 3), payload.get("delay", 0.0), "x" * payload.get("bytes", 0)
    number = 0
    while events < 0 or number < events:
        if number == payload.get("fail_after"):
            raise RuntimeError("chaos: this stream fails")
        if number == payload.get("die_after"):
            os._exit(9)
        yield {"event": number, "filler": filler}
        number += 1
        time.sleep(delay)


def count(_payload):
    """How often this process was asked: a second session, or a restarted agent, begins again at 1."""
    global _marks
    _marks += 1
    return {"count": _marks, "pid": os.getpid()}


def hold_gil(payload):
    """A blocking call that keeps the interpreter to itself, as bad C extensions do: /ping cannot be answered."""
    ctypes.PyDLL(None).sleep(int(payload.get("seconds", 5)))
    return {"held": payload.get("seconds", 5)}


def spin(payload):
    """`processes` that burn a processor each for `seconds`; with `wait` false they go on after the answer."""
    until = time.monotonic() + payload.get("seconds", 2)
    pids = []
    for _ in range(payload.get("processes", os.cpu_count() or 1)):
        pid = os.fork()
        if pid == 0:
            let_go()
            while time.monotonic() < until:
                pass
            os._exit(0)
        pids.append(pid)
    if not payload.get("wait", True):
        return {"spinning": pids}
    used = 0.0
    for pid in pids:
        usage = os.wait4(pid, 0)[2]
        used += usage.ru_utime + usage.ru_stime
    return {"cpu_seconds": used, "processes": len(pids)}


ACTIONS = {
    "echo": echo, "sleep": sleep, "never": never, "big": big, "fail": fail, "stream": stream, "count": count, "hold_gil": hold_gil,
    "spin": spin,
}
