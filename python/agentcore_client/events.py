"""Server-sent events (WHATWG HTML §9.2), from bytes that may be cut anywhere to the dicts of `invoke_stream`."""

from __future__ import annotations

import codecs
import json
from typing import TYPE_CHECKING, Any

from agentcore_client.errors import AgentCoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# An event is held in memory until its end; an answer is at most this long (contract §6).
MAX_EVENT = 100_000_000


def parse(pieces: Iterable[bytes]) -> Iterator[str]:
    """The data of each event; comments, names, ids and retry times are skipped."""
    for _, data in parse_numbered(pieces):
        yield data


def parse_numbered(pieces: Iterable[bytes]) -> Iterator[tuple[str | None, str]]:
    """The last id that was given, and the data, of each event."""
    data: list[str] = []
    last_id: str | None = None
    for line in _lines(pieces):
        if not line:
            if data:
                yield last_id, "\n".join(data)
            data = []
            continue
        field, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if field == "data":
            data.append(value)
        elif field == "id" and "\0" not in value:
            last_id = value
    # The answer came whole, so an event without its closing blank line is an agent's slip, not a cut.
    if data:
        yield last_id, "\n".join(data)


def as_dict(data: str) -> dict[str, Any]:
    """A JSON object as it is; a JSON string, or what is no JSON, as `{"text": …}`; other JSON as `{"data": …}`."""
    try:
        value = json.loads(data)
    except ValueError:
        return {"text": data}
    if isinstance(value, dict):
        return value
    return {"text": value} if isinstance(value, str) else {"data": value}


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Lines that end in LF, CR or CRLF, each given as soon as its end is there."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    parts: list[str] = []
    held = 0
    first = True
    after_cr = False
    for piece in pieces:
        text = decoder.decode(piece)
        if not text:
            continue
        if first:
            first = False
            text = text[1:] if text.startswith("\ufeff") else text
        if after_cr and text.startswith("\n"):
            text = text[1:]
        after_cr = text.endswith("\r") if text else False
        *complete, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in complete:
            yield "".join(parts) + line
            parts, held = [], 0
        held += len(rest)
        if held > MAX_EVENT:
            raise AgentCoreError(f"an event longer than {MAX_EVENT} bytes")
        if rest:
            parts.append(rest)
    if parts:
        yield "".join(parts)
