"""Whether this process can be forked into sessions, and if not, why, in words for the agent's author."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings

# What any number of sessions may have open.
_HARMLESS = ("/dev/null", "/dev/urandom", "/dev/random")
# Where files lie that no session can write.
_READ_ONLY = ("/usr/", "/app/")

# For threads that end by themselves: as long as a process that does not end them should be waited for.
_PATIENCE = 2.0
_PAUSE = 0.005


def why_not(own: int) -> str | None:
    """The first reason; `own` is the template's own descriptor."""
    return _threads() or _processes() or _descriptors(own) or _memory() or _timers() or _loop()


def _threads() -> str | None:
    if _running() > 1:
        _as_before_a_fork()
    number = _running()
    if number == 1:
        return None
    names = ""
    if "threading" in sys.modules:
        others = [thread.name for thread in sys.modules["threading"].enumerate()[1:]]
        names = f" ({', '.join(others)})" if others else ""
    return f"loading it has started threads: {number} are running{names}"


def _running() -> int:
    return len(os.listdir("/proc/self/task"))


def _as_before_a_fork() -> None:
    """Let threads end that do: those of a loop that is gone, and those of libraries that end theirs before each fork
    and start them again when they need them, as numpy's OpenBLAS does."""
    with warnings.catch_warnings():
        # That there are threads is why.
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        os._exit(0)
    until = time.monotonic() + _PATIENCE
    # It hangs if it wants what a thread had that it has not: then the number of threads says why this cannot be forked.
    ended = False
    while not (ended and _running() == 1) and time.monotonic() < until:
        ended = ended or _has_ended(child, os.WNOHANG)
        time.sleep(_PAUSE)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _has_ended(child, 0)


def _has_ended(child: int, options: int) -> bool:
    try:
        return os.waitpid(child, options)[0] == child
    except ChildProcessError:
        # The program waits for its children itself, in a handler of SIGCHLD.
        return True


def _processes() -> str | None:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return "loading it has started another process"


def _descriptors(own: int) -> str | None:
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        if int(name) <= 2 or int(name) == own:
            continue
        try:
            what = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # That of the list itself.
        if what in _HARMLESS:
            continue
        if what.startswith("socket:"):
            return f"loading it has left a socket open (descriptor {name})"
        return f"loading it has left {what} open (descriptor {name})"
    return None


def _memory() -> str | None:
    with open("/proc/self/maps") as maps:
        for line in maps:
            fields = line.split(maxsplit=5)
            where = fields[5].rstrip() if len(fields) > 5 else "memory of no file"
            harmless = "w" not in fields[1] and where.startswith(_READ_ONLY) and not where.endswith(" (deleted)")
            if fields[1].endswith("s") and not harmless:
                return f"loading it has made shared memory ({where}), which forks would share"
    return None


def _timers() -> str | None:
    kinds = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
    if any(signal.getitimer(kind)[0] for kind in kinds):
        return "loading it has set a timer, which forks would not have"
    return None


def _loop() -> str | None:
    asyncio = sys.modules.get("asyncio")
    if asyncio and asyncio._get_running_loop() is not None:
        return "the program serves inside an event loop of its own"
    return None
