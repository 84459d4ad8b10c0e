"""A request as an agent sees it: `context.request`, and `websocket`'s base.

The names are those of Starlette's `Request` that agents use. Bytes come from `_http`; nothing is read here.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any
    from urllib.parse import SplitResult

    from bedrock_agentcore.runtime._http import Connection


class Headers:
    """Header fields in the order they came; names are lower-case, look-ups ignore case."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of a field, or `default`."""
        wanted = name.lower()
        for key, value in self._pairs:
            if key == wanted:
                return value
        return default

    def getlist(self, name: str) -> list[str]:
        """Every value of a field."""
        wanted = name.lower()
        return [value for key, value in self._pairs if key == wanted]

    def items(self) -> list[tuple[str, str]]:
        """Every field, repeated ones included."""
        return list(self._pairs)

    def keys(self) -> list[str]:
        """Every field's name."""
        return [key for key, _ in self._pairs]

    def values(self) -> list[str]:
        """Every field's value."""
        return [value for _, value in self._pairs]

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self._pairs)

    def __repr__(self) -> str:
        return f"Headers({self._pairs!r})"


class Request:
    """Method, target, headers and, once the entrypoint runs, the body."""

    def __init__(
        self,
        method: str,
        target: str,
        headers: Headers,
        content_length: int | None,
        connection: Connection,
    ) -> None:
        self.method = method
        self.headers = headers
        self.content_length = content_length
        self.path, _, self.query_string = _origin_form(target).partition("?")
        if "%" in self.path:
            from urllib.parse import unquote

            self.path = unquote(self.path)
        self._connection = connection
        self._body = bytearray()

    @property
    def expects_continue(self) -> bool:
        """Whether the client holds its body back until it is told to go on (RFC 9110 §10.1.1)."""
        return (self.headers.get("expect") or "").lower() == "100-continue"

    @property
    def url(self) -> SplitResult:
        """The absolute URL, in parts."""
        from urllib.parse import urlsplit

        query = f"?{self.query_string}" if self.query_string else ""
        return urlsplit(f"http://{self.headers.get('host') or 'localhost'}{self.path}{query}")

    @property
    def query_params(self) -> dict[str, str]:
        """The query's parameters; the last of repeated ones counts."""
        from urllib.parse import parse_qsl

        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    def set_body(self, body: bytearray) -> None:
        """Keep the body that the server has read."""
        self._body = body

    async def body(self) -> bytes:
        """The body's bytes."""
        return bytes(self._body)

    async def json(self) -> Any:
        """The body parsed."""
        import json

        return json.loads(self._body)

    async def is_disconnected(self) -> bool:
        """Whether the client has gone away."""
        return self._connection.client_gone()


def _origin_form(target: str) -> str:
    """`/path?query`, also from the absolute form that a request through a proxy has (RFC 9112 §3.2.2)."""
    if target[:7].lower() == "http://":
        return "/" + target[7:].partition("/")[2]
    return target
