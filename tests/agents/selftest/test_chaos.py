"""Self-test of the chaos agent: each start and each well-behaved action, on loopback, outside any session.

What exhausts (bombs, floods without end) is not run here; the tests in sessions do that under their limits.
"""

import contextlib
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import unittest

CHAOS = pathlib.Path(__file__).resolve().parent.parent / "chaos"
REPOSITORY = CHAOS.parent.parent.parent


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Agent:
    """The agent as a child process on a port of its own."""

    def __init__(self, **environment):
        self.port = _free_port()
        base = {"PATH": os.environ["PATH"], "PORT": str(self.port), "PYTHONPATH": str(REPOSITORY / "python"), "HOME": "/tmp"}
        self.process = subprocess.Popen(
            ["/usr/bin/python3", str(CHAOS / "main.py")], env={**base, **environment},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def connect(self):
        """Retry until it listens; an agent that has ended instead is an error at once."""
        until = time.monotonic() + 10
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), timeout=10)
            except ConnectionRefusedError:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def ask(self, payload, path="/invocations"):
        """(status, body) by a real HTTP client, which complains when the answer is cut off."""
        self.connect().close()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as client:
            if path == "/ping":
                client.request("GET", path)
            else:
                client.request("POST", path, json.dumps(payload), {"Content-Type": "application/json"})
            answer = client.getresponse()
            return answer.status, answer.read()

    def bytes_of(self, payload):
        """Everything that comes back, as bytes, until the agent closes."""
        body = json.dumps(payload).encode()
        with self.connect() as client:
            client.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            client.settimeout(5)
            text = b""
            while piece := client.recv(65536):
                text += piece
            return text


class Starting(unittest.TestCase):
    def test_modes_that_end(self):
        for mode, status in {"exit0": 0, "exit1": 1, "segv": -signal.SIGSEGV, "import_error": 1}.items():
            with Agent(AGENT_MODE=mode) as agent:
                _, said = agent.process.communicate(timeout=10)
                self.assertEqual(status, agent.process.returncode, mode)
                self.assertIn(b"nobody_vendored" if mode == "import_error" else b"last words", said)

    def test_an_unknown_mode_names_the_known(self):
        with Agent(AGENT_MODE="nonsense") as agent:
            self.assertIn(b"die_after_n_ms", agent.process.communicate(timeout=10)[1])

    def test_dies_after_its_time(self):
        with Agent(AGENT_MODE="die_after_n_ms", AGENT_MS="200") as agent:
            self.assertEqual(7, agent.process.wait(timeout=10))

    def test_garbage_and_silence(self):
        with Agent(AGENT_MODE="garbage") as agent:
            with agent.connect() as client:
                client.sendall(b"GET /ping HTTP/1.1\r\n\r\n")
                self.assertEqual(bytes(range(16)), client.recv(16))
        with Agent(AGENT_MODE="silent") as agent, agent.connect() as client:
            client.settimeout(0.3)
            client.sendall(b"GET /ping HTTP/1.1\r\n\r\n")
            with self.assertRaises(TimeoutError):
                client.recv(1)

    def test_pings(self):
        for mode, status in {"ping_404": 404, "ping_500": 500, "bad_ping": 200}.items():
            with Agent(AGENT_MODE=mode) as agent:
                self.assertEqual(status, agent.ask(None, "/ping")[0])


class Terminating(unittest.TestCase):
    def test_tells_of_term(self):
        for mode in ("raw", "sdk"):
            with self.subTest(mode), Agent(AGENT_MODE=mode) as agent:
                self._needs_sdk(mode)
                agent.connect().close()
                agent.process.terminate()
                said, _ = agent.process.communicate(timeout=10)
                self.assertIn(b"got TERM\n", said)
                self.assertEqual(0, agent.process.returncode)

    def test_ignores_term(self):
        for environment in ({"AGENT_MODE": "raw", "AGENT_ON_TERM": "ignore"}, {"AGENT_MODE": "ignore_term"}):
            with self.subTest(environment), Agent(**environment) as agent:
                self._needs_sdk(environment["AGENT_MODE"])
                agent.connect().close()
                agent.process.terminate()
                with self.assertRaises(subprocess.TimeoutExpired):
                    agent.process.wait(timeout=0.5)

    def _needs_sdk(self, mode):
        if mode != "raw" and not (REPOSITORY / "python/bedrock_agentcore/runtime/app.py").exists():
            self.skipTest("the built-in SDK is not in this tree")


class Actions(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.agent = Agent(AGENT_MODE="raw")
        cls.agent.__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.agent.__exit__()

    def value(self, payload):
        status, body = self.agent.ask(payload)
        self.assertEqual(200, status, body)
        return json.loads(body)

    def test_plain(self):
        self.assertEqual({"echo": {"a": 1}}, self.value({"do": "echo", "value": {"a": 1}}))
        self.assertEqual(1 << 20, len(self.value({"do": "big"})))
        self.assertIn("echo", self.value({"do": "nonsense"})["known"])
        self.assertEqual(b"data: ", self.agent.ask({"do": "stream", "events": 2})[1][:6])

    def test_memory_of_each_kind_is_taken_and_given_back(self):
        for kind in ("anon", "tmpfs", "shm", "memfd", "pipe", "socket", "names"):
            answer = self.value({"do": "eat", "kind": kind, "bytes": 1 << 20})
            self.assertGreaterEqual(answer["bytes"], 1 << 20, kind)
            self.assertIsNone(answer["stopped"], kind)
        self.assertEqual(7, self.value({"do": "release"})["released"])

    def test_small_bombs(self):
        self.assertEqual(50, self.value({"do": "fd_bomb", "count": 50})["opened"])
        self.assertEqual(20, self.value({"do": "thread_bomb", "count": 20})["threads"])
        self.value({"do": "release_threads"})
        answer = self.value({"do": "fill", "bytes": 3 << 20, "keep": False})
        self.assertEqual((3 << 20, None), (answer["bytes"], answer["stopped"]))
        self.assertEqual(100, self.value({"do": "fill_inodes", "count": 100, "keep": False})["files"])

    def test_strays_are_there_until_killed(self):
        for payload in ({"do": "stray", "count": 2}, {"do": "stray", "stopped": True}):
            for pid in self.value(payload)["pids"]:
                os.kill(pid, signal.SIGTERM)  # blocked
                os.kill(pid, 0)
                os.kill(pid, signal.SIGKILL)

    def test_identity(self):
        answer = self.value({"do": "identity"})
        self.assertEqual(os.stat("/proc/self/ns/net").st_ino, answer["namespaces"]["net"])
        self.assertEqual(self.agent.process.pid, answer["pid"])

    def test_logs(self):
        self.assertEqual(3, self.value({"do": "log", "lines": 3, "kind": "invalid_utf8"})["lines"])
        self.assertEqual(1000, self.value({"do": "log_line", "bytes": 1000})["bytes"])

    def test_no_proxy_is_an_answer(self):
        self.assertIn("no proxy", self.value({"do": "proxy", "target": "127.0.0.1:9"})["error"])
        self.assertEqual(5, self.value({"do": "connect_flood", "to": "self", "count": 5})["connections"])

    def test_ping_is_changed(self):
        self.value({"do": "ping", "as": "status:503"})
        self.assertEqual(503, self.agent.ask(None, "/ping")[0])
        self.value({"do": "ping", "as": "no_time"})
        self.assertEqual({"status": "Healthy"}, json.loads(self.agent.ask(None, "/ping")[1]))
        self.value({"do": "ping", "as": "healthy"})

    def test_cut_off_answers_are_seen_as_such(self):
        for case in ("truncated", "chunked_cut", "chunk_short"):
            with self.subTest(case), self.assertRaises(http.client.HTTPException):
                self.agent.ask({"do": "http", "case": case})
        with self.assertRaises((ConnectionResetError, http.client.IncompleteRead)):
            self.agent.ask({"do": "http", "case": "truncated_reset"})
        with self.assertRaises(http.client.BadStatusLine):
            self.agent.ask({"do": "http", "case": "no_answer"})

    def test_extreme_answers_have_their_size(self):
        self.assertGreater(len(self.agent.bytes_of({"do": "http", "case": "status_long"})), 100_000)
        sent = self.agent.bytes_of({"do": "http", "case": "sse", "events": 4, "cut": True})
        self.assertEqual((4, False), (sent.count(b"data: "), sent.endswith(b"0\r\n\r\n")))
        status, body = self.agent.ask({"do": "http", "case": "big", "bytes": 1_000_000})
        self.assertEqual((200, 1_000_000), (status, len(body)))

    def test_every_case_that_only_sends_bytes_sends_some(self):
        sys.path.insert(0, str(CHAOS))
        import wrong_answers

        for name, case in wrong_answers.CASES.items():
            if case.__qualname__.startswith("_raw."):
                with self.subTest(name):
                    self.assertTrue(self.agent.bytes_of({"do": "http", "case": name}))


class Dying(unittest.TestCase):
    def test_each_end_has_its_status(self):
        for payload, status in (
            ({"do": "exit", "code": 3}, 3), ({"do": "kill_self", "signal": "ABRT"}, -signal.SIGABRT), ({"do": "segv"}, -signal.SIGSEGV),
            ({"do": "http", "case": "truncated_death"}, 9), ({"do": "stream", "die_after": 1}, 9),
        ):
            with self.subTest(payload), Agent(AGENT_MODE="raw") as agent:
                with self.assertRaises((http.client.HTTPException, ConnectionResetError)):
                    agent.ask(payload)
                self.assertEqual(status, agent.process.wait(timeout=10))


class WithTheSdk(unittest.TestCase):
    @unittest.skipUnless((REPOSITORY / "python/bedrock_agentcore/runtime/app.py").exists(), "the built-in SDK is not in this tree")
    def test_busy_and_healthy_again(self):
        with Agent(DOCKER_CONTAINER="1") as agent:
            self.assertEqual(1, json.loads(agent.ask({"do": "busy"})[1])["active_count"])
            self.assertEqual("HealthyBusy", json.loads(agent.ask(None, "/ping")[1])["status"])
            self.assertEqual(0, json.loads(agent.ask({"do": "busy", "on": False})[1])["active_count"])
            self.assertEqual("Healthy", json.loads(agent.ask(None, "/ping")[1])["status"])


if __name__ == "__main__":
    unittest.main()
