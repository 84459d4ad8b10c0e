"""Ways to end, or to stand still, in the middle of an invocation. None of these answers."""

import ctypes
import os
import signal
import sys
import threading

from starting import LAST_WORDS

from .processes import let_go


def _say():
    print(LAST_WORDS, file=sys.stderr, flush=True)


def exit_with(payload):
    """Exit `code` at once, without cleaning up."""
    _say()
    os._exit(payload.get("code", 1))


def kill_self(payload):
    """Signal `signal` (a number or a name, KILL) to the whole process."""
    wanted = payload.get("signal", "KILL")
    number = wanted if isinstance(wanted, int) else signal.Signals[f"SIG{wanted.removeprefix('SIG')}"]
    _say()
    os.kill(os.getpid(), number)
    threading.Event().wait()


def kill_all(payload):
    """kill(-1): everything that this uid may reach. Siblings and the daemon must not be among it."""
    _say()
    try:
        os.kill(-1, payload.get("signal", signal.SIGKILL))
    except ProcessLookupError:
        pass  # nobody else may be reached: kill(-1) spares its caller
    os.kill(os.getpid(), payload.get("signal", signal.SIGKILL))


def stop_self(_payload):
    """SIGSTOP: alive, and silent for ever."""
    os.kill(os.getpid(), signal.SIGSTOP)
    # Another thread may be the one that the signal meets first: this one must not answer before it is stopped too.
    threading.Event().wait(0.5)
    return {"stopped": True}  # only after somebody sent CONT


def segv(_payload):
    _say()
    ctypes.string_at(0)


def abort(_payload):
    _say()
    os.abort()


def leave(_payload):
    """The agent's process ends with status 0 while a child of it lives on and holds stdout."""
    if os.fork() == 0:
        os.setsid()
        let_go()
        threading.Event().wait()
    _say()
    os._exit(0)


ACTIONS = {
    "exit": exit_with, "kill_self": kill_self, "kill_all": kill_all, "stop_self": stop_self, "segv": segv, "abort": abort, "leave": leave,
}
