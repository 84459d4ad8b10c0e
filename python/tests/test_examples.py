"""The examples as a developer runs them, `python my_agent.py` and curl, each in a network namespace of its own.

A namespace, because an unmodified `app.run()` listens on port 8080, and because its loopback is then the only way: what
reaches the model goes through the proxy, as in a session. Tier: unprivileged user namespace, or root.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import HERE, SOURCE, has_aws_sdk

EXAMPLES = SOURCE.parent / "examples"
STANDIN = SOURCE.parent / "tests" / "standin" / "converse_stream.py"
PROXY_PORT = 3128


class Namespace:
    """A network namespace with nothing but loopback, and processes in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []
        root = os.geteuid() == 0
        unshare = ["unshare", "--net"] if root else ["unshare", "--net", "--user", "--map-root-user"]
        self._holder = subprocess.Popen(
            [*unshare, "sh", "-c", "ip link set lo up && echo up && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"up\n":
            self._holder.wait()
            pytest.skip("no network namespace can be made here")
        self._enter = ["nsenter", "--target", str(self._holder.pid), "--net"]
        self._enter += [] if root else ["--user", "--preserve-credentials"]

    def start(self, *command: str | Path, name: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a program; its standard error goes to NAME.log."""
        plain = {"PATH": os.environ["PATH"], "HOME": str(self._folder)}
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*self._enter, *map(str, command)], env=plain | environment, stdout=subprocess.PIPE, stderr=log
            )
        self._running.append(process)
        return process

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def curl(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [*self._enter, "curl", "--silent", "--show-error", "--max-time", "60", "--noproxy", "*", *arguments]
        return subprocess.run(command, capture_output=True)

    def invoke(self, payload: Any, *arguments: str) -> bytes:
        """POST to the agent on port 8080, which must answer 200."""
        url = "http://localhost:8080/invocations"
        # --no-buffer and --fail: as a script would, and loud.
        ran = self.curl("--no-buffer", "--fail-with-body", "--data-binary", json.dumps(payload), *arguments, url)
        assert ran.returncode == 0, (ran.stdout, ran.stderr, self.log("agent"))
        return ran.stdout

    def agent(self, *command: str | Path, **environment: str) -> None:
        """Start an agent and wait until it is healthy."""
        process = self.start(*command, name="agent", **environment)
        deadline = time.monotonic() + 60
        while self.curl("--fail", "http://localhost:8080/ping").returncode != 0:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the agent does not answer; its log:\n{self.log('agent')}")
            time.sleep(0.02)

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        self._holder.kill()
        self._holder.wait()


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[Namespace]:
    made = Namespace(tmp_path)
    yield made
    made.close()


def first_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def events(stream: bytes) -> list[Any]:
    assert stream.endswith(b"\n\n")
    return [json.loads(event.removeprefix("data: ")) for event in stream.decode().split("\n\n")[:-1]]


def test_echo(namespace: Namespace) -> None:
    namespace.agent(sys.executable, EXAMPLES / "echo" / "my_agent.py", PYTHONPATH=str(SOURCE))
    session = "x" * 33
    answer = namespace.invoke({"a": 1}, "-H", f"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id: {session}")
    assert json.loads(answer) == {"echo": {"a": 1}, "session_id": session}


def test_streaming(namespace: Namespace) -> None:
    namespace.agent(sys.executable, EXAMPLES / "streaming" / "my_agent.py", PYTHONPATH=str(SOURCE))
    answer = namespace.invoke({"prompt": "one two"})
    assert events(answer) == [{"text": "one "}, {"text": "two "}, {"done": True, "words": 2}]


def test_long_task(namespace: Namespace) -> None:
    namespace.agent(sys.executable, EXAMPLES / "long_task" / "my_agent.py", PYTHONPATH=str(SOURCE))
    whole = json.loads(namespace.invoke({"pages": 4, "seconds": 0}))
    assert whole == {"pages": 4, "words": 1000, "attempt": 1, "went_on_from": 0}
    mark = "::agentcore-progress:: "
    told = [line.removeprefix(mark) for line in namespace.log("agent").splitlines() if line.startswith(mark)]
    headers = ["X-AgentCore-Task-Id: t1", "X-AgentCore-Task-Attempt: 2", f"X-AgentCore-Task-Checkpoint: {told[2]}"]
    arguments = [word for header in headers for word in ("-H", header)]
    rest = json.loads(namespace.invoke({"pages": 4, "seconds": 0}, *arguments))
    assert rest == {"pages": 4, "words": 1000, "attempt": 2, "went_on_from": 3}


@pytest.mark.skipif(not has_aws_sdk(), reason="bedrock-agentcore is not installed: run python/tests/run.sh")
def test_aws_sdk(namespace: Namespace) -> None:
    namespace.agent(sys.executable, EXAMPLES / "aws_sdk" / "my_agent.py")
    answer = json.loads(namespace.invoke({"background": 30}))
    assert answer["sdk"] == (EXAMPLES / "aws_sdk" / "requirements.txt").read_text().strip().partition("==")[2]
    assert json.loads(namespace.curl("http://localhost:8080/ping").stdout)["status"] == "HealthyBusy"


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_node(namespace: Namespace) -> None:
    namespace.agent("node", EXAMPLES / "node" / "agent.js", PORT="8080")
    assert json.loads(namespace.invoke({"a": "é"}))["echo"] == {"a": "é"}
    answer = namespace.invoke({"prompt": "one two"}, "-H", "Accept: text/event-stream")
    assert events(answer) == [{"text": "one "}, {"text": "two "}]
    bad = namespace.curl("--data-binary", "{", "--write-out", "%{http_code}", "http://localhost:8080/invocations")
    assert bad.stdout.startswith(b'{"error":"Invalid JSON: ') and bad.stdout.endswith(b"400")


class Model:
    """The stand-in for Bedrock in a namespace, direct or behind a proxy."""

    def __init__(self, namespace: Namespace, folder: Path, way: str) -> None:
        self._log = folder / "model.jsonl"
        self._log.touch()
        self.way = way
        tls = way == "connect"
        arguments: list[str | Path] = [STANDIN, "--log", self._log]
        self.environment = {
            "AWS_REGION": "us-west-2",
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
        if tls:
            cert, key = folder / "cert.pem", folder / "key.pem"
            openssl = [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "1",
                "-subj",
                "/CN=localhost",
            ]
            openssl += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)]
            subprocess.run(openssl, check=True, capture_output=True)
            arguments += ["--cert", cert, "--key", key]
            self.environment["AWS_CA_BUNDLE"] = str(cert)
        port = first_line(namespace.start(sys.executable, *arguments, name="model"))
        self.authority = f"localhost:{port}"
        self.environment["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"] = f"{'https' if tls else 'http'}://{self.authority}"
        if way != "direct":
            self._proxy = namespace.start(sys.executable, HERE / "proxy.py", str(PROXY_PORT), name="proxy")
            assert first_line(self._proxy) == "ready"
            for name in ("HTTP_PROXY", "HTTPS_PROXY"):
                self.environment[name] = f"http://127.0.0.1:{PROXY_PORT}"

    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def check_way(self) -> None:
        """That the model was reached as intended, and not past the proxy."""
        if self.way != "direct":
            line = first_line(self._proxy)
            expected = {
                "connect": f"CONNECT {self.authority}",
                "absolute": f"POST http://{self.authority}/model/",
            }[self.way]
            assert line.startswith(expected)


@pytest.fixture(params=["direct", "absolute", "connect"])
def model(request: pytest.FixtureRequest, namespace: Namespace, tmp_path: Path) -> Model:
    return Model(namespace, tmp_path, request.param)


@pytest.mark.skipif(not has_aws_sdk(), reason="strands-agents is not installed: run python/tests/run.sh")
def test_strands_agent(namespace: Namespace, model: Model) -> None:
    namespace.agent(sys.executable, EXAMPLES / "strands_agent" / "my_agent.py", **model.environment)
    answer = json.loads(namespace.invoke({"prompt": "wie geht's, Ünal?"}))
    assert answer["result"]["role"] == "assistant"
    assert answer["result"]["content"] == [{"text": "You said: wie geht's, Ünal?"}]
    (asked,) = model.requests()
    assert asked["status"] == 200 and asked["body"]["messages"][0]["content"] == [{"text": "wie geht's, Ünal?"}]
    assert asked["credential"].startswith("AKIDEXAMPLE/") and "/us-west-2/bedrock/" in asked["credential"]
    # The process goes on: the next invocation has the conversation so far.
    namespace.invoke({"prompt": "again"})
    assert len(model.requests()[-1]["body"]["messages"]) == 3
    model.check_way()


@pytest.mark.skipif(not has_aws_sdk(), reason="strands-agents is not installed: run python/tests/run.sh")
def test_strands_tool(namespace: Namespace, model: Model) -> None:
    namespace.agent(sys.executable, EXAMPLES / "strands_tool" / "my_agent.py", **model.environment)
    stream = namespace.invoke({"prompt": 'Please call letter_count {"word": "strawberry", "letter": "r"}'})
    told = events(stream)
    assert {"tool": "3"} in told
    assert "".join(event.get("text", "") for event in told) == "The tool said: 3"
    first, second = model.requests()
    assert [tool["toolSpec"]["name"] for tool in first["body"]["toolConfig"]["tools"]] == ["letter_count"]
    result = second["body"]["messages"][-1]["content"][0]["toolResult"]
    assert result["status"] == "success" and result["content"] == [{"text": "3"}]
    model.check_way()


def test_the_strands_agent_is_the_documentations() -> None:
    """Byte for byte: the users' first program. (The hash is that of seed.md's first Python block.)"""
    import hashlib

    program = (EXAMPLES / "strands_agent" / "my_agent.py").read_bytes()
    assert hashlib.sha256(program).hexdigest() == "aa530dcc6a0db9304e02534f21774f4025d2401d294c7f7a409a76f53c893aaa"
