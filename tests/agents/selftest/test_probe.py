"""Self-test of the probe agent's pure parts and of its harmless ids. Attacks nothing; run with Debian's interpreter:

    /usr/bin/python3 -m unittest discover -s tests/agents/selftest
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import unittest

AGENTS = pathlib.Path(__file__).resolve().parent.parent
PROBE = AGENTS / "probe"
PLAN = AGENTS.parent.parent / "sandbox/src/plan/compile.rs"
FAULTS = AGENTS.parent.parent / "sandbox/src/faults.rs"
CGROUP_STEPS = AGENTS.parent.parent / "sandbox/src/cgroup/step.rs"
AGENT_STEPS = AGENTS.parent.parent / "sandbox/src/agent.rs"
sys.path.insert(0, str(PROBE))

import catalogue  # noqa: E402
import child  # noqa: E402
import machine_code  # noqa: E402
import measures  # noqa: E402
import mounts  # noqa: E402
import netlink  # noqa: E402
import registry  # noqa: E402
import runner  # noqa: E402
import syscalls  # noqa: E402
import verdict  # noqa: E402
from subject import Missing, Subject  # noqa: E402

IDS = list(registry.PROBES)


class Catalogue(unittest.TestCase):
    def test_every_id_has_a_line(self):
        self.assertEqual([], [id for id in IDS if catalogue.line_of(id) is None])

    def test_every_line_describes_an_id(self):
        used = {next(line.ids for line in catalogue.LINES if runner.fnmatch.fnmatchcase(id, line.ids)) for id in IDS}
        self.assertEqual([], [line.ids for line in catalogue.LINES if line.ids not in used])

    def test_at_least_240_checks(self):
        self.assertGreaterEqual(len(IDS), 240)

    def test_measures_named_are_measures(self):
        known = set(measures.MEASURES) | {"–"}
        unknown = {(id, catalogue.line_of(id).shows) for id in IDS if catalogue.line_of(id).shows not in known}
        self.assertEqual(set(), unknown)


class Measures(unittest.TestCase):
    def test_every_measure_has_a_probe_that_exists(self):
        for name, measure in measures.MEASURES.items():
            self.assertTrue(measure.red or measure.chaos or measure.host, name)
            self.assertEqual([], [id for id in measure.red if id not in registry.PROBES], name)
            self.assertEqual([], [other for other in measure.cover if other not in measures.MEASURES], name)

    def test_probes_of_a_measure_say_so_in_the_catalogue(self):
        for name, measure in measures.MEASURES.items():
            for id in measure.red:
                self.assertIn(catalogue.line_of(id).shows, (name,), id)

    def test_every_step_of_the_plan_is_a_measure_or_scaffold(self):
        """A new step of the sandbox without a probe fails here."""
        plan = PLAN.read_text(encoding="utf-8").split("#[cfg(test)]")[0]
        # String literals of the form a.b or one word; not C strings, not the files that are written.
        named = set(re.findall(r'(?<![c\w])"([a-z_]+(?:\.[a-z_]+)?)"', plan)) - {"setgroups", "uid_map", "gid_map", "deny", "invisible", "pid"}
        known = {step for measure in measures.MEASURES.values() for step in measure.steps} | set(measures.SCAFFOLD)
        self.assertGreater(len(named), 60)
        self.assertEqual([], sorted(named - known), "steps that no measure names")
        of_plan = {step for step in known if not step.startswith(("agent.", "refusal.", "shim.", "cgroup."))}
        # Measures that are no step: what they leave out is said where the variable is described.
        described = set(re.findall(r"`([a-z]+\.[a-z_]+)`", FAULTS.read_text(encoding="utf-8")))
        self.assertEqual([], sorted(of_plan - named - described), "names that the plan does not have")

    def test_limits_are_those_of_the_cgroup(self):
        known = set(re.findall(r'"(cgroup\.[a-z_]+)"', CGROUP_STEPS.read_text(encoding="utf-8")))
        named = {step for measure in measures.MEASURES.values() for step in measure.steps if step.startswith("cgroup.")}
        self.assertEqual(set(), named - known)

    def test_steps_of_the_agent_are_the_shims(self):
        known = set(re.findall(r'"(?:agent\.)?([a-z]+)"', AGENT_STEPS.read_text(encoding="utf-8").split("const STAGES")[1].split("];")[0]))
        named = {step.removeprefix("agent.") for measure in measures.MEASURES.values() for step in measure.steps if step.startswith("agent.")}
        self.assertEqual(set(), named - known)

    def test_the_page_shows_the_table(self):
        page = (AGENTS / "measures.md").read_text(encoding="utf-8")
        missing = [row for row in measures.rows() if row not in page]
        self.assertEqual([], missing, "run python3 tests/agents/probe/measures.py --write")


class Choosing(unittest.TestCase):
    def test_patterns_groups_and_single_ids(self):
        self.assertEqual((["F02"], []), runner.select(["F02"]))
        self.assertEqual(34, len(runner.select(["P02.*"])[0]))
        self.assertEqual(runner.select(["S11.*"]), runner.select(["S11"]))
        self.assertEqual(len(IDS), len(runner.select("all")[0]))

    def test_an_unknown_id_is_red(self):
        answer = runner.run(["F99"])
        self.assertEqual({"PASS": 0, "FAIL": 1, "INFO": 0, "total": 1}, answer["counts"])

    def test_attacks_are_refused_outside_a_session(self):
        self.assertNotIn("AGENTCORE_RUNTIME_NAME", os.environ)
        with self.assertRaises(runner.NotInASession):
            runner.run(["F08.tmpfs"])

    def test_a_missing_canary_is_info_or_red_when_strict(self):
        entry = registry.Probe("X", lambda subject: subject.canary("peer", "pid"), 5, True, False, False)
        self.assertEqual("INFO", runner.one(entry, Subject()).verdict)
        self.assertEqual("FAIL", runner.one(entry, Subject(strict=True)).verdict)
        with self.assertRaises(Missing):
            Subject({"peer": 3}).canary("peer", "pid")


class Children(unittest.TestCase):
    def one(self, action, must_work=False, seconds=5):
        return runner.one(registry.Probe("X", action, seconds, True, False, must_work), Subject())

    def test_an_answer_comes_home(self):
        self.assertEqual({"a": [1]}, child.run(lambda: {"a": [1]}))
        self.assertEqual("PASS", self.one(lambda _: verdict.passed("fine")).verdict)

    def test_a_hanging_probe_is_red_in_time(self):
        begin = time.monotonic()
        self.assertEqual("FAIL", self.one(lambda _: signal.pause(), seconds=0.3).verdict)
        self.assertLess(time.monotonic() - begin, 5)

    def test_a_killed_probe_is_red_unless_the_filter_did_it(self):
        die = lambda number: lambda _: os.kill(os.getpid(), number)  # noqa: E731
        self.assertEqual("FAIL", self.one(die(signal.SIGKILL)).verdict)
        self.assertEqual("PASS", self.one(die(signal.SIGSYS)).verdict)
        self.assertEqual("FAIL", self.one(die(signal.SIGSYS), must_work=True).verdict)

    def test_a_broken_probe_is_red(self):
        result = self.one(lambda _: {}["nothing"])
        self.assertEqual("FAIL", result.verdict)
        self.assertIn("KeyError", result.detail)

    def test_a_grandchild_that_holds_the_pipe_delays_nobody(self):
        def leave_a_sleeper():
            if os.fork() == 0:
                time.sleep(3)
                os._exit(0)
            return 1

        begin = time.monotonic()
        self.assertEqual(1, child.run(leave_a_sleeper))
        self.assertLess(time.monotonic() - begin, 2)


class Verdicts(unittest.TestCase):
    def test_only_a_closed_door_passes(self):
        for number, expected in ((1, "PASS"), (38, "PASS"), (14, "FAIL"), (22, "FAIL"), (9, "FAIL")):
            self.assertEqual(expected, verdict.refused(syscalls.Outcome(-1, number)).verdict)
        self.assertEqual("FAIL", verdict.refused(syscalls.Outcome(0, 0)).verdict)

    def test_several_tries_under_one_id(self):
        both = [("a", verdict.passed("x")), ("b", verdict.failed("y"))]
        self.assertEqual(("FAIL", "b: y"), tuple(verdict.all_of(both)))
        self.assertEqual("PASS", verdict.all_of(both[:1]).verdict)


class MountTable(unittest.TestCase):
    TEXT = (
        "21 20 0:5 / / ro,nosuid,nodev - tmpfs root rw,size=1024k\n"
        "22 21 0:6 / /proc rw,nosuid,nodev,noexec shared:3 master:1 - proc proc rw,hidepid=invisible,subset=pid\n"
        "23 21 8:1 /state/a\\040b /app ro - ext4 /dev/root rw\n"
    )

    def test_fields(self):
        root, proc, app = mounts.parse(self.TEXT)
        self.assertEqual(("/", "tmpfs", "1024k"), (root.point, root.kind, root.option("size")))
        self.assertEqual(("shared:3", "master:1"), proc.propagation)
        self.assertEqual("invisible", proc.option("hidepid"))
        self.assertEqual("/state/a b", app.root)
        self.assertTrue(app.has("ro") and root.has("rw"))

    def test_which_mount_holds_a_path(self):
        table = mounts.parse(self.TEXT)
        self.assertEqual("/app", mounts.holding("/app/main.py", table).point)
        self.assertEqual("/", mounts.holding("/application", table).point)
        self.assertIsNone(mounts.at("/usr", table))


class Kernel(unittest.TestCase):
    """Harmless questions to the kernel that this runs on."""

    def test_netlink_knows_loopback(self):
        self.assertIn("lo", netlink.links().values())
        self.assertIn("127.0.0.1", [text for _, text in netlink.addresses()])
        self.assertEqual("lo", netlink.route_to("127.0.0.1"))

    def test_attributes_are_read_as_written(self):
        run = netlink.attribute(1, b"abc") + netlink.attribute(4, b"1234")
        self.assertEqual({1: b"abc", 4: b"1234"}, netlink.attributes(run))
        self.assertEqual({}, netlink.attributes(b"\x02\x00\x01\x00"))

    def test_machine_code(self):
        self.assertEqual([True, True], child.run(lambda: [machine_code.forking(57) > 0, machine_code.forking(58) > 0]))

    def test_ipc_objects_are_counted(self):
        """The count must move with an object made: a wrong field of the answer would always look empty."""
        from families import ipc

        remove = {"shm": ("shmget", (0, 4096, 0o600), "shmctl", lambda id: (id, 0, None)),
                  "sem": ("semget", (0, 1, 0o600), "semctl", lambda id: (id, 0, 0)),
                  "msg": ("msgget", (0, 0o600), "msgctl", lambda id: (id, 0, None))}
        for name, (make, arguments, control, by_id) in remove.items():
            number = syscalls.libc(make, *arguments).value
            self.assertGreaterEqual(number, 0)
            try:
                self.assertEqual("FAIL", ipc.nothing_there_at_start(None, name, ipc.USED[name]).verdict, name)
            finally:
                self.assertEqual(0, syscalls.libc(control, *by_id(number)).value)

    def test_the_interpreter_can_be_called_by_number(self):
        self.assertEqual(os.getpid(), syscalls.call(39).value)
        self.assertEqual(syscalls.Outcome(-1, 9), syscalls.call("read", -1, 0, 0))


class Harmless(unittest.TestCase):
    def test_each_gives_a_verdict_and_some_are_red_here(self):
        answer = runner.run([id for id, entry in registry.PROBES.items() if entry.harmless])
        broken = [row for row in answer["results"] if "broke" in row["detail"]]
        self.assertEqual([], broken)
        # The positive control: this machine is no sandbox, and the suite must see that.
        self.assertGreater(answer["counts"]["FAIL"], 10)

    def test_the_command(self):
        done = subprocess.run(
            ["/usr/bin/python3", str(PROBE / "main.py"), "--run", "R01.nofile", "L08"], capture_output=True, text=True, check=False)
        answer = json.loads(done.stdout)
        self.assertEqual(["L08", "R01.nofile"], sorted(row["id"] for row in answer["results"]))
        self.assertEqual(1, done.returncode)


if __name__ == "__main__":
    unittest.main()
