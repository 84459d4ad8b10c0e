"""D01–D06: /dev holds the few devices that every program needs, and they are what their names say."""

import os
import stat

import mounts
from registry import group, probe
from verdict import ABSENT, attempt, failed, judge, passed

EXPECTED = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "fd", "stdin", "stdout", "stderr", "mqueue", "console",
            "core"}


@probe("D01")
def nothing_else_in_dev(subject):
    """But for the node that the harness itself put there for G08."""
    canary = os.path.basename(subject.canaries.get("denied_device", ""))
    strange = sorted(set(os.listdir("/dev")) - EXPECTED - {canary})
    return judge(not strange, f"also in /dev: {strange[:8]}")


@probe("D01.block")
def no_block_device(_subject):
    found = [name for name in os.listdir("/dev") if stat.S_ISBLK(os.lstat(f"/dev/{name}").st_mode)]
    return judge(not found, f"block devices {found}")


NUMBERS = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}


@group("D02", NUMBERS)
def device_is_what_it_says(_subject, name, expected):
    status = os.stat(f"/dev/{name}")
    seen = (os.major(status.st_rdev), os.minor(status.st_rdev))
    return judge(stat.S_ISCHR(status.st_mode) and seen == expected, f"/dev/{name} is {seen}")


REPLACING = {
    "rename": lambda: os.rename("/dev/null", "/dev/null.old"),
    "unlink": lambda: os.unlink("/dev/null"),
    "over": lambda: os.rename("/tmp", "/dev/null"),
    "chmod": lambda: os.chmod("/dev/null", 0o600),
    "chown": lambda: os.chown("/dev/null", os.getuid(), -1),
    "symlink": lambda: os.symlink("/proc/sys/kernel/core_pattern", "/dev/probe"),
}


@group("D02.replace", REPLACING)
def replace_dev_null(_subject, _name, act):
    return attempt(act)


@probe("D02.works", must_work=True)
def devices_work(_subject):
    with open("/dev/urandom", "rb") as random, open("/dev/zero", "rb") as zero, open("/dev/null", "wb") as null:
        fine = len(random.read(16)) == 16 and zero.read(4) == bytes(4) and null.write(b"x") == 1
    return judge(fine, "urandom, zero and null answer" if fine else "one of them does not answer")


@probe("D03")
def pseudo_terminals_of_our_own(_subject):
    """In a new instance the first terminal is number 0 and nobody else's is listed."""
    before = sorted(name for name in os.listdir("/dev/pts") if name != "ptmx")
    return judge(not before, f"terminals there already: {before[:6]}")


@probe("D03.first", must_work=True)
def first_terminal_is_0(_subject):
    try:
        main, side = os.openpty()
    except OSError as fault:
        return failed(f"no pseudo terminal: {fault}")
    name = os.ttyname(side)
    os.close(main)
    os.close(side)
    return judge(name == "/dev/pts/0", f"first terminal {name}")


@probe("D03.instance")
def devpts_is_not_the_hosts(subject):
    """canaries["devpts"]: st_dev of the host's /dev/pts. Every instance is a file system of its own."""
    own = os.stat("/dev/pts").st_dev
    return judge(own != subject.canary("devpts"), f"st_dev {own}")


@probe("D03.cap")
def terminals_are_capped(_subject):
    mount = mounts.at("/dev/pts")
    value = mount.option("max") if mount else None
    return judge(value is not None and int(value) <= 1024, f"max={value}")


@probe("D03.mode")
def terminals_are_not_for_others(_subject):
    """0620 as everywhere: others may not write; the group may, as wall(1) wants it."""
    mount = mounts.at("/dev/pts")
    value = mount.option("mode") if mount else None
    return judge(value is not None and int(value, 8) == 0o620, f"mode={value}")


@probe("D03.console")
def console(_subject):
    try:
        status = os.stat("/dev/console")
    except OSError:
        return passed("absent")
    return judge(os.major(status.st_rdev) == 136, f"/dev/console is {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")


DANGEROUS = (
    "kvm", "kmsg", "mem", "kmem", "port", "fuse", "net/tun", "userfaultfd", "vhost-net", "vhost-vsock", "vsock", "loop-control", "loop0",
    "vda", "sda", "nvme0", "nvme0n1", "dm-0", "mapper/control", "md0", "dri/card0", "dri/renderD128", "vfio/vfio", "uinput", "input/event0",
    "hpet", "cpu/0/msr", "watchdog", "rtc0", "snapshot", "uhid", "ppp", "btrfs-control", "autofs", "bus/usb", "mqueue", "hugepages",
    "cpu_dma_latency", "udmabuf", "dma_heap/system", "tpm0", "nvram", "vcs", "tty0", "ttyS0", "fb0", "snd/timer")


@group("D04", {name.replace("/", "_").replace("-", "_"): name for name in DANGEROUS})
def dangerous_node(_subject, _name, name):
    return attempt(lambda: os.lstat(f"/dev/{name}"), ABSENT)


@probe("D05")
def dev_is_not_writable(_subject):
    return attempt(lambda: os.mkdir("/dev/probe"))


@probe("D05.disk")
def any_disk_by_number(subject):
    """Every node of the root that is a disk by number, opened: there must be none, wherever it lies (F16 looks by type).
    The harness's own (G08) is none of the session's."""
    canary = os.path.basename(subject.canaries.get("denied_device", ""))
    opened = []
    for name in set(os.listdir("/dev")) - {canary}:
        status = os.lstat(f"/dev/{name}")
        if stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) not in (1, 5, 136):
            opened.append(f"{name} {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")
    return judge(not opened, f"devices of other kinds: {opened}")


@probe("D06")
def mode_of_dev(_subject):
    mode = stat.S_IMODE(os.stat("/dev").st_mode)
    return judge(mode == 0o755, f"/dev has mode {mode:o}")
