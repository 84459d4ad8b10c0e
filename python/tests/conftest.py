"""Agents as processes, under either SDK, one per kind for the whole run.

Tier: files and loopback. `sdk` is "builtin" (this repository's) or "aws" (the real one, from the venv that `run.sh`
makes); without the real one its tests skip, and say so.
"""

from __future__ import annotations

import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import http_probe
import pytest

HERE = Path(__file__).parent
SOURCE = HERE.parent
START_SECONDS = 60.0


class Agent:
    """A running agent."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def log_lines(self) -> list[str]:
        return self.log.read_text().splitlines()


Start = Callable[..., Agent]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def has_aws_sdk() -> bool:
    try:
        return bool(importlib.metadata.version("bedrock-agentcore"))
    except importlib.metadata.PackageNotFoundError:
        return False


def launch(folder: Path, sdk: str, kind: str, interpreter: str = sys.executable, **environment: str) -> Agent:
    """Start `agents/wire.py` and wait until `/ping` answers."""
    if sdk == "aws" and not has_aws_sdk():
        pytest.skip("bedrock-agentcore is not installed: run python/tests/run.sh")
    port = free_port()
    log = folder / f"{sdk}-{kind}-{port}.log"
    env = {key: text for key, text in os.environ.items() if key not in ("PYTHONPATH", "DOCKER_CONTAINER")}
    if sdk == "builtin":
        # Ahead of site-packages, where the real SDK may be.
        env["PYTHONPATH"] = str(SOURCE)
    env |= {"AGENT_KIND": kind, "AGENT_PORT": str(port), "AGENT_STATE": str(log.with_suffix(".state")), **environment}
    with log.open("wb") as stderr:
        process = subprocess.Popen([interpreter, str(HERE / "agents" / "wire.py")], env=env, stderr=stderr)
    agent = Agent(process, port, log)
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if http_probe.call(port, "GET", "/ping").status == 200:
                return agent
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the {sdk} agent ({kind}) does not answer; its log:\n{log.read_text()}")
        time.sleep(0.01)


@pytest.fixture(params=["builtin", "aws"])
def sdk(request: pytest.FixtureRequest) -> str:
    """Every test that uses this runs against both SDKs."""
    return str(request.param)


@pytest.fixture(scope="session")
def shared_agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Agents that tests share, as they do not change them."""
    running: dict[tuple[str, str], Agent] = {}
    folder = tmp_path_factory.mktemp("agents")

    def get(sdk: str, kind: str) -> Agent:
        if (sdk, kind) not in running:
            running[sdk, kind] = launch(folder, sdk, kind)
        return running[sdk, kind]

    yield get
    for agent in running.values():
        agent.stop()


@pytest.fixture
def own_agent(tmp_path: Path) -> Iterator[Start]:
    """Agents of one test's own."""
    running: list[Agent] = []

    def start(sdk: str, kind: str, interpreter: str = sys.executable, **environment: str) -> Agent:
        running.append(launch(tmp_path, sdk, kind, interpreter, **environment))
        return running[-1]

    yield start
    for agent in running:
        agent.stop()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait for a condition, bounded."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"did not happen within {seconds:g} s: {what}")
        time.sleep(0.005)
