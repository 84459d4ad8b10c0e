"""L01–L04, L07–L12: what the agent inherits: descriptors, directory, umask, session, signals."""

import os
import signal
import stat

import at_start
from registry import group, probe
from verdict import info, judge, passed

# Descriptor kinds that a program gets only by being handed one.
ALWAYS_FOREIGN = ("anon_inode:[pidfd]", "anon_inode:seccomp notify", "anon_inode:bpf", "anon_inode:[perf_event]", "anon_inode:inotify",
                  "anon_inode:[fanotify]", "anon_inode:[io_uring]", "anon_inode:[userfaultfd]", "mnt:[", "net:[", "pid:[", "user:[")


@probe("L01", harmless=True)
def only_three_descriptors(_subject):
    extra = {number: target for number, target in at_start.DESCRIPTORS.items() if number > 2}
    return judge(not extra, f"inherited: {extra}")


@probe("L01.three", harmless=True)
def all_three_are_open(_subject):
    """A closed stdin lets the next open() become descriptor 0."""
    return judge({0, 1, 2} <= set(at_start.DESCRIPTORS), f"open at start: {sorted(at_start.DESCRIPTORS)}")


@probe("L01.now", in_agent=True, harmless=True)
def no_foreign_descriptor_now(_subject):
    """After any number of invocations, freezes and daemon restarts: no directory, no namespace, nothing handed in late."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
            mode = os.stat(f"/proc/self/fd/{name}").st_mode
        except OSError:
            continue
        listing = target.startswith(f"/proc/{os.getpid()}/fd")
        if target.startswith(ALWAYS_FOREIGN) or (stat.S_ISDIR(mode) and not listing) or "memfd:" in target:
            found.append((name, target))
    return judge(not found, f"{found[:4]}")


@probe("L01.count", in_agent=True, harmless=True)
def number_of_descriptors(subject):
    """canaries["descriptors_before"]: the count that an earlier run of this probe told; late leaks make it grow."""
    count = len(os.listdir("/proc/self/fd"))
    before = subject.canaries.get("descriptors_before")
    if before is None:
        return info(f"{count}")
    return judge(count <= before + 2, f"{count}, earlier {before}")


@probe("L02", in_agent=True)
def no_directory_that_walks_out(_subject):
    out = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if stat.S_ISDIR(os.stat(int(name)).st_mode) and not os.path.samestat(os.stat("..", dir_fd=int(name)), os.stat("/")):
                out.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return judge(not [target for target in out if "/proc" not in target], f"directory descriptors {out}")


@probe("L02.proc_fd")
def working_directory_by_descriptor(_subject):
    """CVE-2024-21626: /proc/self/fd/N as a way out of the root."""
    found = []
    for number in range(3, 64):
        try:
            os.chdir(f"/proc/self/fd/{number}")
            found.append((number, os.getcwd()))
        except OSError:
            continue
    return judge(not found, f"directories reached: {found}")


@probe("L03", harmless=True)
def working_directory(_subject):
    return judge(at_start.DIRECTORY == "/app", f"started in {at_start.DIRECTORY}")


@probe("L03.reachable", harmless=True)
def working_directory_is_inside(_subject):
    link = os.readlink("/proc/self/cwd")
    return judge(link.startswith("/") and "(unreachable)" not in link, f"cwd {link}")


@group("L04", {"stdin": 0, "stdout": 1, "stderr": 2})
def standard_stream(_subject, _name, number):
    """/dev/null, a pipe or a socket: no file, no terminal."""
    mode, target = os.fstat(number).st_mode, at_start.DESCRIPTORS.get(number, "closed")
    fine = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or target == "/dev/null"
    return judge(fine and not os.isatty(number), f"descriptor {number} is {target}")


@group("L04.own", {"stdin": 0, "stdout": 1, "stderr": 2})
def standard_stream_of_this_session_only(subject, _name, number):
    """canaries["stdio"]: inodes of the daemon's and other sessions' streams."""
    status = os.fstat(number)
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3):
        return passed("/dev/null")
    return judge(status.st_ino not in set(subject.canary("stdio")), f"inode {status.st_ino}")


@probe("L04.reopen")
def standard_streams_reopened(_subject):
    """A pipe opened again through /proc gives its other end: one could read what the log gets, but only one's own."""
    seen = []
    for number in (1, 2):
        try:
            descriptor = os.open(f"/proc/self/fd/{number}", os.O_RDONLY | os.O_NONBLOCK)
            seen.append((number, at_start.DESCRIPTORS.get(number)))
            os.close(descriptor)
        except OSError:
            continue
    return info(f"readable again: {seen}")


@probe("L07", harmless=True)
def umask(subject):
    """One that hides from other uids; canaries["umask"] when the plan sets another."""
    expected = subject.canaries.get("umask", 0o022)
    return judge(at_start.UMASK == expected, f"umask {at_start.UMASK:03o}, expected {expected:03o}")


@probe("L08", harmless=True)
def session_leader(_subject):
    """0: the leader is outside this pid namespace, so that the session (and its terminal) is somebody else's."""
    return judge(at_start.SESSION_LEADER > 0, f"sid {at_start.SESSION_LEADER}")


@probe("L09", harmless=True)
def signal_mask(_subject):
    """Blocked or ignored signals are inherited through exec: a blocked TERM would make every stop a kill."""
    fields = dict(line.split(":", 1) for line in at_start.STATUS.splitlines() if ":" in line)
    blocked = int(fields["SigBlk"], 16)
    # CPython itself ignores PIPE and XFSZ before our first line runs.
    ignored = int(fields["SigIgn"], 16) & ~(1 << (signal.SIGPIPE - 1)) & ~(1 << (signal.SIGXFSZ - 1))
    return judge(blocked == 0 and ignored == 0, f"blocked {blocked:#x}, ignored {ignored:#x}")


@probe("L10")
def scheduling(_subject):
    policy, nice = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
    return judge(policy == os.SCHED_OTHER and nice >= 0, f"policy {policy}, nice {nice}")


@probe("L11", harmless=True)
def death_signal(_subject):
    """The agent ends with whoever started it, by the kernel's hand; a fork with its pid namespace, by the same."""
    expected = 0 if at_start.FORKED else signal.SIGKILL
    return judge(at_start.DEATH_SIGNAL == expected, f"PDEATHSIG {at_start.DEATH_SIGNAL}")
