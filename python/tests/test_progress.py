"""`app.report_progress` and what an agent learns of its task: the built-in SDK's own, beyond the AWS SDK."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import Agent, Start
from http_probe import RawAnswer, invoke

from bedrock_agentcore import RequestContext
from bedrock_agentcore.runtime import _progress

MARK = "::agentcore-progress:: "
TASK = "t0123456789abcdefghijklmno"
HEADERS = {
    "X-AgentCore-Task-Id": TASK,
    "X-AgentCore-Task-Attempt": "2",
    "X-AgentCore-Task-Checkpoint": '{"fraction":0.5,"message":"\\u00e9","checkpoint":{"page":3}}',
}


def report(agent: Agent, payload: dict[str, Any], headers: dict[str, str] | None = None) -> RawAnswer:
    return invoke(agent.port, {"case": "progress", **payload}, **(headers or {}))


def records(agent: Agent) -> list[dict[str, Any]]:
    lines = agent.log_lines()
    return [json.loads(line.removeprefix(MARK)) for line in lines if line.startswith(MARK)]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_report_is_one_line_that_names_its_task(kind: str, own_agent: Start) -> None:
    agent = own_agent("builtin", kind)
    said = {"checkpoint": {"page": 2}, "tokens": 1800}
    assert report(agent, {"args": [0.4, "page 2\nof 5 é"], "report": said}, HEADERS).status == 200
    assert records(agent) == [{"task": TASK, "fraction": 0.4, "message": "page 2\nof 5 é", **said}]
    assert report(agent, {"report": {"message": "outside of a task"}}).status == 200
    assert records(agent)[1:] == [{"message": "outside of a task"}]


def test_a_task_is_told_with_its_attempt_and_what_an_earlier_one_reported(shared_agents: Start) -> None:
    agent = shared_agents("builtin", "sync")
    record = {"fraction": 0.5, "message": "é", "checkpoint": {"page": 3}}
    assert json.loads(report(agent, {}, HEADERS).body) == [TASK, 2, record, {"page": 3}]
    assert json.loads(report(agent, {}).body) == [None, 1, None, None]
    first = {**HEADERS, "X-AgentCore-Task-Attempt": "1"}
    for spoiled in ("", "[1]", "{", "[" * 5000):
        first["X-AgentCore-Task-Checkpoint"] = spoiled
        assert json.loads(report(agent, {}, first).body) == [TASK, 1, None, None]


@pytest.mark.parametrize("inherit", [True, False])
def test_reports_of_threads_do_not_mix(inherit: bool, own_agent: Start) -> None:
    agent = own_agent("builtin", "sync")
    threads, each = 8, 50
    asked = {"threads": threads, "each": each, "inherit": inherit}
    assert report(agent, asked, HEADERS).body == b'"reported"'
    found = records(agent)
    steps = sorted((record["number"], record["step"]) for record in found)
    assert steps == [(number, step) for number in range(threads) for step in range(each)]
    assert {record.get("task") for record in found} == {TASK if inherit else None}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"fraction": 40}, "40 percent is 0.4"),
        ({"fraction": -0.1}, "from 0 to 1"),
        ({"fraction": float("nan")}, "from 0 to 1"),
        ({"checkpoint": {1, 2}}, "JSON"),
        ({"data": {"number": float("inf")}}, "JSON"),
        ({"data": {"task": "another"}}, "task_id"),
        ({"message": "x" * 16 * 1024}, "16384 bytes"),
        ({"checkpoint": "x" * 8 * 1024}, "8192 bytes"),
    ],
)
def test_what_the_daemon_would_not_take_is_refused_where_it_is_said(arguments: dict[str, Any], told: str) -> None:
    given: dict[str, Any] = dict.fromkeys(("task_id", "fraction", "message", "checkpoint"))
    given |= {"data": {}, **arguments}
    with pytest.raises(ValueError, match=told):
        _progress.line(**given)


def test_a_fraction_is_a_number() -> None:
    for wrong in ("half", True):
        with pytest.raises(TypeError, match="fraction"):
            _progress.line(None, wrong, None, None, {})  # type: ignore[arg-type]


def test_a_context_made_by_hand_is_of_no_task() -> None:
    context = RequestContext("session", None, None)
    assert (context.task_id, context.attempt, context.progress, context.checkpoint) == (None, 1, None, None)
