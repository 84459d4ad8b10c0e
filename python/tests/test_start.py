"""What the built-in SDK costs at start: which modules it loads, and when."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from conftest import SOURCE, free_port

# Each of these costs more than a session's whole sandbox, and no sync agent needs it.
EXPENSIVE = {"asyncio", "concurrent.futures", "dataclasses", "email", "http", "inspect", "logging", "ssl", "typing"}
EXPENSIVE |= {"traceback", "urllib.parse", "uuid", "tempfile", "subprocess", "datetime", "contextlib"}
# And these come after the port listens.
LATER = {"json", "socket", "threading", "select", "re"}


def modules_after(program: str) -> set[str]:
    """The modules that a fresh interpreter has loaded on top of its own after a program."""
    report = f"import sys; bare = set(sys.modules)\n{program}\nprint(*(set(sys.modules) - bare))"
    # -S: site-packages' .pth files may import anything.
    ran = subprocess.run(
        [sys.executable, "-S", "-c", report],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(ran.stdout.split())


AGENT = """
from bedrock_agentcore import BedrockAgentCoreApp
app = BedrockAgentCoreApp()
@app.entrypoint
def invoke(payload, context):
    return payload
"""

SERVED = (
    AGENT
    + """
import _thread, time
def client():
    # The C modules only: what this test's own client loads must not count.
    import _socket, posix
    while True:
        sock = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        try:
            sock.connect(("127.0.0.1", PORT))
            break
        except OSError:
            time.sleep(0.001)
    for request in (b"GET /ping HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n",
                    b"POST /invocations HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 8\\r\\n\\r\\n{\\"a\\": 1}"):
        sock.send(request)
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK")
    posix.kill(posix.getpid(), 2)
_thread.start_new_thread(client, ())
app.run(port=PORT, host="127.0.0.1")
"""
)


def test_importing_loads_next_to_nothing() -> None:
    loaded = modules_after(AGENT)
    assert not loaded & (EXPENSIVE | LATER)


def test_serving_a_sync_agent_loads_nothing_expensive() -> None:
    served = SERVED.replace("PORT", str(free_port()))
    assert not modules_after(served) & (EXPENSIVE - {"contextlib"})


def test_importing_opens_nothing() -> None:
    """A template stops at `run()` and forks: no thread, no descriptor may be there before."""
    program = AGENT + "import os, json; print(json.dumps([os.listdir('/proc/self/task'), os.listdir('/proc/self/fd')]))"
    ran = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, check=True
    )
    tasks, descriptors = json.loads(ran.stdout)
    assert len(tasks) == 1
    assert len(descriptors) == 4, "standard streams and the directory being listed"


def test_importing_is_quick() -> None:
    """The promise is well under 50 ms; 5 ms over the bare interpreter is what it takes, so 25 leaves room for load."""

    def best_of(program: str) -> float:
        times = []
        for _ in range(9):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(SOURCE)}, check=True)
            times.append(time.perf_counter() - begun)
        return min(times)

    cost = best_of(AGENT) - best_of("pass")
    print(f"import bedrock_agentcore: {cost * 1000:.1f} ms over the bare interpreter")
    assert cost < 0.025


def test_options_that_only_the_aws_sdk_has_are_told() -> None:
    program = "from bedrock_agentcore import BedrockAgentCoreApp; BedrockAgentCoreApp(middleware=[object()])"
    ran = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True
    )
    assert ran.returncode == 1 and "add `bedrock-agentcore` to requirements.txt" in ran.stderr


@pytest.mark.parametrize("module", ["bedrock_agentcore.runtime", "bedrock_agentcore.runtime.app"])
def test_the_aws_sdks_module_paths(module: str) -> None:
    modules_after(f"from {module} import BedrockAgentCoreApp")
