"""`RuntimeClient`: invoke one runtime's agent, in one session."""

from __future__ import annotations

import codecs
import json
import uuid
import weakref
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from agentcore_client import events, tasks
from agentcore_client.endpoint import Answer, Endpoint
from agentcore_client.errors import AgentCoreError, from_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

SESSION_HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
# The daemon gives a call 15 minutes and then answers 504; a little longer, so that its answer is the one heard.
TIMEOUT_SECONDS = 930.0


class RuntimeClient:
    """Calls a runtime by name, id or ARN.

    All calls of a client carry one session id, so they reach one isolated session, which the first call begins. The
    client may be used from several threads; whether the agent copes with parallel calls is its own affair.

    No invocation is retried: the client cannot know whether the agent ran. What only reads is: `wait_task` outlives a
    restart of the daemon.
    """

    def __init__(
        self,
        name: str,
        endpoint: str | None = None,
        *,
        session_id: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        """Make a client; nothing is sent yet.

        Args:
            name: the runtime's name, id or ARN.
            endpoint: `unix:PATH` or `http://HOST:PORT`; default `$AGENTCORE_ENDPOINT`, else the daemon's socket.
            session_id: 33 to 256 characters, to join or begin that session; default a new one of this client's own.
            timeout: seconds without a byte from the daemon after which a call gives up.
        """
        if not name:
            raise ValueError("name: the name, id or ARN of a runtime is needed")
        if session_id is not None and not (33 <= len(session_id) <= 256):
            raise ValueError(f"session_id: 33 to 256 characters are needed, {len(session_id)} were given")
        if session_id is not None and not (session_id.isascii() and session_id.isprintable()):
            raise ValueError("session_id: only printable ASCII can be sent")
        self.name = name
        self.endpoint = Endpoint(endpoint)
        self.session_id = session_id or str(uuid.uuid4())
        self.timeout = timeout
        self._open: weakref.WeakSet[Answer] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"RuntimeClient({self.name!r}, {self.endpoint.text!r}, session_id={self.session_id!r})"

    def __enter__(self) -> RuntimeClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up on streams that were not read to their end. The session lives on; `stop_session` ends it."""
        for answer in list(self._open):
            answer.close()

    def invoke(self, payload: Any) -> Any:
        """Call the agent and wait for its whole answer.

        Args:
            payload: sent as JSON; `bytes` are sent as they are.

        Returns:
            The answer parsed if it is JSON, a list of dicts (as `invoke_stream` yields them) if it is an event stream,
            a `str` if it is other text, else `bytes`.

        Raises:
            AgentFailedError: the agent failed.
            TruncatedAnswerError: the answer broke off.
            AgentCoreError: anything else.
        """
        return _whole(self._invoke(payload, "application/json"))

    def invoke_stream(self, payload: Any) -> Iterator[dict[str, Any]]:
        """Call the agent and yield its answer piece by piece.

        Every server-sent event becomes a dict: a JSON object as it is, text (or a JSON string) as `{"text": …}`, any
        other JSON value as `{"data": …}`. An agent that does not stream gives one dict, plain text one per piece read.
        Dropping the iterator before its end cancels the invocation. Raises as `invoke` does, also midway.
        """
        # The call is made here, not at the first next(): an error should appear where the call is written.
        return self._stream(self._invoke(payload, "text/event-stream, application/json"))

    def invoke_async(
        self,
        payload: Any,
        *,
        deadline: float | str | None = None,
        callback: str | None = None,
        retries: int = 0,
        backoff: float | str | None = None,
        idempotency_key: str | None = None,
        session_id: str | None = None,
    ) -> dict[str, Any]:
        """Submit a task: the agent is called without anybody waiting for it, for up to 8 hours unless told otherwise.

        On return the task is on the daemon's disk and will have exactly one outcome, whatever happens to this program.

        Args:
            payload: sent as JSON; `bytes` are sent as they are.
            deadline: after so many seconds, or a text such as `"90m"` or `"2h"`, the task is over, done or not.
            callback: a URL that is told of the outcome.
            retries: how often the task may be repeated after an attempt that did not succeed. Above 0 says that it is
                safe to repeat; otherwise a task that was interrupted ends as LOST.
            backoff: before the first retry; doubles with each.
            idempotency_key: the same key again is the same task, not another one.
            session_id: run it in this session; default the client's own.

        Returns:
            The task, as `get_task_status` shows it: `{"taskId": …, "status": "QUEUED", …}`.
        """
        content_type, body = _encoded(payload)
        headers = {
            SESSION_HEADER: session_id or self.session_id,
            "Accept": "application/json",
            "Content-Type": content_type,
        }
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        path = tasks.submission(
            self.name, deadline=deadline, callback=callback, retries=retries or None, backoff=backoff
        )
        return tasks.document(self._send("POST", path, headers, body))

    def get_task_status(self, task_id: str) -> dict[str, Any]:
        """A task as it is now.

        `taskId`, `status` (QUEUED, STARTING, RUNNING, or one of the outcomes SUCCEEDED, FAILED, CANCELLED, TIMED_OUT,
        LOST), `reason`, `attempts`, `progress`, times, `usage`, `result` and `callback`: see docs/tasks.md.
        """
        return tasks.document(self._send("GET", tasks.path(task_id), {"Accept": "application/json"}))

    def wait_task(
        self,
        task_id: str,
        timeout: float | None = None,
        *,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Wait until a task has its outcome; goes on over restarts of the daemon.

        Args:
            task_id: which.
            timeout: seconds after which `TimedOutError` is raised; the task goes on. Default: its deadline bounds it.
            on_progress: called with each progress record that the agent reports, as it comes.

        Returns:
            The task, as `get_task_status` shows it; its `status` says how it ended, nothing is raised for that.
        """
        return tasks.wait(self._send, task_id, timeout, on_progress)

    def cancel_task(self, task_id: str) -> dict[str, Any]:
        """Cancel a task, and its invocation if it runs; one that has its outcome keeps it. The task, as it is then."""
        path = tasks.path(task_id, "/cancel")
        return tasks.document(self._send("POST", path, {"Accept": "application/json"}, b""))

    def get_task_result(self, task_id: str) -> Any:
        """The answer of a task, as `invoke` returns one. Raises while there is none (409), or no more (404)."""
        return _whole(self._send("GET", tasks.path(task_id, "/result"), {}))

    def stop_session(self) -> None:
        """End this client's session: its agent gets SIGTERM and a grace period. A later call begins a clean one."""
        body = json.dumps({"clientToken": str(uuid.uuid4())}).encode("ascii")
        self._post("stopruntimesession", "application/json", "application/json", body).read()

    def _invoke(self, payload: Any, accept: str) -> Answer:
        return self._post("invocations", accept, *_encoded(payload))

    def _post(self, operation: str, accept: str, content_type: str, body: bytes) -> Answer:
        headers = {SESSION_HEADER: self.session_id, "Accept": accept, "Content-Type": content_type}
        # An ARN is one path label: its colons and slashes are escaped.
        path = f"/runtimes/{quote(self.name, safe='')}/{operation}"
        return self._send("POST", path, headers, body)

    def _send(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes | None = None,
        timeout: float | None = None,
    ) -> Answer:
        answer = self.endpoint.send(method, path, headers, timeout or self.timeout, body)
        if not 200 <= answer.status < 300:
            raise from_answer(answer.status, answer.headers, answer.read())
        self._open.add(answer)
        return answer

    @staticmethod
    def _stream(answer: Answer) -> Iterator[dict[str, Any]]:
        pieces = answer.pieces()
        try:
            if answer.content_type == "text/event-stream":
                for data in events.parse(pieces):
                    yield events.as_dict(data)
            elif answer.content_type.startswith("text/"):
                yield from ({"text": text} for text in _decode(pieces))
            else:
                body = b"".join(pieces)
                if _is_json(answer.content_type):
                    yield events.as_dict(body.decode("utf-8"))
                else:
                    yield {"data": body}
        finally:
            answer.close()


def _encoded(payload: Any) -> tuple[str, bytes]:
    """A payload's content type and bytes."""
    if isinstance(payload, (bytes, bytearray)):
        return "application/octet-stream", bytes(payload)
    return "application/json", json.dumps(payload).encode("utf-8")


def _whole(answer: Answer) -> Any:
    """An answer as `invoke` returns it."""
    kind = answer.content_type
    if kind == "text/event-stream":
        return [events.as_dict(data) for data in events.parse(answer.pieces())]
    body = answer.read()
    if _is_json(kind):
        try:
            return json.loads(body)
        except ValueError as error:
            raise AgentCoreError(f"the answer is not the JSON that it says it is: {error}") from error
    if kind.startswith("text/"):
        return body.decode("utf-8", "replace")
    return body


def _is_json(kind: str) -> bool:
    return kind == "application/json" or kind.endswith("+json")


def _decode(pieces: Iterable[bytes]) -> Iterator[str]:
    """Text as it comes, characters that a piece boundary cuts put together again."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces:
        text = decoder.decode(piece)
        if text:
            yield text
    text = decoder.decode(b"", final=True)
    if text:
        yield text
