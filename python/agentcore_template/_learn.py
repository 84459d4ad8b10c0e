"""What the first request imports: learnt from a child that serves two requests and is thrown away.

Half of a first answer's time is imports that the program itself does not make. No payload is invented: the child is
asked how it is, and sent a body that is no JSON, which every SDK refuses before an agent's function is called."""

from __future__ import annotations

import importlib
import os
import select
import signal
import socket
import sys
import time

# For both requests together.
_SECONDS = 30.0
_PAUSE = 0.002

IN_CHILD = object()
"""What `learn` gives in the child, which is to go on and serve."""

_REQUESTS = (
    b"GET /ping HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    b"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1\r\n\r\n{",
)


def learn(host: str, port: int) -> object:
    """Import it here as well. Gives `IN_CHILD` in the child, and in the parent nothing, or why it did not work."""
    asked_read, asked_write = os.pipe()
    told_read, told_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(asked_write)
        os.close(told_read)
        _tell_when_asked(asked_read, told_write)
        return IN_CHILD
    os.close(asked_read)
    os.close(told_write)
    deadline = time.monotonic() + _SECONDS
    try:
        address = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host
        for request in _REQUESTS:
            problem = _ask(address, port, request, child, deadline)
            if problem:
                return problem
        os.close(asked_write)
        asked_write = -1
        names = _read_all(told_read, deadline)
    finally:
        if asked_write >= 0:
            os.close(asked_write)
        os.close(told_read)
        _end(child)
    for name in names:
        _load(name)
    return None


def _tell_when_asked(asked: int, told: int) -> None:
    import threading

    def tell() -> None:
        os.read(asked, 1)
        names = "\n".join(name for name in list(sys.modules) if name)
        with os.fdopen(told, "w", encoding="utf-8", errors="replace") as stream:
            stream.write(names)
        os._exit(0)

    threading.Thread(target=tell, daemon=True).start()


def _ask(host: str, port: int, request: bytes, child: int, deadline: float) -> str | None:
    """Send one request and take its answer, whatever it is. Why it could not be done."""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return f"a test request on port {port} was not answered within {_SECONDS:g} s"
        try:
            with socket.create_connection((host, port), timeout=left) as link:
                link.sendall(request)
                while link.recv(65536):
                    pass
                return None
        except ConnectionRefusedError:
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return f"the program ended instead of serving on port {port}"
            # Nothing tells when another process begins to listen.
            time.sleep(_PAUSE)
        except OSError as error:
            return f"a test request on port {port} failed: {error}"


def _read_all(told: int, deadline: float) -> list[str]:
    parts = []
    while select.select([told], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(told, 65536)
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode("utf-8", "replace").split("\n")


def _end(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _load(name: str) -> None:
    if not name or name in sys.modules or name.startswith("__"):
        return
    try:
        importlib.import_module(name)
    except BaseException:
        pass  # Made by hand in the child, or not to be imported twice: then the first request does it.
