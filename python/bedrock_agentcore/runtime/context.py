"""What an agent can learn about the request it is answering.

`RequestContext` is handed to entrypoints that ask for it; `BedrockAgentCoreContext` gives the same facts to
code further down that was handed nothing. Both are filled per request by `bind`, inside a context of the
request's own, so that two requests never see each other's values.
"""

from __future__ import annotations

import os
from contextvars import ContextVar

from bedrock_agentcore.runtime.models import (
    ACCESS_TOKEN_HEADER,
    AUTHORIZATION_HEADER,
    BAGGAGE_KEY_EXPERIMENT_ARN,
    BAGGAGE_KEY_EXPERIMENT_VARIANT,
    IDENTITY_WAT_HEADER,
    OAUTH2_CALLBACK_URL_HEADER,
    REQUEST_ID_HEADER,
    SESSION_HEADER,
    TASK_ATTEMPT_HEADER,
    TASK_CHECKPOINT_HEADER,
    TASK_ID_HEADER,
    is_forwardable_header,
)

TYPE_CHECKING = False  # `typing` costs 6 ms to import; type checkers know this name
if TYPE_CHECKING:
    from typing import Any

    from bedrock_agentcore.runtime._request import Headers


class RequestContext:
    """The second argument of an entrypoint whose second parameter is named `context`.

    `request` is this SDK's own `Request` (the AWS SDK hands out Starlette's): method, path, headers,
    `await body()`, `await json()`, `await is_disconnected()`.

    Of an asynchronous task (not in the AWS SDK, where the headers are in `request_headers`):

    `task_id`: the task's id; None for a call that somebody waits for.
    `attempt`: 1, or more when the task is repeated.
    `progress`: the last record that an earlier attempt reported, a dict.
    `checkpoint`: its `checkpoint`: where to go on. None at the first attempt, and if nothing was reported.
    """

    def __init__(
        self,
        session_id: str | None = None,
        request_headers: dict[str, str] | None = None,
        request: Any = None,
        *,
        task_id: str | None = None,
        attempt: int = 1,
        progress: dict[str, Any] | None = None,
    ) -> None:
        self.session_id = session_id
        self.request_headers = request_headers
        self.request = request
        self.task_id = task_id
        self.attempt = attempt
        self.progress = progress

    @property
    def checkpoint(self) -> Any:
        """Where an earlier attempt said that a later one can go on."""
        return None if self.progress is None else self.progress.get("checkpoint")

    def __repr__(self) -> str:
        return f"RequestContext(session_id={self.session_id!r}, request_headers={self.request_headers!r})"


class BedrockAgentCoreContext:
    """Class-level getters for the request that is being answered; None outside one."""

    _workload_access_token: ContextVar[str | None] = ContextVar("workload_access_token", default=None)
    _oauth2_callback_url: ContextVar[str | None] = ContextVar("oauth2_callback_url", default=None)
    _request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
    _session_id: ContextVar[str | None] = ContextVar("session_id", default=None)
    _request_headers: ContextVar[dict[str, str] | None] = ContextVar("request_headers", default=None)
    _routing_experiment_arn: ContextVar[str | None] = ContextVar("routing_experiment_arn", default=None)
    _routing_experiment_variant: ContextVar[str | None] = ContextVar("routing_experiment_variant", default=None)
    _task_id: ContextVar[str | None] = ContextVar("task_id", default=None)

    @classmethod
    def set_workload_access_token(cls, token: str) -> None:
        """Set the workload access token of this context."""
        cls._workload_access_token.set(token)

    @classmethod
    def get_workload_access_token(cls) -> str | None:
        """The opaque identity token that came with the request."""
        return cls._workload_access_token.get()

    @classmethod
    def set_oauth2_callback_url(cls, workload_callback_url: str) -> None:
        """Set the OAuth2 callback URL of this context."""
        cls._oauth2_callback_url.set(workload_callback_url)

    @classmethod
    def get_oauth2_callback_url(cls) -> str | None:
        """The callback URL for three-legged OAuth."""
        return cls._oauth2_callback_url.get()

    @classmethod
    def set_request_context(cls, request_id: str, session_id: str | None = None) -> None:
        """Set the request's identifiers."""
        cls._request_id.set(request_id)
        cls._session_id.set(session_id)

    @classmethod
    def get_request_id(cls) -> str | None:
        """The platform's request id, or one made here when the request had none."""
        return cls._request_id.get()

    @classmethod
    def get_session_id(cls) -> str | None:
        """The client's session id."""
        return cls._session_id.get()

    @classmethod
    def set_request_headers(cls, headers: dict[str, str]) -> None:
        """Set the headers that the agent may see."""
        cls._request_headers.set(headers)

    @classmethod
    def get_request_headers(cls) -> dict[str, str] | None:
        """The request headers that the agent may see, or None if there were none."""
        return cls._request_headers.get()

    @classmethod
    def set_routing_experiment(cls, arn: str | None, variant: str | None) -> None:
        """Set the routing experiment of this context."""
        cls._routing_experiment_arn.set(arn)
        cls._routing_experiment_variant.set(variant)

    @classmethod
    def get_routing_experiment_arn(cls) -> str | None:
        """The routing experiment's ARN, from the request's baggage."""
        return cls._routing_experiment_arn.get()

    @classmethod
    def get_routing_experiment_variant(cls) -> str | None:
        """The routing experiment's variant, from the request's baggage."""
        return cls._routing_experiment_variant.get()

    @classmethod
    def set_task_id(cls, task_id: str | None) -> None:
        """Set the asynchronous task of this context: also for a thread that works on it."""
        cls._task_id.set(task_id)

    @classmethod
    def get_task_id(cls) -> str | None:
        """The asynchronous task that the request is of. Not in the AWS SDK."""
        return cls._task_id.get()


def bind(headers: Headers, request: Any) -> RequestContext:
    """Fill this context from a request's headers. Call inside the request's own `contextvars.Context`."""
    context = BedrockAgentCoreContext
    session_id = headers.get(SESSION_HEADER)
    context.set_request_context(headers.get(REQUEST_ID_HEADER) or new_uuid(), session_id)

    token = headers.get(IDENTITY_WAT_HEADER) or headers.get(ACCESS_TOKEN_HEADER)
    if token:
        context.set_workload_access_token(token)
    callback = headers.get(OAUTH2_CALLBACK_URL_HEADER)
    if callback:
        context.set_oauth2_callback_url(callback)

    visible: dict[str, str] = {}
    for name, value in headers.items():
        if name == "authorization":
            visible[AUTHORIZATION_HEADER] = value
        elif is_forwardable_header(name):
            visible[name] = value
    if visible:
        context.set_request_headers(visible)

    baggage = _first_baggage_values(headers)
    context.set_routing_experiment(baggage.get(BAGGAGE_KEY_EXPERIMENT_ARN), baggage.get(BAGGAGE_KEY_EXPERIMENT_VARIANT))

    task_id = headers.get(TASK_ID_HEADER)
    context.set_task_id(task_id)
    if task_id is None:
        return RequestContext(session_id, visible or None, request)
    return RequestContext(
        session_id,
        visible or None,
        request,
        task_id=task_id,
        attempt=_attempt(headers.get(TASK_ATTEMPT_HEADER)),
        progress=_record(headers.get(TASK_CHECKPOINT_HEADER)),
    )


def _attempt(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else 1


def _record(text: str | None) -> dict[str, Any] | None:
    if not text:
        return None
    import json

    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def new_uuid() -> str:
    """A random UUID (RFC 9562 version 4) without the 6 ms that importing `uuid` costs."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _first_baggage_values(headers: Headers) -> dict[str, str]:
    """W3C baggage, properties stripped, percent-decoded; the first of repeated keys counts."""
    found: dict[str, str] = {}
    for line in headers.getlist("baggage"):
        for entry in line.split(","):
            key, _, value = entry.partition("=")
            value = value.partition(";")[0].strip()
            if "%" in value:
                from urllib.parse import unquote

                value = unquote(value)
            if key.strip() and value:
                found.setdefault(key.strip(), value)
    return found
