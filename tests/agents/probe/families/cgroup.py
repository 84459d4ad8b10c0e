"""G01, G02, G06, G08, R02, R05: the session's cgroup, seen from inside: invisible, unchangeable, and effective."""

import errno
import os
import signal
import struct
import time

import machine_code
import mounts
import syscalls
from registry import group, probe
from verdict import ABSENT, GUARDED, attempt, failed, info, judge, refused


@probe("G01")
def cgroup_paths(_subject):
    """A cgroup namespace shows every own cgroup as `/`; anything else names the host's tree."""
    with open("/proc/self/cgroup", encoding="ascii", errors="replace") as file:
        lines = file.read().split()
    shown = [line for line in lines if line.split(":", 2)[2] != "/"]
    return judge(not shown, f"{len(lines)} hierarchies, not /: {shown[:4]}")


@probe("G01.mountinfo")
def cgroup_mounted(_subject):
    found = [mount.point for mount in mounts.read() if mount.kind.startswith("cgroup")]
    return judge(not found, f"cgroup file systems at {found}")


FILES = ("cgroup.procs", "cgroup.threads", "tasks", "memory.max", "memory.limit_in_bytes", "pids.max", "cpu.max", "cpu.cfs_quota_us",
         "devices.allow", "release_agent", "notify_on_release", "cgroup.freeze", "freezer.state", "cgroup.kill", "cgroup.subtree_control")
ROOTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/cgroup", "/run/cgroup", "/dev/cgroup", "/tmp/cgroup") + tuple(
    f"/sys/fs/cgroup/{name}" for name in ("cpu", "memory", "pids", "freezer", "devices", "cpuset", "blkio", "systemd"))


@group("G02", {name.replace(".", "_"): name for name in FILES})
def control_file(_subject, _name, name):
    opened = []
    for root in ROOTS + tuple(mount.point for mount in mounts.read() if mount.kind.startswith("cgroup")):
        try:
            os.close(os.open(f"{root}/{name}", os.O_WRONLY))
            opened.append(root)
        except OSError:
            continue
    return judge(not opened, f"{name} writable in {opened}")


@probe("G06")
def move_by_clone3(_subject):
    """clone3(CLONE_INTO_CGROUP) with a bad descriptor: unfiltered EBADF."""
    record = syscalls.ctypes.create_string_buffer(struct.pack("=11Q", 0x200000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 999))
    return refused(syscalls.call("clone3", syscalls.address(record), 88), {errno.ENOSYS})


@probe("G08")
def device_that_is_not_allowed(subject):
    """canaries["denied_device"]: the path in here of a node that the harness made (mode 0666) and no list allows."""
    path = subject.canary("denied_device")
    if not os.path.exists(path):
        return info(f"{path} is not there")
    return attempt(lambda: os.open(path, os.O_RDONLY | os.O_NONBLOCK), GUARDED | ABSENT)


# --- R02, R05: the limits at work -------------------------------------------------------------------------------------


@probe("R02", seconds=60)
def fork_until_refused(subject):
    """Processes that share our memory and only pause, so that the count is what gives out and not the memory."""
    promised = subject.limit("pids")
    ceiling = (promised or 4096) + 64
    start, pids, stopped = machine_code.pausers(), [], None
    try:
        while len(pids) < ceiling:
            pid = start()
            if pid < 0:
                stopped = errno.errorcode.get(-pid, str(-pid))
                break
            pids.append(pid)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)
    if stopped is None:
        return failed(f"{len(pids)} processes and no end")
    fine = stopped == "EAGAIN" and (promised is None or len(pids) < promised)
    return judge(fine, f"{stopped} after {len(pids)} processes, promised {promised}")


@probe("R05", seconds=30)
def burn_more_than_the_quota(subject):
    """Four spinning processes for two seconds. On a busy machine the figure can only be lower: give a small quota."""
    promised = subject.limit("cpus")
    begin = time.monotonic()
    spinners = []
    for _ in range(max(4, 2 * (os.cpu_count() or 1))):
        pid = os.fork()
        if pid == 0:
            while time.monotonic() - begin < 2.0:
                pass
            os._exit(0)
        spinners.append(pid)
    used = 0.0
    for pid in spinners:
        usage = os.wait4(pid, 0)[2]
        used += usage.ru_utime + usage.ru_stime
    rate = used / (time.monotonic() - begin)
    if promised is None:
        return info(f"{rate:.2f} processors used")
    return judge(rate <= promised * 1.25 + 0.05, f"{rate:.2f} processors used, promised {promised}")


@probe("R03", seconds=60)
def memory_limit_is_not_shown_as_the_hosts(subject):
    """How much memory the session believes to have (sysconf reads the host's figures): for the record."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return info(f"sysconf says {pages >> 20} MiB, promised {subject.limit('memory_bytes')}")


