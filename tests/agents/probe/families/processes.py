"""I01–I12, I16–I21: seeing, tracing, signalling and steering other processes, PID 1 first."""

import errno
import os
import resource
import signal
import struct

import at_start
import machine_code
import syscalls
from registry import group, probe
from verdict import CLOSED, attempt, info, judge, passed, refused

_ATTACH, _SEIZE = 16, 0x4206
NO_SUCH = frozenset({errno.ESRCH})
SHIM = 1


# --- I01–I03: who is there --------------------------------------------------------------------------------------------


@probe("I01")
def own_pid_is_small(_subject):
    """In a pid namespace of its own a session counts from 1; NSpid names one number per namespace, this one's last."""
    with open("/proc/self/status", encoding="ascii") as status:
        numbers = next(line.split()[1:] for line in status if line.startswith("NSpid:"))
    return judge(len(numbers) == 1, f"NSpid {' '.join(numbers)}, ppid {os.getppid()}")


@probe("I02", seconds=60)
def every_pid_by_signal_0(_subject):
    """EPERM tells that a process exists: PID 1 only (with `exec` running, the shim's helper too)."""
    others = []
    for pid in range(1, 70_000):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            continue
        except PermissionError:
            others.append(pid)
    return judge(set(others) <= {SHIM}, f"processes of others: {others[:8]}")


ON_A_PID = {
    "kill": lambda pid: os.kill(pid, 0),
    "getpgid": os.getpgid,
    "getsid": os.getsid,
    "getpriority": lambda pid: os.getpriority(os.PRIO_PROCESS, pid),
    "affinity": os.sched_getaffinity,
    "scheduler": os.sched_getscheduler,
    "pidfd": os.pidfd_open,
    "prlimit": lambda pid: resource.prlimit(pid, resource.RLIMIT_NOFILE),
    "ioprio": lambda pid: syscalls.raising(syscalls.call("ioprio_get", 1, pid), "ioprio_get"),
    "proc": lambda pid: os.stat(f"/proc/{pid}"),
    "tkill": lambda pid: syscalls.raising(syscalls.call("tkill", pid, 0), "tkill"),
}


@group("I03", ON_A_PID)
def host_process(subject, _name, ask):
    """ESRCH or ENOENT: the number means nothing here. EPERM would mean that it does."""
    return attempt(lambda: ask(subject.canary("pid")), {errno.ESRCH, errno.ENOENT, errno.ENOSYS})


# --- I04–I08: PID 1's memory and descriptors --------------------------------------------------------------------------


@group("I04", {"seize": _SEIZE, "attach": _ATTACH})
def ptrace_pid_1(_subject, _name, request):
    """Attaching would stop the target, so it is only tried once seizing (which does not) has been refused."""
    seized = refused(syscalls.call("ptrace", _SEIZE, SHIM, 0, 0))
    return seized if seized.verdict == "FAIL" or request == _SEIZE else refused(syscalls.call("ptrace", request, SHIM, 0, 0))


@probe("I05")
def ptrace_a_sibling(_subject):
    """Another process of the agent's own uid: the agent itself, our parent. Seized, it runs on, and our end lets it go."""
    return refused(syscalls.call("ptrace", _SEIZE, os.getppid(), 0, 0))


@group("I06", {"readv": "process_vm_readv", "writev": "process_vm_writev"})
def memory_of_pid_1(_subject, _name, number):
    return refused(syscalls.call(number, SHIM, syscalls.BAD, 1, syscalls.BAD, 1, 0))


@probe("I07")
def take_a_descriptor_of_pid_1(_subject):
    try:
        handle = os.pidfd_open(SHIM)
    except OSError as fault:
        return passed(f"pidfd_open: {errno.errorcode[fault.errno]}")
    return refused(syscalls.call("pidfd_getfd", handle, 0, 0))


@probe("I08")
def compare_with_pid_1(_subject):
    return refused(syscalls.call("kcmp", os.getpid(), SHIM, 0, 0, 0))


# --- I09, I16: signals ------------------------------------------------------------------------------------------------

SIGNALS = {name: getattr(signal, f"SIG{name}") for name in (
    "STOP", "KILL", "TERM", "INT", "HUP", "USR1", "SEGV", "ABRT", "TSTP", "CONT", "ALRM", "QUIT")}


@probe("I09.permission")
def may_signal_pid_1(_subject):
    return attempt(lambda: os.kill(SHIM, 0), CLOSED)


@group("I09", SIGNALS)
def signal_pid_1(_subject, _name, number):
    """Sent for real only when signal 0 says that it will be refused: the answer must get home either way."""
    asked = attempt(lambda: os.kill(SHIM, 0), CLOSED)
    return asked if asked.verdict == "FAIL" else attempt(lambda: os.kill(SHIM, number), CLOSED)


def _by_pidfd():
    handle = os.pidfd_open(SHIM)
    return syscalls.raising(syscalls.call("pidfd_send_signal", handle, 0, 0, 0), "pidfd_send_signal")


def _by_queue():
    record = syscalls.ctypes.create_string_buffer(struct.pack("=iii", 0, 0, -1), 128)
    return syscalls.raising(syscalls.call("rt_sigqueueinfo", SHIM, 0, syscalls.address(record)), "rt_sigqueueinfo")


OTHER_WAYS = {
    "tkill": lambda: syscalls.raising(syscalls.call("tkill", SHIM, 0), "tkill"),
    "tgkill": lambda: syscalls.raising(syscalls.call("tgkill", SHIM, SHIM, 0), "tgkill"),
    "pidfd": _by_pidfd,
    "queue": _by_queue,
}


@group("I09.by", OTHER_WAYS)
def signal_pid_1_by(_subject, _name, way):
    return attempt(way, CLOSED | NO_SUCH)


@probe("I16", seconds=60)
def reach_of_kill_minus_one(subject):
    """kill(-1) reaches what signal 0 may reach: processes in this namespace that run under our uid, none other."""
    mine, strange = os.getuid(), []
    for pid in range(2, 70_000):
        try:
            os.kill(pid, 0)
        except OSError:
            continue
        # An agent that is a fork is undumpable, as what it forks: hidden, though our own. A login session is only had from a parent.
        # A process that has joined such a session reaches it, of which the harness tells.
        if at_start.FORKED and _session_of(pid) == at_start.SESSION_LEADER:
            continue
        if _session_of(pid) == subject.canaries.get("undumpable_agent", 0):
            continue
        try:
            if os.stat(f"/proc/{pid}").st_uid != mine:
                strange.append(pid)
        except OSError:
            # Reachable by signal but not in our /proc: another namespace's or another uid's (a thread's id is listed under task).
            if not os.path.exists(f"/proc/self/task/{pid}") and not _is_a_thread(pid):
                strange.append(pid)
    return judge(not strange, f"reachable but not ours: {strange[:8]}; {[(pid, _session_of(pid)) for pid in strange[:2]]}, ours {at_start.SESSION_LEADER}")


def _session_of(pid):
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _is_a_thread(number):
    return any(os.path.exists(f"/proc/{pid}/task/{number}") for pid in filter(str.isdigit, os.listdir("/proc")))


# --- I10–I12, I17–I22: priority and steering --------------------------------------------------------------------------


@group("I10", {"fifo": os.SCHED_FIFO, "rr": os.SCHED_RR})
def real_time_class(_subject, _name, policy):
    return attempt(lambda: os.sched_setscheduler(0, policy, os.sched_param(1)), CLOSED)


@probe("I10.deadline")
def deadline_class(_subject):
    # struct sched_attr: size, policy 6, flags, nice, priority, runtime, deadline, period
    record = syscalls.ctypes.create_string_buffer(struct.pack("=IIQiIQQQ", 48, 6, 0, 0, 0, 10**7, 10**8, 10**8))
    return refused(syscalls.call("sched_setattr", 0, syscalls.address(record), 0))


@group("I11", {"minus_1": -1, "minus_20": -20})
def better_priority(_subject, _name, value):
    return attempt(lambda: os.setpriority(os.PRIO_PROCESS, 0, value), {errno.EPERM, errno.EACCES})


@probe("I11.io")
def real_time_io(_subject):
    return refused(syscalls.call("ioprio_set", 1, 0, (1 << 13) | 0))


OOM_SCORE = "/proc/self/oom_score_adj"


def _oom_score():
    with open(OOM_SCORE, encoding="ascii") as file:
        return int(file.read())


def _set_oom_score(value):
    with open(OOM_SCORE, "w", encoding="ascii") as file:
        file.write(str(value))


@probe("I12")
def oom_score_below_zero(_subject):
    """To be spared at the cost of the daemon and of everybody else."""
    return attempt(lambda: _set_oom_score(-1))


@probe("I12.floor")
def oom_score_below_its_own(subject):
    """The floor is what somebody with CAP_SYS_RESOURCE set last (security bar T14): canary `sys_resource` says whether
    the launcher had that."""
    now = _oom_score()
    result = attempt(lambda: _set_oom_score(now - 1))
    if result.verdict == "FAIL" and not subject.canaries.get("sys_resource"):
        return info(f"lowered from {now}: the launcher cannot set the floor without CAP_SYS_RESOURCE")
    return result


@probe("I12.score")
def first_to_go_when_memory_is_short(subject):
    """A daemon that is protected from the OOM killer must not protect its sessions."""
    now = _oom_score()
    wanted = subject.limits.get("oom_score_adj", 1)
    return judge(now >= wanted, f"oom_score_adj {now}")


STEERING = {
    "prlimit": lambda: resource.prlimit(SHIM, resource.RLIMIT_NOFILE),
    "prlimit_set": lambda: resource.prlimit(SHIM, resource.RLIMIT_NOFILE, (16, 16)),
    "setpriority": lambda: os.setpriority(os.PRIO_PROCESS, SHIM, 19),
    "affinity": lambda: os.sched_setaffinity(SHIM, os.sched_getaffinity(0)),
    "scheduler": lambda: os.sched_setscheduler(SHIM, os.SCHED_IDLE, os.sched_param(0)),
    "ioprio": lambda: syscalls.raising(syscalls.call("ioprio_set", 1, SHIM, (3 << 13) | 7), "ioprio_set"),
    "setpgid": lambda: os.setpgid(SHIM, SHIM),
    "migrate_pages": lambda: syscalls.raising(syscalls.call("migrate_pages", SHIM, 0, 0, 0), "migrate_pages"),
    "move_pages": lambda: syscalls.raising(syscalls.call("move_pages", SHIM, 0, 0, 0, 0, 0), "move_pages"),
}


@group("I17", STEERING)
def steer_pid_1(_subject, _name, act):
    return attempt(act)


@probe("I18")
def parent_is_the_shim(_subject):
    """An orphan must fall to PID 1 of this session, not to anything outside (getppid 0)."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        middle = os.getpid()
        if os.fork() == 0:
            while os.getppid() == middle:
                os.sched_yield()
            os.write(writer, str(os.getppid()).encode())
        os._exit(0)
    os.close(writer)
    parent = int(os.read(reader, 16))
    return judge(parent == SHIM, f"an orphan's parent is {parent}")


@probe("I19", seconds=30)
def orphans_are_reaped(_subject):
    """200 orphans that end at once; none may stay as a zombie (seen by signal 0: a zombie still answers)."""
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        for _ in range(200):
            pid = machine_code.forking(57)
            os.write(writer, struct.pack("=q", pid))
        os._exit(0)
    os.close(writer)
    os.waitpid(middle, 0)
    raw = b""
    while piece := os.read(reader, 65536):
        raw += piece
    pids = [pid for (pid,) in struct.iter_unpack("=q", raw)]
    if any(pid <= 0 for pid in pids):
        return info(f"only {sum(pid > 0 for pid in pids)} of 200 forks were allowed")
    left = set(pids)
    while left:  # bounded by the probe's own time limit
        left = {pid for pid in left if _exists(pid)}
        os.sched_yield()
    return passed("200 orphans reaped")


def _exists(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@probe("I20")
def tracing_own_child(_subject):
    """A debugger on the agent's own child is no attack; whether the filter allows it is policy."""
    outcome = syscalls.call("ptrace", 0, 0, 0, 0)  # PTRACE_TRACEME
    return info("allowed" if outcome.value == 0 else f"refused: {errno.errorcode[outcome.error]}")


@probe("I21")
def signal_the_parent_of_pid_1(_subject):
    """Process groups and sessions outside show as 0; kill(0) of a group outside must not exist."""
    group_id = os.getpgrp()
    return judge(group_id != 0, f"process group {group_id}")


