"""Eating memory, each kind by another door: all of it must be charged to the session."""

import mmap
import os
import socket
import time

_eaten = []
_PIECE = 4 << 20


def eat(payload):
    """Up to `bytes` of `kind`, in pieces, `pause` seconds apart; answers how much it got, if it lives to.

    With `keep` (the default) it stays eaten until `release`."""
    wanted, kind = payload.get("bytes", 1 << 30), payload.get("kind", "anon")
    held, got, stopped = [], 0, None
    try:
        for piece in KINDS[kind](held):
            got += piece
            if got >= wanted:
                break
            time.sleep(payload.get("pause", 0))
    except (OSError, MemoryError) as fault:
        stopped = f"{type(fault).__name__}: {fault}"
    if payload.get("keep", True):
        _eaten.append(held)
    return {"kind": kind, "bytes": got, "stopped": stopped}


def release(_payload):
    """Let go of everything that was eaten (files included)."""
    count = len(_eaten)
    for held in _eaten:
        for thing in held:
            os.unlink(thing) if isinstance(thing, str) else thing.close()
    _eaten.clear()
    return {"released": count}


def _anonymous(held):
    while True:
        piece = mmap.mmap(-1, _PIECE)
        for offset in range(0, _PIECE, mmap.PAGESIZE):
            piece[offset] = 1
        held.append(piece)
        yield _PIECE


def _files_in(place):
    def eat_files(held):
        number = 0
        while True:
            path = f"{place}/eaten-{os.getpid()}-{len(_eaten)}-{number}"
            held.append(path)
            with open(path, "wb") as file:
                file.write(b"\1" * _PIECE)
            number += 1
            yield _PIECE

    return eat_files


def _memory_files(held):
    while True:
        file = os.fdopen(os.memfd_create("eaten"), "wb")
        file.write(b"\1" * _PIECE)
        file.flush()
        held.append(file)
        yield _PIECE


def _pipes(held):
    import fcntl

    while True:
        reader, writer = os.pipe()
        held.extend((os.fdopen(reader, "rb"), os.fdopen(writer, "wb", buffering=0)))
        try:
            size = fcntl.fcntl(writer, 1031, 1 << 20)
        except OSError:
            size = fcntl.fcntl(writer, 1032)  # what it has; beyond its quota a uid gets small pipes
        os.set_blocking(writer, False)
        yield os.write(writer, b"\1" * size)


def _sockets(held):
    while True:
        one, other = socket.socketpair()
        held.extend((one, other))
        one.setblocking(False)
        sent = 0
        try:
            while True:
                sent += one.send(b"\1" * 65536)
        except BlockingIOError:
            yield sent


def _tcp(held):
    """Connections over the session's own loopback that nobody reads from: both ends' buffers fill up."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        while True:
            one = socket.create_connection(listener.getsockname(), timeout=5)
            other, _ = listener.accept()
            held.extend((one, other))
            one.setblocking(False)
            sent, waited = 0, 0
            # Full is what stays full: what was sent needs a moment to be on the other side.
            while waited < 3:
                try:
                    sent += one.send(b"\1" * 65536)
                    waited = 0
                except BlockingIOError:
                    waited += 1
                    time.sleep(0.002)
            yield sent


def _names(held):
    """Names that are not there: each look-up leaves a negative entry in the kernel's cache (about 200 bytes)."""
    number = 0
    while True:
        for _ in range(5000):
            number += 1
            try:
                os.stat(f"/tmp/nothing-{number:0200d}")
            except FileNotFoundError:
                continue
        yield 5000 * 200


KINDS = {
    "anon": _anonymous, "tmpfs": _files_in("/tmp"), "shm": _files_in("/dev/shm"), "memfd": _memory_files, "pipe": _pipes,
    "socket": _sockets, "tcp": _tcp, "names": _names,
}

ACTIONS = {"eat": eat, "release": release}
