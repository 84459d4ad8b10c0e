"""The listening socket and the threads that serve its connections.

One thread per connection, taken from a pool of those that finished before: a blocking handler occupies its own
connection and nothing else, so `/ping` on another one is answered meanwhile, and a request is read, answered and
written without ever changing threads. The main thread only accepts, because Python runs signal handlers there.

Ending (SIGTERM, SIGINT): stop accepting ▸ close idle connections ▸ let answers that are being written finish ▸
raise the signal again for whoever handled it before. A second signal does not wait.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from _queue import SimpleQueue

from bedrock_agentcore.runtime._http import BadRequest, ClientGone, Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bedrock_agentcore.runtime._request import Request

# Threads count against the session's pids limit (256 by default); the agent needs some of its own.
MAX_CONNECTIONS = 128
_KEPT_THREADS = 8
_BACKLOG = 128
_ENDING = (signal.SIGTERM, signal.SIGINT)


class Server:
    """Listens from the moment it is made; answers from `serve` on; `finish` says how it ended."""

    def __init__(self, host: str, port: int, failed: Callable[[str], None]) -> None:
        self._failed = failed
        self._handlers_before: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._idle_threads = 0
        self._waiting: SimpleQueue[Connection] = SimpleQueue()
        self._connections: dict[Connection, bool] = {}  # whether it is answering
        self._signals: list[int] = []
        self._wakeup_before = -1
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((host, port))
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)

    @property
    def stopping(self) -> bool:
        """Whether no further request will be taken."""
        return bool(self._signals)

    def serve(
        self,
        answer: Callable[[Connection, Request], None],
        answer_overloaded: Callable[[Connection, Request], None],
    ) -> None:
        """Accept until a signal comes, then let finish what is being answered."""
        self._answer = answer
        self._answer_overloaded = answer_overloaded
        self._catch_signals()
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while not self.stopping:
            for ready, _ in poll.poll():
                if ready == self._wake_read:
                    self._read_wakes()
                else:
                    self._accept()
        self._drain()

    def finish(self) -> None:
        """Hand the signal to whoever handled it before."""
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        if self._handlers_before:
            signal.set_wakeup_fd(self._wakeup_before)
        # As uvicorn does: the exit status, or the agent's own handler, tells what ended it.
        for number in self._signals[:1]:
            signal.raise_signal(number)

    def _catch_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows handlers in the main thread only; its owner ends this server

        def ignore(_number: int, _frame: object) -> None:
            """What counts is the byte in the pipe."""

        # Python's own handlers run between two of its instructions: a signal that comes after the last look at the
        # flags and before poll() sleeps would wait for a connection. The byte that the C handler writes does not.
        self._wakeup_before = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in _ENDING:
            self._handlers_before[number] = signal.signal(number, ignore)

    def _read_wakes(self) -> None:
        """Wait for bytes in the pipe: numbers of signals, and zeros for connections that ended."""
        self._signals += [number for number in os.read(self._wake_read, 4096) if number in _ENDING]

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:
            pass  # a full pipe wakes as well

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return  # the client was gone before it was accepted
        except OSError:
            # Out of descriptors: the connection stays in the backlog and poll would return at once, so let some time
            # pass for others to close; a signal still ends the wait.
            select.select([self._wake_read], [], [], 0.1)
            return
        connection = Connection(sock)
        with self._lock:
            crowded = len(self._connections) >= MAX_CONNECTIONS
            self._connections[connection] = False
            reuse = not crowded and self._idle_threads > 0
            if reuse:
                self._idle_threads -= 1
        if reuse:
            self._waiting.put(connection)
        elif crowded or not self._start_thread(connection):
            self._serve_crowded(connection)

    def _start_thread(self, connection: Connection) -> bool:
        try:
            threading.Thread(target=self._work, args=(connection,), daemon=True, name="agentcore-connection").start()
        except RuntimeError:  # the session's pids limit is reached
            return False
        return True

    def _work(self, connection: Connection) -> None:
        while True:
            self._serve_connection(connection, self._answer)
            with self._lock:
                if self._idle_threads >= _KEPT_THREADS:
                    return
                self._idle_threads += 1
            connection = self._waiting.get()

    def _serve_crowded(self, connection: Connection) -> None:
        """Without a thread to spare: one request, here and now, so that `/ping` never goes unanswered."""
        connection.hurry()
        self._serve_connection(connection, self._answer_overloaded)

    def _serve_connection(self, connection: Connection, answer: Callable[[Connection, Request], None]) -> None:
        try:
            while True:
                request = connection.read_request()
                if request is None or not self._begin(connection):
                    break
                answer(connection, request)
                if not connection.keep_alive or not self._end(connection):
                    break
        except ClientGone:
            pass
        except BadRequest as error:
            self._refuse(connection, error)
        except BaseException:  # whatever an agent's function raised, this thread serves others after it
            self._failed("Connection failed")
        finally:
            connection.close()
            with self._lock:
                del self._connections[connection]
            if self.stopping:
                self._wake()

    def _refuse(self, connection: Connection, error: BadRequest) -> None:
        connection.keep_alive = False
        connection.linger = True
        try:
            connection.respond(error.status, "text/plain; charset=utf-8", error.text.encode("utf-8"))
        except ClientGone:
            pass

    def _begin(self, connection: Connection) -> bool:
        with self._lock:
            self._connections[connection] = True
        return not self.stopping

    def _end(self, connection: Connection) -> bool:
        with self._lock:
            self._connections[connection] = False
        return not self.stopping

    def _drain(self) -> None:
        self._listener.close()
        while len(self._signals) < 2:
            with self._lock:
                for connection, answering in self._connections.items():
                    connection.stop(answering)
                if not any(self._connections.values()):
                    return
            # A byte comes with every connection that ends and with every signal.
            self._read_wakes()
