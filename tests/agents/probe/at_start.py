"""What the agent was given, read before anything else runs.

Imported first by main.py: the SDK opens sockets and the interpreter changes the environment (LC_CTYPE),
so what the *runtime* handed over can only be told here. Read once, and once more in a fork.
"""

import ctypes
import os


def _read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _descriptors():
    """number -> what it points at; the descriptor of the listing itself is left out."""
    listing = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = {}
        for name in os.listdir(listing):
            if int(name) == listing:
                continue
            try:
                found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
            except OSError:
                pass  # the duplicate that os.listdir made, closed again by now
        return found
    finally:
        os.close(listing)


def _umask():
    now = os.umask(0o077)
    os.umask(now)
    return now


def _death_signal():
    """PR_GET_PDEATHSIG: the main thread's, which forks and further threads do not inherit."""
    value = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(value), 0, 0, 0)
    return value.value


FORKED = False
"""Whether the agent is a fork of the process that has loaded this."""


def be_seen():
    """In a child of a fork: dumpable (PR_SET_DUMPABLE), as the children of other agents are. A fork itself is not, and nor is what it forks:
    hidden from its own in /proc, which is no way out, but not what probes of others must meet."""
    if FORKED:
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)


def settle():
    """In the agent, before the first probe: a fork looks again. Of descriptors those count that it has from where it was loaded."""
    global FORKED, ENVIRONMENT, DESCRIPTORS, DIRECTORY, UMASK, PID, SESSION_LEADER, DEATH_SIGNAL, STATUS
    if os.getpid() == PID:
        return
    FORKED = True
    now = _descriptors()
    DESCRIPTORS = {
        number: target for number, target in now.items() if number <= 2 or DESCRIPTORS.get(number) == target
    }
    ENVIRONMENT = dict(os.environ)
    DIRECTORY, UMASK, PID = os.getcwd(), _umask(), os.getpid()
    SESSION_LEADER, DEATH_SIGNAL = os.getsid(0), _death_signal()
    STATUS = _read("/proc/self/status").decode()


# The environment as exec passed it: os.environ already shows what CPython added.
ENVIRONMENT = dict(
    entry.decode("utf-8", "surrogateescape").split("=", 1)
    for entry in _read("/proc/self/environ").split(b"\0")
    if b"=" in entry
)
DESCRIPTORS = _descriptors()
DIRECTORY = os.getcwd()
UMASK = _umask()
PID = os.getpid()
SESSION_LEADER = os.getsid(0)
DEATH_SIGNAL = _death_signal()
STATUS = _read("/proc/self/status").decode()
