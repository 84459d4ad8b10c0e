"""P01–P05, P07–P11, P13: what /proc and /sys show, and what of it can be written."""

import errno
import os
import resource
import signal
import struct

import mounts
import syscalls
from registry import group, probe
from verdict import ABSENT, GUARDED, attempt, failed, info, judge, passed

# --- P01: a /proc of our own ------------------------------------------------------------------------------------------


@probe("P01")
def self_is_in_this_proc(_subject):
    return judge(os.readlink("/proc/self") == str(os.getpid()), f"/proc/self is {os.readlink('/proc/self')}")


@probe("P01.foreign_pids")
def processes_listed(_subject):
    """hidepid=invisible: only processes of the agent's own uid are listed, so all of them can be asked for their owner."""
    mine, strange = os.getuid(), []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            owner = os.stat(f"/proc/{name}").st_uid
        except FileNotFoundError:
            continue  # ended meanwhile
        if owner != mine:
            strange.append(f"{name} of uid {owner}")
    return judge(not strange, f"processes of others listed: {strange[:6]}")


@probe("P01.hidepid")
def pid_1_is_invisible(_subject):
    return judge(not os.path.exists("/proc/1"), f"/proc/1 {'exists' if os.path.exists('/proc/1') else 'does not exist'}")


@probe("P01.hidepid_option")
def hidepid_in_the_mount_table(_subject):
    mount = mounts.at("/proc")
    value = mount.option("hidepid") if mount else None
    return judge(value in ("invisible", "2", "ptraceable", "4"), f"hidepid={value}")


@probe("P01.subset")
def only_processes_in_proc(subject):
    names = sorted(name for name in os.listdir("/proc") if not name.isdigit() and name not in ("self", "thread-self"))
    if subject.profile == "masked":
        return info(f"the masked profile shows {len(names)} other names")
    return judge(not names, f"not processes: {names[:8]}")


@probe("P01.subset_option")
def subset_in_the_mount_table(subject):
    mount = mounts.at("/proc")
    value = mount.option("subset") if mount else None
    if subject.profile == "masked":
        return info(f"the masked profile: subset={value}")
    return judge(value == "pid", f"subset={value}")


@probe("P01.one")
def a_single_proc(_subject):
    found = [mount.point for mount in mounts.read() if mount.kind == "proc" and mount.root == "/"]
    return judge(found == ["/proc"], f"proc mounted at {found}")


# --- P02: absent or masked --------------------------------------------------------------------------------------------

MASKED = {name.replace("/", "_").replace("-", "_").replace(".", "_"): name for name in (
    "kcore", "keys", "latency_stats", "timer_list", "sched_debug", "scsi", "acpi", "asound", "kpagecount", "kpageflags",
    "kallsyms", "interrupts", "slabinfo", "vmallocinfo", "pagetypeinfo", "key-users", "config.gz", "kmsg", "iomem",
    "ioports", "kpagecgroup", "modules", "buddyinfo", "zoneinfo", "schedstat", "partitions", "diskstats", "mtrr", "crypto",
    "dynamic_debug", "driver", "bus", "irq", "sysvipc/shm")}


@group("P02", MASKED)
def hidden(_subject, _name, name):
    """Absent, unreadable, or empty (a mask)."""
    path = f"/proc/{name}"
    try:
        if os.path.isdir(path):
            shown = os.listdir(path)
            return judge(not shown, f"{path} lists {shown[:4]}")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            shown = os.read(descriptor, 64)
        finally:
            os.close(descriptor)
    except OSError as fault:
        return passed(errno.errorcode[fault.errno])
    return judge(not shown, f"{path} was read: {shown[:24]!r}")


# --- P03, P04: nothing writable (opened, never written) ---------------------------------------------------------------

TUNABLES = {path.strip("/").replace("proc/", "", 1).replace("/", "_").replace("-", "_"): path for path in (
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug", "/proc/sys/kernel/poweroff_cmd",
    "/proc/sys/kernel/sysrq", "/proc/sys/kernel/randomize_va_space", "/proc/sys/kernel/kptr_restrict",
    "/proc/sys/kernel/ns_last_pid", "/proc/sys/kernel/cad_pid", "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/drop_caches",
    "/proc/sys/fs/binfmt_misc/register", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/user/max_user_namespaces",
    "/proc/sysrq-trigger", "/proc/mtrr", "/proc/irq/default_smp_affinity", "/proc/scsi/scsi", "/proc/acpi/wakeup",
    "/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/power/state",
    "/sys/kernel/mm/ksm/run", "/sys/fs/cgroup/release_agent")}

OF_PID_1 = ("mem", "environ", "oom_score_adj", "oom_adj", "uid_map", "gid_map", "projid_map", "setgroups", "clear_refs",
            "timerslack_ns", "coredump_filter", "comm", "autogroup", "sched", "loginuid", "attr/current", "attr/exec",
            "make-it-fail")


@group("P03", {**TUNABLES, **{f"pid1_{name.replace('/', '_').replace('-', '_')}": f"/proc/1/{name}" for name in OF_PID_1}})
def opened_for_writing(_subject, _name, path):
    return attempt(lambda: os.open(path, os.O_WRONLY | os.O_NONBLOCK), GUARDED | ABSENT | {errno.EINVAL, errno.EIO})


@group("P03.own", {"uid_map": "0 0 1\n", "gid_map": "0 0 1\n", "setgroups": "allow\n"})
def own_id_map_written(_subject, name, text):
    """Written once by the launcher; a second write must fail."""

    def write():
        with open(f"/proc/self/{name}", "w", encoding="ascii", buffering=1) as file:
            file.write(text)

    return attempt(write)


@probe("P04", seconds=60)
def anything_writable_in_proc_sys_or_sys(_subject):
    opened, tried = [], 0
    for root in ("/proc/sys", "/sys"):
        for here, _, names in os.walk(root):
            for name in names:
                tried += 1
                path = os.path.join(here, name)
                try:
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                    opened.append(path)
                except OSError:
                    pass
    return judge(not opened, f"{len(opened)} of {tried} files opened for writing: {opened[:4]}")


# --- P05: PID 1's secrets ---------------------------------------------------------------------------------------------

LINKS = ("cwd", "exe", "root", "ns/user", "ns/mnt", "ns/net", "ns/pid")
TABLES = ("fd", "map_files", "fdinfo", "task")
TEXTS = ("environ", "maps", "smaps", "auxv", "mem", "stack", "syscall", "io", "personality", "pagemap", "mountinfo",
         "cmdline", "status", "stat", "cgroup", "limits")


@group("P05", {name.replace("/", "_"): name for name in LINKS + TABLES + TEXTS})
def secret_of_pid_1(_subject, _name, name):
    path = f"/proc/1/{name}"
    if name in LINKS:
        return attempt(lambda: os.readlink(path))
    if name in TABLES:
        return attempt(lambda: os.listdir(path))

    def read():
        # mem: reading at 0 is EIO even for the owner, so that it opens at all is the finding.
        descriptor = os.open(path, os.O_RDONLY)
        return name if name == "mem" else os.read(descriptor, 64)

    return attempt(read)


@probe("P05.owner")
def files_of_pid_1_belong_to_root_outside(_subject):
    """The only sign of the shim's dumpable flag that an agent can see, and only where hidepid is off: a dumpable
    process's files belong to its own uid (0 in here), those of the non-dumpable shim to the owner of the user namespace
    that may read its 0111 binary, which is unmapped in here (65534)."""
    try:
        owner = os.stat("/proc/1/environ").st_uid
    except OSError as fault:
        return passed(f"/proc/1 is not shown ({errno.errorcode[fault.errno]})")
    return judge(owner == 65534, f"/proc/1/environ belongs to uid {owner}")


# --- P07–P11, P13 -----------------------------------------------------------------------------------------------------


@probe("P07.syslog")
def kernel_log_by_syslog(_subject):
    buffer = syscalls.ctypes.create_string_buffer(256)
    outcome = syscalls.call("syslog", 3, syscalls.address(buffer), 256)
    return attempt(lambda: syscalls.raising(outcome, "syslog"))


@group("P07", {"dev_kmsg": "/dev/kmsg", "proc_kmsg": "/proc/kmsg", "var_log": "/var/log/kern.log"})
def kernel_log_by_file(_subject, _name, path):
    return attempt(lambda: os.open(path, os.O_RDONLY | os.O_NONBLOCK))


@probe("P08")
def no_sys(_subject):
    try:
        shown = os.listdir("/sys")
    except OSError as fault:
        return passed(errno.errorcode[fault.errno])
    return judge(not shown, f"/sys lists {shown[:6]}")


@probe("P08.mounted")
def no_sysfs_mounted(_subject):
    kinds = ("sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "bpf", "pstore", "configfs", "efivarfs")
    found = [f"{mount.kind} at {mount.point}" for mount in mounts.read() if mount.kind in kinds]
    return judge(not found, f"kernel file systems mounted: {found[:6]}")


@group("P08", {name.replace("/", "_"): name for name in (
    "kernel/debug", "kernel/tracing", "kernel/security", "firmware", "fs/bpf", "fs/cgroup", "fs/pstore", "class/net",
    "devices/system/cpu", "block", "kernel/notes", "kernel/vmcoreinfo", "module")})
def part_of_sys(_subject, _name, name):
    return attempt(lambda: os.listdir(f"/sys/{name}") if os.path.isdir(f"/sys/{name}") else open(f"/sys/{name}", "rb").read(8))


@probe("P09")
def physical_addresses(_subject):
    """Bits 0–54 of a pagemap entry are the frame number; without privilege they read as zero."""
    page = bytearray(resource.getpagesize() * 2)
    where = syscalls.ctypes.addressof(syscalls.ctypes.c_char.from_buffer(page)) // resource.getpagesize() + 1
    try:
        with open("/proc/self/pagemap", "rb") as pagemap:
            pagemap.seek(where * 8)
            entry = struct.unpack("=Q", pagemap.read(8))[0]
    except OSError as fault:
        return passed(errno.errorcode[fault.errno])
    frame = entry & ((1 << 55) - 1)
    return judge(frame == 0, f"frame number {'hidden' if frame == 0 else 'shown'}")


@probe("P10")
def core_dump(_subject):
    """A crash leaves no core: neither a file (tried in /tmp, where one could be written) nor a run of the host's handler."""
    place = f"/tmp/probe-core-{os.getpid()}"
    os.mkdir(place)
    pid = os.fork()
    if pid == 0:
        os.chdir(place)
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    left = os.listdir(place)
    for name in left:
        os.unlink(f"{place}/{name}")
    os.rmdir(place)
    if not os.WIFSIGNALED(status):
        return failed("the crash did not happen")
    return judge(not os.WCOREDUMP(status) and not left, f"dumped: {os.WCOREDUMP(status)}, files: {left}")


@probe("P11")
def security_label(_subject):
    """Which label is right is the host's business (H>): shown for the record."""
    try:
        with open("/proc/self/attr/current", encoding="utf-8") as file:
            return info(f"label {file.read().strip(chr(0)).strip()!r}")
    except OSError as fault:
        return info(f"no label ({errno.errorcode[fault.errno]})")


@probe("P13.boot_id")
def boot_identity(subject):
    """The boot id is the same for every session of a host: a way to tell that two sessions share one."""
    expected = subject.canary("boot_id")
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            same = file.read().strip() == expected
    except OSError as fault:
        return passed(errno.errorcode[fault.errno])
    return judge(not same, f"boot id {'is' if same else 'is not'} the host's")
