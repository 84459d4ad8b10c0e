"""The template up to where it forks: what it stops at, what it learns and refuses, and new randomness after a fork.

Tier: files and loopback. Forks into real sessions need root and are the shim's tests (`worker-shim/tests/session`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import SOURCE, free_port, has_aws_sdk

SECONDS = 60.0
BUILT_IN_AND_AWS = """
    from bedrock_agentcore import BedrockAgentCoreApp
    app = BedrockAgentCoreApp()

    @app.entrypoint
    def invoke(payload):
        return payload

    app.run(port=PORT)
"""


class Template:
    """A template's process, and the shim's end of its link."""

    def __init__(self, folder: Path, program: str, sdk: str, *options: str) -> None:
        if sdk == "aws" and not has_aws_sdk():
            pytest.skip("bedrock-agentcore is not installed: run python/tests/run.sh")
        self.port = free_port()
        script = folder / "agent.py"
        script.write_text(textwrap.dedent(program).replace("PORT", str(self.port)))
        self.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.settimeout(SECONDS)
        path = [str(SOURCE)] if sdk == "builtin" else [self._alone(folder)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        self.errors = (folder / "errors").open("w+")
        command = [sys.executable, "-m", "agentcore_template", *options, str(script), "word"]
        self.process = subprocess.Popen(command, stdin=theirs.fileno(), env=environment, stderr=self.errors)
        theirs.close()

    @staticmethod
    def _alone(folder: Path) -> str:
        """The bootstrap without the built-in SDK, which would hide the real one."""
        alone = folder / "alone"
        alone.mkdir()
        (alone / "agentcore_template").symlink_to(SOURCE / "agentcore_template")
        return str(alone)

    def says(self) -> dict[str, Any]:
        text = self.link.recv(1 << 16)
        assert text, self.log()
        message: dict[str, Any] = json.loads(text)
        return message

    def log(self) -> str:
        self.process.wait(SECONDS)
        self.errors.seek(0)
        return self.errors.read()

    def end(self) -> None:
        self.link.close()
        self.process.kill()
        self.process.wait()
        self.errors.close()


Start = Callable[..., Template]


@pytest.fixture
def template(tmp_path: Path) -> Iterator[Start]:
    running: list[Template] = []

    def start(program: str, sdk: str = "builtin", *options: str) -> Template:
        running.append(Template(tmp_path, program, sdk, *options))
        return running[-1]

    yield start
    for one in running:
        one.end()


def test_it_stops_where_it_would_serve(template: Start, sdk: str) -> None:
    one = template(BUILT_IN_AND_AWS, sdk)
    assert one.says() == {"state": "ready"}
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", one.port)) != 0, "nobody listens in a template"
    assert os.listdir(f"/proc/{one.process.pid}/task") == [str(one.process.pid)]
    one.link.shutdown(socket.SHUT_WR)
    assert one.process.wait(SECONDS) == 0, "it ends with its shim"


def test_it_has_what_the_first_request_imports(template: Start, sdk: str, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    program = f"""
        import gc, sys
        freeze = gc.freeze

        def look():
            with open({str(seen)!r}, "w") as stream:
                stream.write("\\n".join(sys.modules))
            freeze()

        gc.freeze = look  # the last thing that it does before it is ready
    """
    one = template(textwrap.dedent(program) + textwrap.dedent(BUILT_IN_AND_AWS), sdk)
    assert one.says() == {"state": "ready"}
    modules = set(seen.read_text().split("\n"))
    expected = {
        "builtin": {"bedrock_agentcore.runtime._dispatch", "json.decoder"},
        "aws": {"uvicorn.loops.auto", "uvicorn.lifespan.on", "h11"},
    }
    assert expected[sdk] <= modules


def test_uvicorn_alone(template: Start) -> None:
    if not has_aws_sdk():
        pytest.skip("uvicorn comes with bedrock-agentcore: run python/tests/run.sh")
    program = """
        import uvicorn

        async def app(scope, receive, send):
            if scope["type"] == "http":
                await send({"type": "http.response.start", "status": 204, "headers": []})
                await send({"type": "http.response.body"})

        uvicorn.run(app, port=PORT)
    """
    assert template(program, "aws").says() == {"state": "ready"}


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        ("async def warm(request): return Response(status_code=204)", None),
        ("def warm(request): return Response(status_code=204)", None),  # in a thread, which is gone afterwards
        ("async def warm(request): return Response(status_code=503)", "answered with 503"),
        ("async def warm(request): raise RuntimeError('cold')", "RuntimeError: cold"),
    ],
)
def test_the_warm_up_call_is_made_in_the_template(
    template: Start, tmp_path: Path, route: str, reason: str | None
) -> None:
    if not has_aws_sdk():
        pytest.skip("bedrock-agentcore is not installed: run python/tests/run.sh")
    seen = tmp_path / "seen"
    program = f"""
        import os
        from starlette.responses import Response
        from bedrock_agentcore import BedrockAgentCoreApp
        app = BedrockAgentCoreApp()
        {route}

        def noted(request):
            open({str(seen)!r}, "a").write(f"{{request.method}} {{os.getpid()}}\\n")
            return warm(request)

        async def noted_async(request):
            return await noted(request)

        app.add_route("/warm", noted_async if {"async" in route} else noted, methods=["POST"])
        app.run(port=PORT)
    """
    one = template(program, "aws", "--warmup", "/warm")
    said = one.says()
    assert seen.read_text() == f"POST {one.process.pid}\n", "once, in the template itself"
    if reason is None:
        assert said == {"state": "ready"}
        assert os.listdir(f"/proc/{one.process.pid}/task") == [str(one.process.pid)]
    else:
        assert said["state"] == "refused"
        assert reason in said["reason"]


LIFESPAN = """
    import asyncio, os, threading, uvicorn
    HOOKED = None

    def note(what):
        open(SEEN, "a").write(f"{what}\\n") if os.getpid() == TEMPLATE else None

    async def hooks(scope, receive, send):
        global HOOKED
        assert (await receive())["type"] == "lifespan.startup"
        HOOKED = asyncio.get_running_loop()
        scope["state"]["made"] = "here"
        note("startup")
        START
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        note("shutdown")
        STOP
        await send({"type": "lifespan.shutdown.complete"})

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return await hooks(scope, receive, send)
        if scope["path"] == "/warm":
            note(f"warm {HOOKED is asyncio.get_running_loop()} {scope['state']}")
            scope["state"]["more"] = True
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    TEMPLATE = os.getpid()
    uvicorn.run(app, port=PORT, lifespan="MODE")
"""
BETWEEN = ["startup", "warm True {'made': 'here'}", "shutdown"]


@pytest.mark.parametrize(
    ("mode", "start", "stop", "seen", "reason"),
    [
        ("auto", "", "", BETWEEN, None),
        ("on", "", "", BETWEEN, None),
        ("off", "", "", ["warm False {}"], None),
        # An application that has none, as a server sees it.
        ("auto", "raise RuntimeError('what is this scope?')", "", ["startup", "warm True {'made': 'here'}"], None),
        ("on", "raise RuntimeError('no database')", "", ["startup"], "hook failed .* RuntimeError: no database"),
        (
            "auto",
            "return await send({'type': 'lifespan.startup.failed', 'message': 'Traceback …\\nOSError: no route'})",
            "",
            ["startup"],
            "hook failed .* OSError: no route$",
        ),
        # What it leaves, and what it has cleared away.
        ("auto", "threading.Thread(target=threading.Event().wait, daemon=True).start()", "", BETWEEN, "threads"),
        ("auto", "go = threading.Event(); threading.Thread(target=go.wait).start()", "go.set()", BETWEEN, None),
    ],
)
def test_the_warm_up_call_is_made_between_the_hooks(
    template: Start, tmp_path: Path, mode: str, start: str, stop: str, seen: list[str], reason: str | None
) -> None:
    if not has_aws_sdk():
        pytest.skip("uvicorn comes with bedrock-agentcore: run python/tests/run.sh")
    notes = tmp_path / "seen"
    program = LIFESPAN.replace("SEEN", repr(str(notes))).replace("MODE", mode)
    one = template(
        program.replace("START", start or "pass").replace("STOP", stop or "pass"), "aws", "--warmup", "/warm"
    )
    said = one.says()
    assert notes.read_text().splitlines() == seen, said
    if reason is None:
        assert said == {"state": "ready"}
        assert os.listdir(f"/proc/{one.process.pid}/task") == [str(one.process.pid)]
    else:
        assert said["state"] == "refused"
        assert re.search(reason, said["reason"]), said


def test_a_start_up_hook_that_runs_only_once_is_refused(template: Start, tmp_path: Path) -> None:
    """The learning child runs it again, as each fork would."""
    if not has_aws_sdk():
        pytest.skip("uvicorn comes with bedrock-agentcore: run python/tests/run.sh")
    once = "if os.getpid() != TEMPLATE: await send({'type': 'lifespan.startup.failed', 'message': 'once'}); return"
    program = LIFESPAN.replace("SEEN", repr(str(tmp_path / "seen"))).replace("MODE", "auto").replace("STOP", "pass")
    said = template(program.replace("START", once), "aws", "--warmup", "/warm").says()
    assert said["state"] == "refused"
    assert "may not run twice" in said["reason"]


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("import threading, time; threading.Thread(target=time.sleep, args=(60,), name='mine').start()", "threads"),
        (
            "import os, threading, time; threading.Thread(target=time.sleep, args=(60,)).start()\n"
            "os.register_at_fork(after_in_child=lambda: time.sleep(60))",
            "threads",
        ),
        ("import socket; kept = socket.socket()", "a socket open"),
        ("kept = open('/tmp/agentcore-template-test', 'w')", "/tmp/agentcore-template-test open"),
        ("import subprocess; kept = subprocess.Popen(['sleep', '60'])", "another process"),
        ("import mmap; kept = mmap.mmap(-1, 4096)", "shared memory"),
        ("import signal; signal.setitimer(signal.ITIMER_REAL, 60)", "a timer"),
        ("raise SystemExit(3)", "exit status 3"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_what_cannot_be_forked_is_refused(template: Start, before: str, reason: str) -> None:
    one = template(f"{before}\n" + textwrap.dedent(BUILT_IN_AND_AWS))
    said = one.says()
    assert said["state"] == "refused"
    assert reason in said["reason"]
    assert one.link.recv(10) == b"", "and it is over"


def test_threads_that_end_before_each_fork_are_in_no_ones_way(template: Start) -> None:
    """As those of numpy's OpenBLAS."""
    threads = """
        import os, threading
        go = threading.Event()
        thread = threading.Thread(target=go.wait)
        thread.start()
        os.register_at_fork(before=lambda: go.set() or thread.join())
    """
    one = template(textwrap.dedent(threads) + textwrap.dedent(BUILT_IN_AND_AWS), "builtin")
    assert one.says() == {"state": "ready"}


def test_a_program_that_does_not_serve_is_refused(template: Start) -> None:
    assert template("import sys").says() == {"state": "refused", "reason": "the program ended without serving"}


def test_a_server_in_a_loop_of_its_own_is_refused(template: Start) -> None:
    if not has_aws_sdk():
        pytest.skip("uvicorn comes with bedrock-agentcore: run python/tests/run.sh")
    program = """
        import asyncio, uvicorn
        server = uvicorn.Server(uvicorn.Config(lambda scope, receive, send: None, port=PORT))
        asyncio.run(server.serve())
    """
    said = template(program, "aws").says()
    assert said["state"] == "refused"
    assert "event loop of its own" in said["reason"]


def test_a_failed_import_leaves_its_traceback(template: Start) -> None:
    one = template("def load():\n    import no_such_module\n\nload()\n")
    assert one.says()["state"] == "refused"
    assert "agent.py" in one.log()


def test_the_program_is_run_as_a_script(template: Start, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    program = f"""
        import sys, json, pickle
        class Mine: pass
        pickle.dumps(Mine())
        with open({str(seen)!r}, "w") as stream:
            json.dump([__name__, __file__, sys.argv, sys.path[0]], stream)
    """
    one = template(program)
    one.says()
    script = str(tmp_path / "agent.py")
    assert json.loads(seen.read_text()) == ["__main__", script, [script, "word"], str(tmp_path)]


def forks(loaded: str, drawn: str, *command: str) -> list[list[str]]:
    """What each of four forks of one process prints after `_go`, the last step before the agent's code goes on."""
    code = f"""
import os, sys
from agentcore_template import _become
fork = os.fork
{textwrap.dedent(loaded)}
for _ in range(4):
    if fork() == 0:
        _become._go({{"env": {{}}, "cwd": "/"}})
        print({drawn}, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([*command, sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 4, done.stdout
    return lines


def test_forks_draw_their_own_numbers() -> None:
    """`random` seeds itself after a fork; a hook after its own makes it the same again."""
    loaded = """
        import random, uuid
        os.register_at_fork(after_in_child=lambda: random.seed(1))
    """
    lines = forks(loaded, "random.getrandbits(64), uuid.uuid4()")
    assert all(len(set(column)) == 4 for column in zip(*lines, strict=True)), lines


def test_openssl_does_not_depend_on_the_process_number() -> None:
    """By which alone it notices a fork: all of these are the first process of a pid namespace, and so is theirs."""
    namespace = ("unshare", "--user", "--map-root-user", "--pid", "--fork")
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], capture_output=True).returncode != 0:
        pytest.skip("no pid namespace can be made here")
    loaded = """
        import ctypes, ssl
        CLONE_NEWPID = 0x20000000
        ssl.RAND_bytes(8)

        def fork():
            outer = os.fork()
            if outer == 0:
                assert ctypes.CDLL(None).unshare(CLONE_NEWPID) == 0
                if os.fork() != 0:
                    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
            return outer
    """
    lines = forks(loaded, "os.getpid(), ssl.RAND_bytes(8).hex()", *namespace)
    assert {number for number, _ in lines} == {"1"}
    assert len({drawn for _, drawn in lines}) == 4, lines


@pytest.mark.parametrize("without", ["", "uuid._generate_time_safe = None"])
def test_forks_have_their_own_node_in_uuid1(without: str) -> None:
    """With libuuid, and as a Python that was built without it."""
    loaded = f"""
        import time, uuid
        {without}
        uuid.uuid1()

        def draw():
            drawn = [uuid.uuid1() for _ in range(1000)]
            assert len(set(drawn)) == len(drawn)
            for one in drawn:
                assert (one.version, one.variant) == (1, uuid.RFC_4122)
                assert one.node == uuid.getnode() and one.node >> 40 & 1, "a multicast address is no network card's"
                assert abs(time.time() - (one.time / 1e7 - 12219292800)) < 60, "counted from 15 October 1582"
            return one.node, one.clock_seq
    """
    nodes, sequences = zip(*forks(loaded, "*draw()"), strict=True)
    assert len(set(nodes)) == 4, nodes
    assert len(set(sequences)) > 1, "of 14 bits, two may be the same by chance"


def test_a_uuid_module_of_another_shape_is_no_matter() -> None:
    assert forks("import uuid; del uuid._generate_time_safe", "uuid.uuid4()")


def test_numpys_own_generator_is_seeded_anew_in_each_fork() -> None:
    """A stand-in notes who seeds it, and with what: nothing, for which numpy asks the system. Nothing is imported."""
    loaded = """
        import types
        noted = []
        stand_in = types.ModuleType("numpy.random")
        stand_in.seed = lambda *given: noted.append((os.getpid(), *given))
        sys.modules["numpy.random"] = stand_in
        before = set(sys.modules)
    """
    assert forks(loaded, "noted == [(os.getpid(),)], set(sys.modules) == before") == [["True", "True"]] * 4
