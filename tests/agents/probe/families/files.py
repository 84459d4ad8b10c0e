"""F01–F07, F15–F17, F24, F29–F33: what of the host's file system, or of another's, can be reached or changed."""

import errno
import os
import stat
import struct

import mounts
import syscalls
from registry import group, probe
from verdict import ABSENT, GUARDED, all_of, attempt, failed, info, judge, passed, refused

# --- F01: the host canary, by every way that has once led out ---------------------------------------------------------

WAYS_OUT = {
    "direct": "",
    "dotdot": "/..",
    "dotdot_deep": "/../../../../../..",
    "proc1_root": "/proc/1/root",
    "proc1_cwd": "/proc/1/cwd",
    "self_root": "/proc/self/root/..",
    "self_cwd": "/proc/self/cwd/../../../..",
    "thread_self": "/proc/thread-self/root/..",
    "dev_fd": "/dev/fd/0/../../..",
    "oldroot": "/oldroot",
    "old_root": "/old_root",
    "dot_old": "/.old",
    "old": "/old",
    "put_old": "/put_old",
    "pivot": "/.pivot_root",
    "host": "/host",
    "mnt": "/mnt",
}


@group("F01", WAYS_OUT)
def host_canary_behind(subject, _name, prefix):
    return _canary_at(subject, prefix + subject.canary("file", "path"))


@probe("F01.any_directory")
def host_canary_below_any_top_directory(subject):
    path = subject.canary("file", "path")
    below = [entry.path for entry in os.scandir("/") if entry.name != "proc"]
    return all_of((place, _canary_at(subject, place + path)) for place in below)


@probe("F01.any_mount")
def host_canary_below_any_mount(subject):
    path = subject.canary("file", "path")
    points = {mount.point.rstrip("/") for mount in mounts.read()}
    return all_of((point or "/", _canary_at(subject, point + path)) for point in sorted(points))


@probe("F01.walk_up")
def host_canary_by_walking_up_from_a_descriptor(subject):
    path = subject.canary("file", "path").lstrip("/")
    here = os.open("/", os.O_PATH | os.O_DIRECTORY)
    for _ in range(40):
        here = os.open("..", os.O_PATH | os.O_DIRECTORY, dir_fd=here)
    try:
        found = os.open(path, os.O_RDONLY, dir_fd=here)
    except OSError as fault:
        return passed(errno.errorcode[fault.errno])
    return _same_content(subject, found)


def _canary_at(subject, path):
    try:
        return _same_content(subject, os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as fault:
        return passed(errno.errorcode[fault.errno])


def _same_content(subject, descriptor):
    with os.fdopen(descriptor, "rb") as file:
        seen = file.read(1 << 16)
    if subject.canary("file", "content").encode() in seen:
        return failed("the host's canary file was read")
    return passed("another file lies at that path")


# --- F02–F07 ----------------------------------------------------------------------------------------------------------


@probe("F02")
def chroot(_subject):
    return refused(syscalls.call("chroot", syscalls.BAD))


@probe("F03")
def mount_propagation(_subject):
    tied = [f"{mount.point} {' '.join(mount.propagation)}" for mount in mounts.read() if mount.propagation]
    return judge(not tied, f"{len(tied)} mounts in a peer group: {tied[:4]}")


# Whatever else is in the table came from the host and should have gone with the old root.
OWN_MOUNTS = ("/proc", "/dev", "/tmp", "/app", "/mnt", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64",
              "/libx32", "/opt", "/run", "/sys", "/var")


@probe("F04.points")
def mounts_that_are_not_the_sessions(subject):
    known = OWN_MOUNTS + ((subject.home,) if subject.home else ())
    points = [mount.point for mount in mounts.read() if mount.point != "/"]
    strange = [point for point in points if not any(point == place or point.startswith(place + "/") for place in known)]
    return judge(not strange, f"mounts outside the session's own layout: {strange[:6]}")


@probe("F04.stacked")
def nothing_mounted_over_the_root(_subject):
    """pivot_root(".", ".") without the detach leaves the old root on top of the new one, reached as `/..`."""
    roots = [mount for mount in mounts.read() if mount.point == "/"]
    return judge(len(roots) == 1, f"{len(roots)} mounts at /")


@probe("F04.sources")
def host_paths_in_the_mount_table(subject):
    """The host's names of what is mounted here (the base, the bundle) are a leak, not a way out: shown. The canary's own
    path among them would be one."""
    shown = sorted({mount.root for mount in mounts.read() if mount.root not in ("/", "")})
    if subject.canary("file", "path") in shown:
        return failed("the canary itself is mounted")
    return info(f"roots of bind mounts shown: {shown[:6]}") if shown else passed("no path of the host shown")


def _node(number, kind, device, at=False):
    path = f"/tmp/probe-node-{os.getpid()}".encode() + b"\0"
    buffer = syscalls.ctypes.create_string_buffer(path)
    where = (-100, syscalls.address(buffer)) if at else (syscalls.address(buffer),)
    outcome = syscalls.call(number, *where, kind | 0o600, device)
    if outcome.value == 0:
        os.unlink(path.rstrip(b"\0"))
    return refused(outcome, GUARDED)


@group("F05", {"null": os.makedev(1, 3), "mem": os.makedev(1, 1), "kmsg": os.makedev(1, 11), "tty": os.makedev(4, 0)})
def character_node(_subject, _name, device):
    return all_of([
        ("mknod", _node("mknod", stat.S_IFCHR, device)),
        ("mknodat", _node("mknodat", stat.S_IFCHR, device, at=True)),
    ])


@group("F06", {"loop": os.makedev(7, 0), "sda": os.makedev(8, 0), "vda": os.makedev(254, 0)})
def block_node(_subject, _name, device):
    return all_of([
        ("mknod", _node("mknod", stat.S_IFBLK, device)),
        ("mknodat", _node("mknodat", stat.S_IFBLK, device, at=True)),
    ])


@probe("F07")
def open_by_file_handle(_subject):
    """The "shocker" way: inode 2 of whatever file system /app lies on."""
    handle = syscalls.ctypes.create_string_buffer(struct.pack("=Ii", 8, 1) + struct.pack("=II", 2, 0))
    mount = os.open("/app", os.O_RDONLY | os.O_DIRECTORY)
    return refused(syscalls.call("open_by_handle_at", mount, syscalls.address(handle), os.O_RDONLY))


# --- F15: binaries that someone else executes -------------------------------------------------------------------------

WRITING = {"wronly": os.O_WRONLY, "rdwr": os.O_RDWR, "append": os.O_WRONLY | os.O_APPEND}


@group("F15", {
    f"{target}_{mode}": (path, flags)
    for target, path in {"shim": "/proc/1/exe", "own": "/proc/self/exe", "libc": "libc"}.items()
    for mode, flags in WRITING.items()
})
def executable_opened_for_writing(_subject, _name, row):
    path, flags = row
    if path == "libc":
        path = _mapped_libc()
    # A process of the same binary runs, so ETXTBSY would hide a missing read-only mount: it does not count.
    return attempt(lambda: os.open(path, flags), GUARDED | ABSENT)


@probe("F15.shim_link")
def path_of_the_shim(_subject):
    return attempt(lambda: os.readlink("/proc/1/exe"))


@probe("F15.shim_exec")
def execute_the_shim_again(_subject):
    return attempt(lambda: os.execv("/proc/1/exe", ["probe"]))


def _mapped_libc():
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            if "libc.so" in line:
                return line.split(maxsplit=5)[5].strip()
    raise FileNotFoundError(errno.ENOENT, "no libc mapped")


# --- F16, F17: what lies in the root, and what of it can be written ---------------------------------------------------

WRITABLE = ("/tmp", "/dev/shm", "/mnt")


def _walk(subject, at_most=400_000):
    """(path, lstat) of everything in the root but /proc and the places that are the agent's to write."""
    skip = {"/proc", "/sys", subject.home, *WRITABLE}
    waiting, seen = ["/"], 0
    while waiting:
        here = waiting.pop()
        try:
            entries = list(os.scandir(here))
        except OSError:
            continue
        for entry in entries:
            seen += 1
            if seen > at_most:
                raise RuntimeError(f"more than {at_most} files in the root")
            status = entry.stat(follow_symlinks=False)
            yield entry.path, status
            if stat.S_ISDIR(status.st_mode) and entry.path not in skip:
                waiting.append(entry.path)


@probe("F16.sockets", seconds=120)
def sockets_in_the_root(subject):
    found = [path for path, status in _walk(subject) if stat.S_ISSOCK(status.st_mode)]
    return judge(not found, f"sockets in the root: {found[:4]}")


@probe("F16.block", seconds=120)
def block_nodes_in_the_root(subject):
    found = [path for path, status in _walk(subject) if stat.S_ISBLK(status.st_mode)]
    return judge(not found, f"block nodes in the root: {found[:4]}")


@probe("F16.character", seconds=120)
def character_nodes_outside_dev(subject):
    found = [path for path, status in _walk(subject) if stat.S_ISCHR(status.st_mode) and not path.startswith("/dev/")]
    return judge(not found, f"character nodes outside /dev: {found[:4]}")


@probe("F16.fifo", seconds=120)
def fifos_in_the_root(subject):
    found = [path for path, status in _walk(subject) if stat.S_ISFIFO(status.st_mode)]
    return judge(not found, f"FIFOs in the root: {found[:4]}")


@probe("F17.walk", seconds=120)
def nothing_else_is_writable(subject):
    home = subject.home.rstrip("/")
    found = []
    for path, status in _walk(subject):
        inside = path == home or path in WRITABLE or path.startswith("/dev/")
        if stat.S_ISLNK(status.st_mode) or inside or path.startswith("/proc"):
            continue
        if os.access(path, os.W_OK):
            found.append(path)
    return judge(not found, f"writable outside the scratch places: {found[:4]}")


@group("F17", {place.strip("/").replace("/", "_") or "root": place for place in (
    "/", "/usr", "/usr/bin", "/usr/lib", "/bin", "/sbin", "/lib", "/etc", "/etc/ssl", "/var", "/var/tmp", "/var/lib",
    "/opt", "/srv", "/root", "/run", "/home", "/boot", "/mnt", "/dev", "/dev/pts", "/proc", "/app")})
def create_a_file_in(_subject, _name, place):
    if os.path.islink(place) and os.path.realpath(place) == "/tmp":
        return passed("a link to /tmp, which is the session's own")
    path = f"{place.rstrip('/')}/probe-{os.getpid()}"
    result = attempt(lambda: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    if result.verdict == "FAIL":
        os.unlink(path)
    return result


@group("F17.flag", {"root": "/", "app": "/app", "dev": "/dev"})
def mounted_read_only(_subject, _name, place):
    """Reads the mount's own flag: file modes alone would refuse uid 1000 too."""
    return judge(bool(os.statvfs(place).f_flag & os.ST_RDONLY), f"{place}: f_flag {os.statvfs(place).f_flag:#x}")


@probe("F17.erofs")
def read_only_root_refuses_before_modes_do(_subject):
    """utimensat on a directory of the root: EROFS comes from the mount, EACCES or EPERM only from ownership."""
    return attempt(lambda: os.utime("/usr"), {errno.EROFS})


@probe("F17.app_erofs")
def read_only_app_refuses_before_modes_do(_subject):
    return attempt(lambda: os.utime("/app"), {errno.EROFS})


@group("F24", {"python": "/usr/bin/python3", "own_code": "/app/main.py", "null": "/dev/null", "passwd": "/etc/passwd"})
def hard_link_into_tmp(_subject, _name, target):
    target = os.path.realpath(target)
    name = f"/tmp/probe-link-{os.getpid()}"
    result = attempt(lambda: os.link(target, name))
    if result.verdict == "FAIL":
        os.unlink(name)
    return result


@group("F29", {place.strip("/").replace("/", "_") or "root": place for place in (
    "/", "/usr", "/usr/bin", "/etc", "/etc/passwd")})
def owner_of_the_base(_subject, _name, place):
    """uid 0 of the session: mapped, so that programs which check ownership (ssh, sudo, git) are content."""
    status = os.stat(place)
    return judge(status.st_uid == 0 and status.st_gid == 0, f"{place} belongs to {status.st_uid}:{status.st_gid}")


@group("F29.other", {place.strip("/").replace("/", "_"): place for place in ("/app", "/app/main.py", "/proc", "/dev")})
def owner_of(_subject, _name, place):
    """Not the agent's own (it could chmod it then), and a number that this user namespace knows or the overflow id."""
    try:
        status = os.stat(place)
    except OSError as fault:
        return failed(f"{place}: {errno.errorcode[fault.errno]}")
    mine = status.st_uid == os.getuid()
    return judge(not mine and status.st_uid in (0, 65534), f"{place} is owned by uid {status.st_uid}")


# --- F32, F33: the host's identity and secrets in files ---------------------------------------------------------------

@probe("F32.shadow")
def password_hashes(_subject):
    try:
        with open("/etc/shadow", encoding="utf-8") as shadow:
            hashes = [line.split(":")[0] for line in shadow if line.count(":") > 1 and line.split(":")[1].startswith("$")]
    except OSError as fault:
        return passed(errno.errorcode[fault.errno])
    return judge(not hashes, f"password hashes of {hashes[:3]}")


@probe("F32.machine_id")
def machine_id_of_the_host(subject):
    expected = subject.canary("machine_id")
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            with open(path, encoding="utf-8") as file:
                if file.read().strip() == expected:
                    return failed(f"{path} is the host's")
        except OSError:
            continue
    return passed("absent or not the host's")


@group("F33", {"root": "/root", "ssh": "/etc/ssh", "private_keys": "/etc/ssl/private", "state": "/var/lib/agentcore",
               "runtime": "/run/agentcore", "config": "/etc/agentcore", "cron": "/var/spool/cron", "log": "/var/log"})
def nothing_of_the_host_in(subject, _name, place):
    if subject.home == place:
        return info(f"{place} is the agent's home")
    try:
        found = os.listdir(place)
    except OSError as fault:
        return passed(errno.errorcode[fault.errno])
    return judge(not found, f"{place}: {found[:4]}")


