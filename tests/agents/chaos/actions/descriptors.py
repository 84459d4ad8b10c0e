"""Descriptors without end."""

import errno
import os
import resource

_held = []


def fd_bomb(payload):
    """Open until refused (or `count`); released with the answer unless `keep`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    opened, stopped = [], None
    try:
        while len(opened) < payload.get("count", 10_000_000):
            opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as fault:
        stopped = errno.errorcode[fault.errno]
    got = len(opened)
    if payload.get("keep"):
        # All but a few: the answer itself needs a descriptor or two.
        for _ in range(min(16, got)):
            os.close(opened.pop())
        _held.extend(opened)
    else:
        for descriptor in opened:
            os.close(descriptor)
    return {"opened": got, "stopped": stopped, "limit": [soft, hard]}


def release_fds(_payload):
    count = len(_held)
    while _held:
        os.close(_held.pop())
    return {"released": count}


ACTIONS = {"fd_bomb": fd_bomb, "release_fds": release_fds}
