"""The template's link to its shim: one packet per message, descriptors on the message that needs them."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

# Largest packet: a session's environment is in it.
MAX_PACKET = 256 * 1024
# Most descriptors of a packet.
MAX_FDS = 6


class Orders:
    """What the shim says, and what it is told."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link

    @classmethod
    def claim(cls, number: int) -> Orders:
        """Take the socket that is this descriptor, and leave the null device in its place."""
        link = socket.socket(fileno=os.dup(number))
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, number)
        os.close(null)
        return cls(link)

    def fileno(self) -> int:
        """For whoever waits for it, or looks which descriptors are the template's own."""
        return self._link.fileno()

    def ready(self) -> None:
        """Say that forks can be asked for from now on."""
        self._say({"state": "ready"})

    def refuse(self, reason: str) -> None:
        """Say why this program is no template."""
        self._say({"state": "refused", "reason": reason[:1000]})

    def channel(self) -> socket.socket | None:
        """Wait for the next order: the channel to the session of a new fork; nothing if there will be none."""
        while True:
            text, fds = receive(self._link)
            if not text:
                return None
            if len(fds) == 1:
                return socket.socket(fileno=fds[0])
            for fd in fds:
                os.close(fd)

    def close(self) -> None:
        """Nothing more is to be heard here."""
        self._link.close()

    def _say(self, message: dict[str, Any]) -> None:
        try:
            self._link.send(json.dumps(message).encode())
        except OSError:
            pass  # A shim that is gone has ended this process's session.


def receive(link: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and its descriptors; no bytes at the end."""
    text, fds, flags, _ = socket.recv_fds(link, MAX_PACKET, MAX_FDS)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise OSError("a packet that does not fit")
    return text, fds
