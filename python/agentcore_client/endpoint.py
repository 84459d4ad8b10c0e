"""Where the daemon is, and one HTTP exchange with it over a connection of its own.

A connection per call on purpose: a kept one may be closed under a request's feet, and whether the agent then ran is
unknown, so that it could be neither retried nor reported. Connecting to a Unix socket or loopback costs under 0.1 ms.
"""

from __future__ import annotations

import http.client
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agentcore_client.errors import TimedOutError, TruncatedAnswerError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT = "unix:/run/agentcore/api.sock"
VARIABLE = "AGENTCORE_ENDPOINT"
_PIECE = 64 * 1024


class Endpoint:
    """`unix:PATH`, `http://HOST[:PORT][/PREFIX]` or `https://…`; by default `$AGENTCORE_ENDPOINT`, else the socket."""

    def __init__(self, text: str | None = None) -> None:
        self.text = text or os.environ.get(VARIABLE) or DEFAULT
        self.prefix = ""
        self._path: str | None = None
        if self.text.startswith("unix:"):
            # `unix:/run/x` and `unix:///run/x` are both in use.
            self._path = self.text[len("unix:") :]
            if self._path.startswith("//"):
                self._path = self._path[2:]
            if not self._path:
                raise ValueError(f"endpoint {self.text!r} names no socket: write unix:/path/to/api.sock")
            return
        parts = urlsplit(self.text)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"endpoint {self.text!r} is neither unix:PATH nor http://HOST:PORT")
        self.prefix = parts.path.rstrip("/")
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port

    def send(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        timeout: float,
        body: bytes | None = None,
    ) -> Answer:
        """Send a request and wait for the head of its answer."""
        connection = self._connect(timeout)
        try:
            with _typed_errors(self.text, timeout):
                try:
                    connection.request(method, self.prefix + path, body, headers)
                except (BrokenPipeError, ConnectionResetError):
                    # The daemon may refuse a body before its end; then its answer is there to be read.
                    pass
                return Answer(self.text, connection, connection.getresponse(), timeout)
        except BaseException:
            connection.close()
            raise

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        if self._path is not None:
            connection: http.client.HTTPConnection = _UnixConnection(self._path, timeout)
        elif self._secure:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        try:
            connection.connect()
        except OSError as error:
            reason = error.strerror or str(error)
            raise UnreachableError(
                f"cannot reach the runtime at {self.text}: {reason}; "
                f"is agentcored running, and is {VARIABLE} or `endpoint` right?"
            ) from error
        return connection


class Answer:
    """An answer whose head has come; `pieces` gives its body and raises unless it came whole."""

    def __init__(
        self,
        endpoint: str,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        timeout: float,
    ) -> None:
        self._endpoint = endpoint
        self._connection = connection
        self._response = response
        self._timeout = timeout
        self.status = response.status
        self.headers = response.headers

    @property
    def content_type(self) -> str:
        """The media type, without parameters."""
        return str(self.headers.get_content_type()) if "content-type" in self.headers else ""

    def pieces(self) -> Iterator[bytes]:
        """The body, each piece as soon as it is there."""
        response = self._response
        try:
            with _typed_errors(self._endpoint, self._timeout):
                # Without a length or chunks a lost connection looks like the end of the answer.
                if not response.chunked and response.length is None:
                    raise TruncatedAnswerError("the answer does not say where it ends", status=self.status)
                while True:
                    # read1 tells a missing chunk, but takes an early end of a sized body for its end.
                    piece = response.read1(_PIECE)
                    if not piece:
                        break
                    yield piece
                if response.length:
                    raise TruncatedAnswerError(f"{response.length} bytes of the answer are missing", status=self.status)
        finally:
            self.close()

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.pieces())

    def close(self) -> None:
        """Hang up. Before the body's end this tells the daemon to cancel the invocation."""
        self._response.close()
        self._connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise


@contextmanager
def _typed_errors(endpoint: str, timeout: float) -> Iterator[None]:
    try:
        yield
    except (socket.timeout, TimeoutError) as error:
        raise TimedOutError(f"the runtime at {endpoint} sent nothing for {timeout:g} s") from error
    except (http.client.HTTPException, OSError) as error:
        what = str(error) or type(error).__name__
        raise TruncatedAnswerError(f"the runtime at {endpoint} broke off its answer: {what}") from error
