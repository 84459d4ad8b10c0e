"""What can go wrong with a call: one base class, and a subclass where a caller would act differently."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from email.message import Message


class AgentCoreError(Exception):
    """A call failed.

    Attributes:
        message: what happened, for a person.
        status: the daemon's HTTP status; None if it gave no (complete) answer.
        error: the AWS error name (`ResourceNotFoundException`, `ThrottlingException`, …), if the daemon gave one.
        request_id: for finding the call in the daemon's log.
        fields: field by field what a request got wrong: `{"name": …, "message": …}` each.
        retry_after: seconds to wait before another attempt, if the daemon said so.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        error: str | None = None,
        request_id: str | None = None,
        fields: list[dict[str, str]] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.error = error
        self.request_id = request_id
        self.fields = fields or []
        self.retry_after = retry_after

    def __str__(self) -> str:
        facts = [str(self.status)] if self.status is not None else []
        facts += [self.error] if self.error else []
        facts += [f"request {self.request_id}"] if self.request_id else []
        return f"{self.message} ({', '.join(facts)})" if facts else self.message


class UnreachableError(AgentCoreError):
    """Nobody answered at the endpoint: the daemon is not running, or it is somewhere else."""


class TimedOutError(AgentCoreError):
    """The daemon sent nothing for `timeout` seconds. The agent may still be at work."""


class TruncatedAnswerError(AgentCoreError):
    """The answer broke off. What came before it is not the whole."""


class AgentFailedError(AgentCoreError):
    """The agent, not the runtime, failed (HTTP 424): it died, could not start, or answered with an error.

    Attributes:
        agent_status: the agent's own HTTP status, if it answered.
        agent_body: what it answered, cut to a bounded length by the daemon.
        agent_log: the last lines that it logged.
    """

    def __init__(
        self,
        message: str,
        *,
        agent_status: int | None = None,
        agent_body: str | None = None,
        agent_log: list[str] | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.agent_status = agent_status
        self.agent_body = agent_body
        self.agent_log = agent_log or []


def from_answer(status: int, headers: Message, body: bytes) -> AgentCoreError:
    """The error that a non-2xx answer stands for: AWS-shaped, an RFC 9457 problem, or an agent's own."""
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = None
    told: dict[str, Any] = parsed if isinstance(parsed, dict) else {}
    message = _text(told, "message", "Message", "detail", "title", "error")
    if message is None:
        message = body[:500].decode("utf-8", "replace").strip() or f"HTTP {status}"
    # `Name:http://…` and `namespace#Name` are forms that AWS services use as well.
    name = headers.get("x-amzn-ErrorType") or _text(told, "__type", "code") or ""
    facts: dict[str, Any] = {
        "status": status,
        "error": name.split(":")[0].rsplit("#", 1)[-1] or None,
        "request_id": headers.get("x-amzn-RequestId") or _text(told, "requestId"),
        "fields": _fields(told),
        "retry_after": _retry_after(headers),
    }
    if status != 424:
        return AgentCoreError(message, **facts)
    log = told.get("agentLog")
    return AgentFailedError(
        message,
        agent_status=_number(told, "agentStatus"),
        agent_body=_text(told, "agentBody"),
        agent_log=[str(line) for line in log] if isinstance(log, list) else None,
        **facts,
    )


def _text(told: dict[str, Any], *names: str) -> str | None:
    for name in names:
        if isinstance(told.get(name), str):
            return str(told[name])
    return None


def _number(told: dict[str, Any], name: str) -> int | None:
    value = told.get(name)
    return value if isinstance(value, int) else None


def _fields(told: dict[str, Any]) -> list[dict[str, str]]:
    listed = told.get("fieldList") or told.get("errors")
    entries = listed if isinstance(listed, list) else []
    return [{key: str(value) for key, value in entry.items()} for entry in entries if isinstance(entry, dict)]


def _retry_after(headers: Message) -> float | None:
    """`x-amz-retry-after` is in milliseconds (contract §7.3), `Retry-After` in seconds."""
    for name, unit in (("x-amz-retry-after", 0.001), ("Retry-After", 1.0)):
        value = headers.get(name) or ""
        if value.isascii() and value.isdigit():
            return int(value) * unit
    return None
