"""Streams in time: what is yielded leaves at once, and a client that goes away ends its generator. Both SDKs."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from conftest import Start, wait_until
from http_probe import Probe, call, invoke, request


def test_a_client_that_goes_away_cancels_an_async_generator(sdk: str, tmp_path: Path, own_agent: Start) -> None:
    agent = own_agent(sdk, "async_generator")
    told, closed = tmp_path / "told", tmp_path / "closed"
    payload = json.dumps({"ticks": True, "told": str(told), "closed": str(closed)}).encode()
    with Probe(agent.port) as probe:
        probe.send(request("POST", "/invocations", payload))
        assert probe.head().status == 200
        assert [probe.chunk(), probe.chunk()] == [b'data: "first"\n\n', b'data: "tick"\n\n']
    # The AWS SDK lets go of the generator when its thread gets other work: in a session, the next ping.
    wait_until(lambda: call(agent.port, "GET", "/ping").status == 200 and closed.exists(), "the generator is closed")
    assert invoke(agent.port, {"names": ["none"]}).chunks == [b"data: null\n\n"], "the loop goes on"


def test_a_waiting_async_generator_is_cancelled_too(tmp_path: Path, own_agent: Start) -> None:
    """The contract's rule; the AWS SDK 1.25.0 notices only when the generator yields again, and never ends before."""
    agent = own_agent("builtin", "async_generator")
    told, closed = tmp_path / "told", tmp_path / "closed"
    with Probe(agent.port) as probe:
        probe.send(request("POST", "/invocations", json.dumps({"told": str(told), "closed": str(closed)}).encode()))
        # The head and the first item are here while the generator waits for ever in its second step.
        assert probe.head().status == 200
        assert probe.chunk() == b'data: "first"\n\n'
        assert not told.exists()
    wait_until(closed.exists, "the generator is closed")
    assert told.read_text() == "cancelled"
    assert invoke(agent.port, {"names": ["none"]}).chunks == [b"data: null\n\n"], "the loop goes on"


def test_a_client_that_goes_away_closes_a_sync_generator(tmp_path: Path, own_agent: Start) -> None:
    """The AWS SDK leaves that to the garbage collector."""
    agent = own_agent("builtin", "generator")
    closed = tmp_path / "closed"
    with Probe(agent.port) as probe:
        probe.send(request("POST", "/invocations", json.dumps({"closed": str(closed)}).encode()))
        assert probe.head().status == 200
        assert len(probe.chunk()) > 1000
    wait_until(closed.exists, "the generator is closed")


@pytest.mark.parametrize("kind", ["generator", "async_generator"])
def test_a_client_that_does_not_read_holds_its_own_stream_only(kind: str, own_agent: Start) -> None:
    port = own_agent("builtin", kind).port
    with Probe(port) as slow:
        names = ["dict"] * 200_000
        slow.send(request("POST", "/invocations", json.dumps({"names": names}).encode()))
        assert slow.head().status == 200
        # Another caller is served meanwhile; then the slow one gets every event.
        assert invoke(port, {"names": ["none"]}).chunks == [b"data: null\n\n"]
        count = 0
        while slow.chunk():
            count += 1
        assert count == len(names)


def test_many_streams_at_once(sdk: str, own_agent: Start) -> None:
    port = own_agent(sdk, "async_generator").port
    lengths: list[int] = []
    lock = threading.Lock()

    def read() -> None:
        chunks = invoke(port, {"names": ["text"] * 300}).chunks
        with lock:
            lengths.append(len(chunks))

    readers = [threading.Thread(target=read) for _ in range(20)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(30)
    assert lengths == [300] * 20
