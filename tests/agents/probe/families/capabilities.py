"""K01, K02, K07–K10, K16–K19: no capability anywhere, no way to gain one, no new namespace to be powerful in."""

import errno
import os
import signal
import struct

import at_start
import syscalls
from registry import group, probe
from verdict import CLOSED, failed, judge, passed, refused

SETS = {"inheritable": "CapInh", "permitted": "CapPrm", "effective": "CapEff", "bounding": "CapBnd", "ambient": "CapAmb"}


def fields_of(status):
    return {key: value.strip() for key, _, value in (line.partition(":") for line in status.splitlines()) if value}


def _own():
    with open("/proc/self/status", encoding="ascii") as file:
        return fields_of(file.read())


def _every_thread():
    """(pid/thread, fields) of every task of every process that this uid may see: the whole session but PID 1."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        for thread in threads:
            try:
                with open(f"/proc/{pid}/task/{thread}/status", encoding="ascii", errors="replace") as file:
                    fields = fields_of(file.read())
            except OSError:
                continue  # ended meanwhile
            if fields.get("Uid", "").split()[:1] == [str(os.getuid())]:
                yield f"{pid}/{thread}", fields


@group("K01", SETS)
def capability_set(_subject, _name, field):
    value = _own()[field]
    return judge(int(value, 16) == 0, f"{field} {value}")


@group("K01.start", SETS, harmless=True)
def capability_set_at_start(_subject, _name, field):
    """As the agent was executed: a set that the interpreter or we ourselves dropped later would hide here."""
    value = fields_of(at_start.STATUS).get(field, "absent")
    return judge(value.strip("0") == "", f"{field} {value} at start")


@probe("K01.every_thread")
def capabilities_of_every_thread(_subject):
    wrong = [
        (task, field) for task, fields in _every_thread() for field in SETS.values() if int(fields[field], 16) != 0
    ]
    return judge(not wrong, f"tasks with capabilities: {wrong[:4]}")


@probe("K01.capget")
def capabilities_by_call(_subject):
    """/proc could be another's: ask the kernel itself."""
    head = syscalls.ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    data = syscalls.ctypes.create_string_buffer(24)
    outcome = syscalls.call("capget", syscalls.address(head), syscalls.address(data))
    if outcome.value == -1:
        return failed(f"capget: {errno.errorcode[outcome.error]}")
    return judge(data.raw == bytes(24), f"capget: {data.raw.hex()}")


@group("K02", {"no_new_privs": ("NoNewPrivs", "1"), "filtered": ("Seccomp", "2")})
def status_field(_subject, _name, row):
    field, expected = row
    value = _own().get(field)
    return judge(value == expected, f"{field} {value}")


@probe("K02.every_thread")
def every_thread_is_filtered(_subject):
    wrong = [
        task for task, fields in _every_thread() if fields.get("NoNewPrivs") != "1" or fields.get("Seccomp") != "2"
    ]
    return judge(not wrong, f"tasks unfiltered or without no_new_privs: {wrong[:4]}")


@probe("K02.filters")
def number_of_filters(subject):
    """The agent must carry all the filters that the launcher stacks (canaries["filters"], from the plan)."""
    count = int(_own().get("Seccomp_filters", "0"))
    return judge(count == subject.canary("filters"), f"{count} filters")


@probe("K02.prctl")
def no_new_privs_by_call(_subject):
    outcome = syscalls.call("prctl", 39, 0, 0, 0, 0)
    return judge(outcome.value == 1, f"PR_GET_NO_NEW_PRIVS {outcome.value}")


@group("K07", {"chown": 0, "dac_override": 1, "kill": 5, "setuid": 7, "net_admin": 12, "net_raw": 13, "sys_admin": 21,
               "sys_ptrace": 19, "sys_module": 16, "bpf": 39})
def raise_a_capability(_subject, _name, number):
    head = syscalls.ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    low, high = (1 << number) & 0xFFFFFFFF, (1 << number) >> 32
    data = syscalls.ctypes.create_string_buffer(struct.pack("=IIIIII", low, low, low, high, high, high))
    return refused(syscalls.call("capset", syscalls.address(head), syscalls.address(data)))


# --- K08–K10: namespaces ----------------------------------------------------------------------------------------------

NEWUSER = 0x10000000
# Without CAP_SYS_ADMIN the others need a user namespace first: together they show the filter, not the missing capability.
NAMESPACES = {"user": 0, "mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "pid": 0x20000000,
              "net": 0x40000000, "time": 0x80}
NO_NAMESPACE = CLOSED | {errno.ENOSPC}


@group("K08", NAMESPACES)
def unshare(_subject, _name, flag):
    return refused(syscalls.call("unshare", NEWUSER | flag), NO_NAMESPACE)


@group("K09", {name: flag for name, flag in NAMESPACES.items() if name != "time"})
def clone_into_new(_subject, _name, flag):
    """clone with no stack is a fork. (CLONE_NEWTIME lies in clone's signal byte: unshare and clone3 only.)"""
    parent = os.getpid()
    outcome = syscalls.call("clone", NEWUSER | flag | signal.SIGCHLD, 0, 0, 0, 0)
    if outcome.value == 0 and os.getpid() != parent:
        os._exit(0)
    return refused(outcome, NO_NAMESPACE)


@probe("K09.clone3")
def clone3_is_not_there(_subject):
    """A filter cannot read clone3's arguments: ENOSYS, so that libc falls back to clone."""
    return refused(syscalls.call("clone3", 0, 0), {errno.ENOSYS})


@group("K10", {name: name for name in ("user", "mnt", "cgroup", "uts", "ipc", "pid", "net", "time")})
def enter_a_namespace(_subject, _name, name):
    """Unfiltered, one's own user namespace is EINVAL; the others lack the capability."""
    handle = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
    return refused(syscalls.call("setns", handle, 0))


@probe("K10.pidfd")
def enter_namespaces_of_pid_1(_subject):
    try:
        handle = os.pidfd_open(1)
    except OSError as fault:
        return passed(f"pidfd_open: {errno.errorcode[fault.errno]}")
    return refused(syscalls.call("setns", handle, NEWUSER | 0x20000))


@probe("K10.bad_descriptor")
def enter_by_no_descriptor(_subject):
    return refused(syscalls.call("setns", -1, 0))


# --- K16–K19: the switches around capabilities ------------------------------------------------------------------------

NOROOT, NOROOT_LOCKED, NO_AMBIENT, NO_AMBIENT_LOCKED = 1, 2, 64, 128


@probe("K16")
def securebits(_subject):
    """uid 0 means nothing, nothing can be made ambient, and neither can be switched back."""
    outcome = syscalls.call("prctl", 27, 0, 0, 0, 0)
    wanted = NOROOT | NOROOT_LOCKED | NO_AMBIENT | NO_AMBIENT_LOCKED
    return judge(outcome.value != -1 and outcome.value & wanted == wanted, f"securebits {outcome.value:#x}")


@probe("K16.set")
def change_securebits(_subject):
    return refused(syscalls.call("prctl", 28, 0, 0, 0, 0))


@group("K17", {"net_raw": 13, "sys_admin": 21, "setuid": 7})
def raise_ambient(_subject, _name, number):
    return refused(syscalls.call("prctl", 47, 2, number, 0, 0))


@probe("K17.drop_bounding")
def drop_from_the_bounding_set(_subject):
    return refused(syscalls.call("prctl", 24, 0, 0, 0, 0), CLOSED | {errno.EINVAL})


@probe("K18")
def unset_no_new_privs(_subject):
    """Can only be set; 0 is EINVAL and must stay so."""
    return refused(syscalls.call("prctl", 38, 0, 0, 0, 0), CLOSED | {errno.EINVAL})


@group("K19", {"mm": (35, 13, -1, 0, 0), "sched_core": (62, 99, 0, 0, 0), "user_dispatch": (59, 99, 0, 0, 0)})
def what_the_kernel_believes(_subject, _name, arguments):
    """PR_SET_MM (own exe link and arguments, which fool whoever watches), core scheduling groups, and system calls
    handled by the process itself. Open, nonsense as the second argument is EINVAL."""
    return refused(syscalls.call("prctl", *arguments))
