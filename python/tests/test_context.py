"""What an agent learns of its request (contract §1.3), under both SDKs."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from conftest import Start, has_aws_sdk
from http_probe import Probe, call, request

from bedrock_agentcore.runtime.models import RESTRICTED_HEADERS, is_forwardable_header

PREFIX = "X-Amzn-Bedrock-AgentCore-Runtime"
HEADERS = {
    f"{PREFIX}-Session-Id": "session-" + "0" * 33,
    f"{PREFIX}-Request-Id": "request-1",
    f"{PREFIX}-Custom-Colour": "blue",
    f"{PREFIX}-User-Id": "nobody",
    "WorkloadAccessToken": "old-token",
    "X-Amz-Bedrock-AgentCore-Identity-WAT": "new-token",
    "OAuth2CallbackUrl": "https://callback",
    "authorization": "Bearer xyz",
    "X-Amz-Date": "today",
    "X-Other": "other",
    "Cookie": "a=b",
    "Accept": "application/json",
    "Traceparent": "00-1-2-01",
    "Baggage": "aws.agentcore.gateway.routing_experiment_arn=arn%3Aaws%3Ax;p=1,"
    " aws.agentcore.gateway.routing_experiment_variant_name = blue , other=1",
}
VISIBLE = {
    "x-amzn-bedrock-agentcore-runtime-custom-colour": "blue",
    "workloadaccesstoken": "old-token",
    "x-amz-bedrock-agentcore-identity-wat": "new-token",
    "oauth2callbackurl": "https://callback",
    "Authorization": "Bearer xyz",
    "x-other": "other",
    "traceparent": "00-1-2-01",
    "baggage": HEADERS["Baggage"],
}


def facts(port: int, headers: dict[str, str], path: str = "/invocations") -> dict[str, Any]:
    with Probe(port) as probe:
        probe.send(request("POST", path, b'{"case": "facts", "facts": true}', headers))
        answer = probe.answer()
    body = answer.body.removeprefix(b"data: ")
    found: dict[str, Any] = json.loads(body)
    return found


@pytest.mark.parametrize("kind", ["sync", "async", "generator", "async_generator", "payload_only"])
def test_everything_arrives_in_every_kind_of_function(sdk: str, kind: str, shared_agents: Start) -> None:
    with_context = kind in ("sync", "async")
    assert facts(shared_agents(sdk, kind).port, HEADERS, "/invocations?a=1&b=%C3%A9") == {
        "request_id": "request-1",
        "session_id": HEADERS[f"{PREFIX}-Session-Id"],
        "token": "new-token",
        "callback": "https://callback",
        "headers": VISIBLE,
        "experiment": ["arn:aws:x", "blue"],
        "inherited": "from import",
        "context": [HEADERS[f"{PREFIX}-Session-Id"], VISIBLE] if with_context else None,
        "path": "/invocations" if with_context else None,
        "query": {"a": "1", "b": "é"} if with_context else None,
    }


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_bare_request_leaves_everything_empty(sdk: str, kind: str, shared_agents: Start) -> None:
    port = shared_agents(sdk, kind).port
    facts(port, HEADERS)  # nothing of an earlier request may be left
    found = facts(port, {})
    assert uuid.UUID(found.pop("request_id")).version == 4
    assert found == {
        "session_id": None,
        "token": None,
        "callback": None,
        "headers": None,
        "experiment": [None, None],
        "inherited": "from import",
        "context": [None, None],
        "path": "/invocations",
        "query": {},
    }


def test_the_older_token_header_still_counts(sdk: str, shared_agents: Start) -> None:
    assert facts(shared_agents(sdk, "sync").port, {"WorkloadAccessToken": "old"})["token"] == "old"


def test_requests_of_one_connection_do_not_share_a_context(sdk: str, shared_agents: Start) -> None:
    with Probe(shared_agents(sdk, "sync").port) as probe:
        probe.send(request("POST", "/invocations", b'{"case": "facts"}', HEADERS))
        assert json.loads(probe.answer().body)["token"] == "new-token"
        probe.send(request("POST", "/invocations", b'{"case": "facts"}'))
        assert json.loads(probe.answer().body)["token"] is None


def test_sync_handlers_run_beside_the_main_thread(sdk: str, shared_agents: Start) -> None:
    answer = call(shared_agents(sdk, "sync").port, "POST", "/invocations", b'{"case": "thread"}')
    assert json.loads(answer.body)["main"] is False


def test_async_handlers_run_on_the_worker_loop(sdk: str, shared_agents: Start) -> None:
    answer = call(shared_agents(sdk, "async").port, "POST", "/invocations", b'{"case": "thread"}')
    assert json.loads(answer.body) == {"main": False, "name": "agentcore-worker-loop"}


def test_the_header_rules_are_the_aws_sdks() -> None:
    """Runs in a process of its own, because both packages have the same name."""
    import subprocess
    import sys

    if not has_aws_sdk():
        pytest.skip("bedrock-agentcore is not installed: run python/tests/run.sh")
    program = """
import json, sys
from bedrock_agentcore.runtime.models import RESTRICTED_HEADERS, is_forwardable_header
print(json.dumps([sorted(RESTRICTED_HEADERS), [is_forwardable_header(name) for name in json.loads(sys.argv[1])]]))
"""
    names = [
        *RESTRICTED_HEADERS,
        *HEADERS,
        "X-AMZ-anything",
        "x-amzn-other",
        "Mcp-Session-Id",
        "X-Amzn-Trace-Id",
        "PORT",
    ]
    ran = subprocess.run(
        [sys.executable, "-P", "-c", program, json.dumps(names)], capture_output=True, check=True, env={}, text=True
    )
    restricted, forwardable = json.loads(ran.stdout)
    assert restricted == sorted(RESTRICTED_HEADERS)
    assert forwardable == [is_forwardable_header(name) for name in names]
