"""`/ping` and background tasks (contract §1.2, §1.4), under both SDKs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from conftest import Start, wait_until
from http_probe import call, invoke


def ping(port: int) -> dict[str, Any]:
    answer = call(port, "GET", "/ping")
    assert answer.status == 200 and answer.header("content-type") == "application/json"
    said: dict[str, Any] = json.loads(answer.body)
    # Compact, and in this order: what a byte-wise reader would see.
    assert answer.body == json.dumps(said, separators=(",", ":")).encode()
    assert list(said) == ["status", "time_of_last_update"] and type(said["time_of_last_update"]) is int
    return said


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("sync", "Healthy"),
        ("ping_text", "HealthyBusy"),
        ("ping_enum", "HealthyBusy"),
        ("ping_raises", "Healthy"),
        ("ping_nonsense", "Healthy"),
        ("ping_wrong_type", "Healthy"),
    ],
)
def test_the_status(sdk: str, kind: str, status: str, shared_agents: Start) -> None:
    assert ping(shared_agents(sdk, kind).port)["status"] == status


def test_a_task_makes_it_busy_and_forcing_wins(sdk: str, own_agent: Start) -> None:
    port = own_agent(sdk, "payload_only").port
    assert ping(port)["status"] == "Healthy"
    assert json.loads(invoke(port, {"case": "task"}).body) == {"added": True, "info": 1}
    assert ping(port)["status"] == "HealthyBusy"
    assert invoke(port, {"case": "force", "status": "Healthy"}).body == b'"Healthy"'
    assert ping(port)["status"] == "Healthy"
    assert invoke(port, {"case": "clear"}).body == b'"HealthyBusy"'
    assert invoke(port, {"case": "complete_unknown"}).body == b"false"


def test_forcing_wins_over_a_custom_status(sdk: str, own_agent: Start) -> None:
    port = own_agent(sdk, "ping_enum").port
    invoke(port, {"case": "force", "status": "Healthy"})
    assert ping(port)["status"] == "Healthy"
    invoke(port, {"case": "clear"})
    assert ping(port)["status"] == "HealthyBusy"


def test_an_async_task_is_busy_while_it_runs(sdk: str, own_agent: Start) -> None:
    port = own_agent(sdk, "async").port
    assert json.loads(invoke(port, {"case": "job_status"}).body) == [1, "job", "HealthyBusy"]
    wait_until(lambda: ping(port)["status"] == "Healthy", "the cancelled task ends")
    assert json.loads(invoke(port, {"case": "job", "seconds": 0.01}).body)["active_count"] == 0


def test_the_stamp_moves_with_the_status_only(sdk: str, own_agent: Start) -> None:
    port = own_agent(sdk, "payload_only").port
    before = ping(port)["time_of_last_update"]
    assert abs(before - time.time()) < 60
    # The stamp is in whole seconds: let one pass, so that a stamp of "now" would differ.
    wait_until(lambda: time.time() >= before + 1.1, "a second passes")
    assert ping(port)["time_of_last_update"] == before
    invoke(port, {"case": "force", "status": "HealthyBusy"})
    changed = ping(port)["time_of_last_update"]
    assert changed > before
    wait_until(lambda: time.time() >= changed + 1.1, "a second passes")
    assert ping(port)["time_of_last_update"] == changed


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_blocking_handler_does_not_block_ping(sdk: str, kind: str, tmp_path: Path, own_agent: Start) -> None:
    port = own_agent(sdk, kind).port
    begun, release = tmp_path / "begun", tmp_path / "release"
    answers: list[bytes] = []
    payload = {"case": "wait_for", "begun": str(begun), "file": str(release)}
    caller = Thread(target=lambda: answers.append(invoke(port, payload).body))
    caller.start()
    wait_until(begun.exists, "the handler runs")
    for _ in range(20):
        assert ping(port)["status"] == "Healthy", "a synchronous invocation is no background work"
    assert not answers
    release.touch()
    caller.join(20)
    assert answers == [b'"released"']


def test_ping_answers_while_every_thread_is_taken(tmp_path: Path, own_agent: Start) -> None:
    """The built-in SDK's own promise; the AWS SDK's `/ping` waits once 40 handlers block."""
    port = own_agent("builtin", "sync").port
    release = tmp_path / "release"
    statuses: list[int] = []

    def block(number: int) -> None:
        payload = {"case": "wait_for", "begun": str(tmp_path / str(number)), "file": str(release)}
        statuses.append(invoke(port, payload).status)

    callers = [Thread(target=block, args=(number,)) for number in range(128)]
    for caller in callers:
        caller.start()
    wait_until(lambda: len(list(tmp_path.glob("[0-9]*"))) >= 128, "all handlers run")
    assert ping(port)["status"] == "Healthy"
    crowded = invoke(port, {})
    assert crowded.shape == (503, "application/json", b'{"error":"Too many connections"}')
    assert crowded.header("retry-after") == "1"
    release.touch()
    for caller in callers:
        caller.join(20)
    assert statuses == [200] * 128
    assert invoke(port, {}).status == 200
