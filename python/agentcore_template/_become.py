"""From a fork of the template to the agent of a session.

Two forks, because joining a pid namespace is for children only. The session's shim, which nobody here can read, has
sent the namespaces through the channel; joining the user namespace, which the template's uid owns, gives every
capability in it, and with these the others are joined. The second fork then has nothing else to do than to give all
of it up again.

The order matters: what needs a capability comes before it is gone, the filter that forbids `setns` after the last
one, and nothing of the session (its environment, its requests) comes before the shim says "go", which it does when
the launcher has looked at this process from outside."""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import sys
import time
from typing import Any

from agentcore_template import _reseed, _system
from agentcore_template._orders import MAX_PACKET, receive

_CHANNEL = 3
_FIRST = 4
# Above the numbers above, and below every limit.
_ASIDE = 64


def join(channel: socket.socket, template: int) -> None:
    """Come back in the second fork, as the session's agent."""
    try:
        _, namespaces = receive(channel)
        text, rest = receive(channel)
        mount, *stdio = rest
        start = json.loads(text)
        # The first of them is the user namespace; the last is the mount namespace, behind which nothing here is found.
        for fd in (*namespaces, mount):
            _system.setns(fd)
        first = os.pidfd_open(os.getpid())
        if os.fork() != 0:
            os._exit(0)
        _become(channel, start, stdio, first, template)
    except BaseException as error:
        _give_up(channel, error)


def _give_up(channel: socket.socket, error: BaseException) -> None:
    try:
        channel.send(json.dumps({"error": f"{type(error).__name__}: {error}"[:1000]}).encode())
    except OSError:
        pass  # The session is gone as well.
    os._exit(1)


def _become(channel: socket.socket, start: dict[str, Any], stdio: list[int], first: int, template: int) -> None:
    if os.getpid() == template:
        raise RuntimeError("the fork has the template's process number, by which libraries notice a fork")
    os.setsid()
    _system.empty_bounding_set()
    _system.lock_securebits()
    uid, gid = start["uid"], start["gid"]
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _system.be_unreadable()
    _system.drop_capabilities()
    # Out of the way of each other's new places.
    kept = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ASIDE) for fd in (*stdio, channel.fileno(), first)]
    channel.detach()
    for number, fd in enumerate(kept):
        os.dup2(fd, number, inheritable=number < _CHANNEL)
    _system.close_from(len(kept))
    over = select.poll()
    over.register(_FIRST, select.POLLIN)
    _system.install_filter(bytes.fromhex(start["filter"]))
    os.chdir("/")
    # Looked at is also who will reap this process: the template's PID 1, once its parent has ended.
    over.poll()
    os.close(_FIRST)
    with socket.socket(fileno=_CHANNEL) as looked_at:
        looked_at.send(json.dumps({"pid": os.getpid()}).encode())
        go = looked_at.recv(MAX_PACKET)
    if not go:
        # The session is given up, or the launcher has found something.
        os._exit(1)
    _go(json.loads(go))


def _go(session: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(session["env"])
    time.tzset()
    os.chdir(session["cwd"])
    _reseed.reseed()
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - what it had buffered was the template's
