"""What the agent was given, read before anything else runs.

Imported first by main.py: the SDK opens sockets and the interpreter changes the environment (LC_CTYPE),
so what the *runtime* handed over can only be told here. Read once, never changed.
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
