"""M01–M07, K11, K12, K20, F28: the places an agent may write (sizes, inode caps) and the flags of every mount."""

import os
import shutil
import stat

import mounts
from registry import group, probe
from verdict import attempt, failed, info, judge, passed

PLACES = {"tmp": lambda subject: "/tmp", "shm": lambda subject: "/dev/shm", "home": lambda subject: subject.home}
# Sized, but nobody's to write in.
SIZED = {**PLACES, "dev": lambda subject: "/dev"}
_BYTES = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def _place(subject, name):
    """The place and the mount that is exactly there; an agent's home may lie in /tmp, then that one's caps hold."""
    path = os.path.realpath(SIZED[name](subject) or "/nowhere")
    return path, mounts.holding(path)


def _bytes(text):
    return int(text[:-1]) * _BYTES[text[-1].lower()] if text[-1].lower() in _BYTES else int(text)


@group("M01", SIZED, harmless=True)
def size_cap(subject, name, _row):
    """tmpfs shows size= only where it was set; without it, half of the machine's memory can be filled."""
    path, mount = _place(subject, name)
    if mount is None or mount.point == "/":
        return failed(f"{path} is no mount of its own")
    if mount.kind != "tmpfs":
        return failed(f"{path} is {mount.kind}, not a sized tmpfs")
    shown = mount.option("size")
    if shown is None:
        return failed(f"{mount.point} has no size=")
    promised = subject.limit(f"{name}_bytes")
    return judge(promised is None or _bytes(shown) == promised, f"{mount.point} size={shown}, promised {promised}")


@group("M02", SIZED, harmless=True)
def inode_cap(subject, name, _row):
    path, mount = _place(subject, name)
    if mount is None or mount.kind != "tmpfs":
        return failed(f"{path} is no tmpfs of its own")
    shown = mount.option("nr_inodes")
    if shown is None:
        return failed(f"{mount.point} has no nr_inodes=")
    promised = subject.limit(f"{name}_inodes")
    return judge(promised is None or _bytes(shown) == promised, f"{mount.point} nr_inodes={shown}, promised {promised}")


@group("M03", PLACES)
def scratch_is_writable(subject, name, _row):
    """What agents need must work: a suite on a session that can write nothing would be green for nothing."""
    path = _place(subject, name)[0]
    file = f"{path}/probe-{os.getpid()}"
    try:
        with open(file, "wb") as out:
            out.write(b"x" * 4096)
        os.unlink(file)
    except OSError as fault:
        return failed(f"{path}: {fault}")
    return passed(f"{path} is writable")


FLAGGED = {
    **SIZED, "root": lambda subject: "/", "proc": lambda subject: "/proc", "app": lambda subject: "/app",
    "dev_pts": lambda subject: "/dev/pts", "storage": lambda subject: "/mnt",
}


def _flag(subject, name, flag):
    path = os.path.realpath(FLAGGED[name](subject) or "/nowhere")
    mount = mounts.holding(path)
    if mount is None:
        return failed(f"{path}: no mount")
    return judge(flag in mount.flags, f"{mount.point}: {','.join(sorted(mount.flags))}")


@group("K11", FLAGGED, harmless=True)
def mounted_nosuid(subject, name, _row):
    return _flag(subject, name, "nosuid")


@group("K12", {name: place for name, place in FLAGGED.items() if not name.startswith("dev")}, harmless=True)
def mounted_nodev(subject, name, _row):
    return _flag(subject, name, "nodev")


@probe("K11.every", harmless=True)
def every_mount_nosuid(_subject):
    bad = [mount.point for mount in mounts.read() if "nosuid" not in mount.flags]
    return judge(not bad, f"mounts without nosuid: {bad[:6]}")


@probe("K12.every", harmless=True)
def every_writable_mount_nodev(_subject):
    """Device nodes themselves are bind mounts and must stay devices; everything else must not carry any."""
    bad = [
        mount.point for mount in mounts.read()
        if "nodev" not in mount.flags and not mount.point.startswith("/dev/") and not mount.has("ro")
    ]
    return judge(not bad, f"writable mounts without nodev: {bad[:6]}")


@group("M04", {"proc": "/proc", "shm": "/dev/shm", "dev": "/dev", "dev_pts": "/dev/pts"}, harmless=True)
def mounted_noexec(_subject, _name, place):
    mount = mounts.at(place)
    if mount is None:
        return failed(f"{place}: no mount")
    return judge("noexec" in mount.flags, f"{place}: {','.join(sorted(mount.flags))}")


@probe("M05")
def home_is_private(subject):
    mode = stat.S_IMODE(os.stat(subject.home).st_mode)
    return judge(mode == 0o700, f"{subject.home} has mode {mode:o}")


@group("M06", PLACES)
def owner_of_the_scratch(subject, name, _row):
    path, owner = PLACES[name](subject), os.stat(PLACES[name](subject)).st_uid
    return judge(owner == os.getuid(), f"{path} belongs to uid {owner}")


@probe("M07")
def owner_of_the_storage(_subject):
    """Beside the file system's own directory there is one, and it is the agent's, whatever host uids the session has."""
    owners = {name: os.stat(f"/mnt/{name}").st_uid for name in os.listdir("/mnt") if name != "lost+found"}
    return judge(all(owner == os.getuid() for owner in owners.values()), f"/mnt holds {owners}")


def _run_a_copy_in(place):
    copy = f"{place}/probe-true-{os.getpid()}"
    shutil.copy("/bin/true", copy)
    os.chmod(copy, 0o755)
    pid = os.fork()
    if pid == 0:
        try:
            os.execv(copy, [copy])
        except OSError as fault:
            os._exit(fault.errno)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.unlink(copy)
    return status


@probe("F28.shm")
def run_a_program_from_shm(_subject):
    status = _run_a_copy_in("/dev/shm")
    return judge(status == 13, f"exec of a copy in /dev/shm: {'ran' if status == 0 else f'errno {status}'}")


@probe("F28.tmp")
def run_a_program_from_tmp(_subject):
    """Allowed by default (pip builds, browsers); a strict profile may forbid it."""
    status = _run_a_copy_in("/tmp")
    return info("programs run from /tmp" if status == 0 else f"exec in /tmp: errno {status}")


@probe("K20.setuid", seconds=120)
def setuid_programs(_subject):
    """A set-uid program may lie in the base; it must not lie on a mount that honours it."""
    table = mounts.read()
    honoured = []
    for here, directories, names in os.walk("/"):
        if here == "/":
            directories[:] = [name for name in directories if name not in ("proc", "sys")]
        for name in names:
            path = os.path.join(here, name)
            try:
                mode = os.lstat(path).st_mode
            except OSError:
                continue
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                mount = mounts.holding(path, table)
                if mount is None or "nosuid" not in mount.flags:
                    honoured.append(path)
    return judge(not honoured, f"set-uid programs on mounts that honour it: {honoured[:4]}")


@probe("K20.chown")
def give_a_file_to_root(_subject):
    path = f"/tmp/probe-chown-{os.getpid()}"
    with open(path, "wb"):
        pass
    result = attempt(lambda: os.chown(path, 0, 0))
    os.unlink(path)
    return result
