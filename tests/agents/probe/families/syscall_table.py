"""S03, S04, S08: the other two tables of an x86_64 kernel, and the whole of this one as a golden record."""

import errno
import os
import select
import signal
import struct
import time

import child
import machine_code
import syscalls
from registry import group, probe
from verdict import CLOSED, failed, info, judge, refused

# --- S03: x32 (the number with bit 30) --------------------------------------------------------------------------------

X32 = 0x40000000
# x32 gave some calls numbers of their own (512 and up); the rest share the 64-bit ones.
X32_CALLS = {"getpid": 39, "unshare": 272, "keyctl": 250, "mount": 165, "bpf": 321, "io_uring_setup": 425, "setns": 308,
             "ptrace": 521, "process_vm_readv": 539, "kexec_load": 528}


@group("S03", X32_CALLS)
def x32_call(_subject, _name, number):
    return refused(syscalls.call(X32 | number, 0, 0, 0, 0, 0, 0))


# --- S04: i386 by int 0x80 --------------------------------------------------------------------------------------------

I386_CALLS = {
    "getpid": (20,),
    "unshare": (310, 0x10000000),
    "mount": (21, 1, 1, 1, 0),
    "keyctl": (288, 9999),
    "bpf": (357, 9999),
    "ptrace": (26, 0x4206, -1),
    "setns": (346, -1),
    "socketcall": (102, 1, 1),
    "modify_ldt": (123, 0, 0, 0),
    "io_uring_setup": (425, 0, 1),
    "process_vm_readv": (347, -1),
    "personality": (136, 0x0400000),
}


@group("S04", I386_CALLS)
def i386_call(_subject, _name, arguments):
    """Its own child: a filter that kills the foreign architecture, or a kernel without it (SIGSEGV), ends the process."""
    try:
        value = child.run(machine_code.int80, 5, *arguments)
    except child.Death as death:
        fine = death.by_signal in (signal.SIGSYS, signal.SIGSEGV)
        return judge(fine, f"{death}")
    if value >= 0:
        return failed(f"succeeded with {value}")
    return judge(-value in CLOSED, errno.errorcode.get(-value, str(value)))


# --- S08: the golden table --------------------------------------------------------------------------------------------

LAST = 600
_RECORD = struct.Struct("=iq")
_PATIENCE = 3.0  # seconds before a call counts as blocking


@probe("S08", seconds=240)
def table(_subject):
    """Every number from 0 to 600 with six arguments of -1, in a child that is started anew whenever a call ends it.

    The detail is `number:class` in a row (ok, an errno name, SIG…, EXIT, BLOCKS); the harness compares it with
    sandbox/src/seccomp/golden.txt: which of them a filter answers."""
    seen = {}
    while len(seen) <= LAST:
        _some_rows(seen)
    return info(" ".join(f"{number}:{seen[number]}" for number in sorted(seen)))


def _some_rows(seen):
    """Start a child at the first number not yet seen; record rows until it ends or blocks."""
    first = len(seen)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _call_from(first, writer)
        finally:
            os._exit(0)
    os.close(writer)
    blocked = False
    while len(seen) <= LAST and not blocked:
        if not select.select([reader], [], [], _PATIENCE)[0]:
            blocked = True
            break
        record = os.read(reader, _RECORD.size)
        if len(record) < _RECORD.size:
            break
        number, value = _RECORD.unpack(record)
        seen[number] = "ok" if value >= 0 else errno.errorcode.get(-value, str(-value))
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    os.close(reader)
    if len(seen) <= LAST:
        ended = child.signal_name(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else "EXIT"
        seen[len(seen)] = "BLOCKS" if blocked else ended


def _call_from(first, writer):
    for number in range(first, LAST + 1):
        if number in (syscalls.NR["fork"], syscalls.NR["vfork"]):
            # Returning twice into the interpreter, for vfork on a shared stack, would be the end of it.
            value = machine_code.forking(number)
        else:
            outcome = syscalls.call(number, -1, -1, -1, -1, -1, -1)
            value = outcome.value if outcome.value >= 0 else -outcome.error or 0
        os.write(writer, _RECORD.pack(number, value))


@probe("S08.time")
def no_call_is_slow(_subject):
    """A filter is walked at every call: a hundred thousand cheap ones, for the record."""
    start = time.perf_counter()
    for _ in range(100_000):
        os.getppid()
    return info(f"{(time.perf_counter() - start) * 10_000:.0f} ns per call")
