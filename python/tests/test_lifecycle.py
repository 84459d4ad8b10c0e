"""How an agent's process begins, logs and ends, under both SDKs."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from conftest import HERE, SOURCE, Agent, Start, free_port, launch, wait_until
from http_probe import Probe, call, invoke, request
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

TEXT = "text/plain; charset=utf-8"


def listening_hosts(agent: Agent) -> set[str]:
    """Local addresses of a port's listening sockets, as the kernel shows them."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == agent.port}


def test_it_listens_on_loopback_outside_containers(sdk: str, own_agent: Start) -> None:
    if Path("/.dockerenv").exists():
        pytest.skip("this machine is a container: the SDK listens on every address")
    assert listening_hosts(own_agent(sdk, "sync")) == {"0100007F"}


def test_it_listens_everywhere_in_a_session(sdk: str, own_agent: Start) -> None:
    assert listening_hosts(own_agent(sdk, "sync", DOCKER_CONTAINER="1")) == {"00000000"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_a_running_answer_finish(
    sdk: str, number: signal.Signals, tmp_path: Path, own_agent: Start
) -> None:
    agent = own_agent(sdk, "sync")
    begun, release = tmp_path / "begun", tmp_path / "release"
    answers: list[bytes] = []
    payload = {"case": "wait_for", "begun": str(begun), "file": str(release)}
    caller = Thread(target=lambda: answers.append(invoke(agent.port, payload).body))
    with Probe(agent.port) as idle:
        idle.send(request("GET", "/ping"))
        assert idle.answer().status == 200
        caller.start()
        wait_until(begun.exists, "the handler runs")
        agent.process.send_signal(number)

        def refused() -> bool:
            try:
                call(agent.port, "GET", "/ping")
            except OSError:
                return True
            return False

        wait_until(refused, "new connections are refused")
        assert idle.at_end(), "an idle connection is closed"
    assert not answers and agent.process.poll() is None
    release.touch()
    caller.join(20)
    assert answers == [b'"released"']
    assert agent.process.wait(20) == {signal.SIGTERM: -signal.SIGTERM, signal.SIGINT: 0}[number]


def test_a_signal_is_never_missed(own_agent: Start) -> None:
    """At any moment, also while the main thread goes back to sleep; without a wake-up descriptor one in 20 is lost."""
    for delay in range(60):
        agent = own_agent("builtin", "payload_only", interpreter="/usr/bin/python3")
        for _ in range(delay % 3):
            call(agent.port, "POST", "/invocations", b"{")
        assert agent.stop() == -signal.SIGTERM


def test_other_signals_are_the_agents_own(own_agent: Start, tmp_path: Path) -> None:
    agent = own_agent("builtin", "signal", AGENT_SIGNALLED=str(tmp_path / "signalled"))
    before = cpu_ticks(agent)
    for _ in range(3):
        agent.process.send_signal(signal.SIGUSR1)
        wait_until((tmp_path / "signalled").exists, "the agent's own handler runs")
        (tmp_path / "signalled").unlink()
    assert invoke(agent.port, [1]).body == b"[1]"
    assert cpu_ticks(agent) - before < 50, "and the server does not spin"
    assert agent.stop() == -signal.SIGTERM


def cpu_ticks(agent: Agent) -> int:
    fields = Path(f"/proc/{agent.process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_second_signal_does_not_wait(tmp_path: Path, own_agent: Start) -> None:
    agent = own_agent("builtin", "sync")
    begun = tmp_path / "begun"
    payload = json.dumps({"case": "wait_for", "begun": str(begun), "file": str(tmp_path / "never")}).encode()
    with Probe(agent.port) as probe:
        probe.send(request("POST", "/invocations", payload))
        wait_until(begun.exists, "the handler runs")
        agent.process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            agent.process.wait(0.3)
        agent.process.terminate()
        assert agent.process.wait(20) == -signal.SIGTERM
        assert probe.at_end()


def test_sys_exit_in_a_handler_is_500_and_no_end(sdk: str, own_agent: Start) -> None:
    agent = own_agent(sdk, "sync")
    assert invoke(agent.port, {"case": "exit", "code": 3}).shape == (500, TEXT, b"Internal Server Error")
    assert invoke(agent.port, [1]).body == b"[1]"


@pytest.mark.parametrize("kind", ["async", "generator", "async_generator", "websocket"])
def test_sys_exit_ends_neither_loop_nor_thread(kind: str, own_agent: Start) -> None:
    """Under the AWS SDK 1.25.0 an async handler's sys.exit ends the loop, and every later call hangs."""
    agent = own_agent("builtin", kind)
    for _ in range(3):
        if kind == "websocket":
            with (
                connect(f"ws://127.0.0.1:{agent.port}/ws?how=exit") as peer,
                pytest.raises(ConnectionClosed) as closed,
            ):
                peer.recv(20)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011
        elif kind == "async":
            assert invoke(agent.port, {"case": "exit", "code": 3}).shape == (500, TEXT, b"Internal Server Error")
        else:
            with pytest.raises(ConnectionError):
                invoke(agent.port, {"names": ["none"], "exit": 3})
    assert call(agent.port, "GET", "/ping").status == 200 and agent.process.poll() is None


def test_a_taken_port_is_an_error_and_said(sdk: str, own_agent: Start, tmp_path: Path) -> None:
    agent = own_agent(sdk, "sync")
    env = {"AGENT_KIND": "sync", "AGENT_PORT": str(agent.port)}
    if sdk == "builtin":
        env["PYTHONPATH"] = str(SOURCE)
    second = subprocess.run(
        [sys.executable, str(HERE / "agents" / "wire.py")], env=env, capture_output=True, text=True, timeout=60
    )
    assert second.returncode == {"builtin": 1, "aws": 3}[sdk]
    assert "ddress already in use" in second.stderr and str(agent.port) in second.stderr


def test_a_lifespan_is_around_everything(sdk: str, own_agent: Start) -> None:
    agent = own_agent(sdk, "lifespan")
    assert invoke(agent.port, {}).body == b'"entered"'
    assert agent.stop() == -signal.SIGTERM
    assert agent.log.with_suffix(".state").read_text() == "left"


def logged(agent: Agent, message: str) -> dict[str, Any]:
    """The first log line whose message begins so."""

    def find() -> list[dict[str, Any]]:
        entries = [json.loads(line) for line in agent.log_lines() if line.startswith("{")]
        return [entry for entry in entries if entry["message"].startswith(message)]

    wait_until(lambda: bool(find()), f"a log line {message!r}")
    return find()[0]


IDS = {
    "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "s" * 33,
    "X-Amzn-Bedrock-AgentCore-Runtime-Request-Id": "r-1",
}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_log_lines_are_json_with_ids(sdk: str, kind: str, own_agent: Start) -> None:
    agent = own_agent(sdk, kind)
    invoke(agent.port, {}, **IDS)
    entry = logged(agent, "Invocation completed successfully (0.0")
    assert list(entry) == ["timestamp", "level", "message", "logger", "requestId", "sessionId"]
    assert (entry["level"], entry["logger"]) == ("INFO", "bedrock_agentcore.app")
    assert (entry["requestId"], entry["sessionId"]) == ("r-1", "s" * 33)
    assert len(entry["timestamp"]) == len("2026-01-01T00:00:00.000Z") and entry["timestamp"].endswith("Z")

    invoke(agent.port, {"case": "log", "text": "é"}, **IDS)
    entry = logged(agent, "said é")
    assert (entry["requestId"], entry["level"]) == ("r-1", "INFO")

    invoke(agent.port, {"case": "raise", "text": "broken"}, **IDS)
    entry = logged(agent, "Invocation failed")
    assert (entry["level"], entry["errorType"], entry["errorMessage"]) == ("ERROR", "ValueError", "broken")
    assert any("wire.py" in line and "raise ValueError" in line for line in entry["stackTrace"])
    assert ".py:" in entry["location"] and entry["sessionId"] == "s" * 33

    call(agent.port, "POST", "/invocations", b"{")
    assert logged(agent, "Invalid JSON in request")["level"] == "WARNING"


def test_log_lines_are_the_same_before_and_after_logging_is_imported(own_agent: Start) -> None:
    """The built-in SDK writes without `logging` until something has imported it."""
    agent = own_agent("builtin", "payload_only")
    invoke(agent.port, {}, **IDS)
    before = logged(agent, "Invocation completed")
    invoke(agent.port, {"case": "log", "text": "now"}, **IDS)
    logged(agent, "said now")
    invoke(agent.port, {}, **IDS)
    wait_until(lambda: sum("Invocation completed" in line for line in agent.log_lines()) == 3, "three lines")
    after = json.loads(agent.log_lines()[-1])
    assert list(after) == list(before)
    assert {k: v for k, v in after.items() if k != "timestamp"} == {k: v for k, v in before.items() if k != "timestamp"}


def test_connections_leave_nothing_behind(own_agent: Start, tmp_path: Path) -> None:
    """However they end: descriptors go back to what they were, and of the threads only the kept ones stay."""
    agent = own_agent("builtin", "async_generator")
    invoke(agent.port, {"names": ["none"]})  # the worker loop is there from now on
    process = Path(f"/proc/{agent.process.pid}")
    descriptors = len(list((process / "fd").iterdir()))
    endless = json.dumps({"told": str(tmp_path / "told"), "closed": str(tmp_path / "closed")}).encode()
    for round_ in range(20):
        open_ones = [Probe(agent.port) for _ in range(20)]
        for number, probe in enumerate(open_ones):
            if number % 5 == 0:
                probe.send(b"GET /pi")
            elif number % 5 == 1:
                probe.send(request("POST", "/invocations", headers={"Content-Length": "100"}) + b"{")
            elif number % 5 == 2:
                probe.send(request("POST", "/invocations", endless))
                assert probe.head().status == 200
            elif number % 5 == 3:
                probe.send(b"nonsense\r\n\r\n")
            else:
                probe.send(request("GET", "/ping"))
                assert probe.answer().status == 200
        if round_ % 2:
            for probe in open_ones:
                probe.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
        for probe in open_ones:
            probe.close()
    wait_until(lambda: len(list((process / "fd").iterdir())) <= descriptors, "every descriptor is closed")
    wait_until(lambda: len(list((process / "task").iterdir())) <= 2 + 8, "main, loop and eight kept threads")
    assert invoke(agent.port, {"names": ["none"]}).chunks == [b"data: null\n\n"]


OTHERS = ["python3.9", "python3.10", "python3.12", "python3.13", "/usr/bin/python3"]


@pytest.mark.parametrize("name", OTHERS)
def test_other_pythons(name: str, tmp_path: Path) -> None:
    """Every kind of function under the other versions of Python that this machine has."""
    pyenv = Path.home().glob(f".pyenv/versions/{name.removeprefix('python')}.*/bin/{name}")
    candidates = [*map(str, pyenv), *filter(None, [shutil.which(name)])]
    # A pyenv shim is there for every version, and fails for those that are not chosen.
    works = (path for path in candidates if subprocess.run([path, "-V"], capture_output=True).returncode == 0)
    interpreter = next(works, None)
    if interpreter is None:
        pytest.skip(f"{name} is not installed")
    for kind in ("sync", "async", "generator", "async_generator", "lifespan"):
        agent = launch(tmp_path, "builtin", kind, interpreter)
        try:
            answer = invoke(agent.port, {"names": ["dict"], "case": "value", "name": "dict"})
            assert answer.status == 200 and len(answer.body) > 5
        finally:
            assert agent.stop() == -signal.SIGTERM


def test_nothing_is_left_listening(own_agent: Start) -> None:
    agent = own_agent("builtin", "sync")
    assert agent.stop() == -signal.SIGTERM
    assert listening_hosts(agent) == set()
    assert free_port()
