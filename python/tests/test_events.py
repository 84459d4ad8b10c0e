"""Server-sent events, cut at every possible place."""

from __future__ import annotations

import pytest

from agentcore_client import events

STREAM = (
    "\ufeffdata: one\n\n: comment\ndata:two\r\ndata: lines\r\n\r\n"
    "event: x\rdata: ü\U0001f680\r\rdata\n\nid: 1\n\ndata: end\n\n"
)
EVENTS = ["one", "two\nlines", "ü\U0001f680", "", "end"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_pieces_of_any_size(size: int) -> None:
    data = STREAM.encode("utf-8")
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert list(events.parse(pieces)) == EVENTS


def test_every_single_cut() -> None:
    data = STREAM.encode("utf-8")
    for at in range(len(data)):
        assert list(events.parse([data[:at], data[at:]])) == EVENTS


def test_an_event_is_there_with_its_last_byte() -> None:
    def pieces() -> object:
        yield b"data: a\n\n"
        raise AssertionError("asked for more than the first event needs")

    assert next(events.parse(pieces())) == "a"  # type: ignore[arg-type]


def test_a_last_event_without_its_blank_line_counts() -> None:
    assert list(events.parse([b"data: a\n\ndata: b"])) == ["a", "b"]


def test_events_as_dicts() -> None:
    assert events.as_dict('{"a": 1}') == {"a": 1}
    assert events.as_dict('"text"') == {"text": "text"}
    assert events.as_dict("plain text") == {"text": "plain text"}
    assert events.as_dict("[1]") == {"data": [1]}
    assert events.as_dict("null") == {"data": None}
