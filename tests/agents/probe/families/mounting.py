"""F08–F14: mounting, unmounting and the rest of what only the launcher may do to the mount tree."""

import os

import syscalls
from registry import group, probe
from verdict import all_of, attempt, refused

_BIND, _REMOUNT, _RDONLY, _EXPIRE = 4096, 32, 1, 4


def _text(text):
    return syscalls.ctypes.create_string_buffer(text.encode())


def _mount(source, target, kind, flags, data=None):
    held = [_text(source), _text(target), _text(kind), _text(data) if data else None]
    return syscalls.call(
        "mount", *(syscalls.address(buffer) if buffer else 0 for buffer in held[:3]), flags,
        syscalls.address(held[3]) if held[3] else 0,
    )


def _empty_directory():
    place = f"/tmp/probe-mount-{os.getpid()}"
    os.mkdir(place)
    return place


@group("F08", {kind: kind for kind in (
    "tmpfs", "proc", "sysfs", "cgroup", "cgroup2", "overlay", "devtmpfs", "devpts", "mqueue", "bpf", "debugfs", "tracefs",
    "securityfs", "binfmt_misc", "fuse", "ext4")})
def mount_a_new(_subject, _name, kind):
    place = _empty_directory()
    outcome = _mount(kind, place, kind, 0)
    if outcome.value == 0:
        syscalls.call("umount2", syscalls.address(_text(place)), 2)
    os.rmdir(place)
    return refused(outcome)


@group("F09", {"usr": "/usr", "proc": "/proc", "app": "/app", "shm": "/dev/shm"})
def bind(_subject, _name, source):
    place = _empty_directory()
    outcome = _mount(source, place, "", _BIND)
    if outcome.value == 0:
        held = _text(place)
        syscalls.call("umount2", syscalls.address(held), 2)
    os.rmdir(place)
    return refused(outcome)


@group("F10", {"root": "/", "app": "/app", "proc": "/proc", "tmp": "/tmp"})
def remount(_subject, _name, place):
    """Loosen the flags. Should it succeed, `/` and `/app` are put back read-only."""
    outcome = _mount("none", place, "", _REMOUNT | _BIND)
    if outcome.value == 0:
        _mount("none", place, "", _REMOUNT | _BIND | _RDONLY)
    return refused(outcome)


@group("F11", {name: place for name, place in {
    "proc": "/proc", "dev": "/dev", "null": "/dev/null", "shm": "/dev/shm", "tmp": "/tmp", "app": "/app", "root": "/"}.items()})
def unmount(_subject, _name, place):
    """MNT_EXPIRE only marks on its first call: nothing is unmounted even where it is allowed."""
    held = _text(place)
    return refused(syscalls.call("umount2", syscalls.address(held), _EXPIRE))


@probe("F12")
def pivot_root(_subject):
    return refused(syscalls.call("pivot_root", syscalls.BAD, syscalls.BAD))


@group("F13", {
    "fsopen": (syscalls.BAD, 0),
    "fsconfig": (-1, 0, 0, 0, 0),
    "fsmount": (-1, 0, 0),
    "fspick": (-1, syscalls.BAD, 0),
    "open_tree": (-1, syscalls.BAD, 0),
    "open_tree_attr": (-1, syscalls.BAD, 0, 0, 0),
    "move_mount": (-1, syscalls.BAD, -1, syscalls.BAD, 0),
    "mount_setattr": (-1, syscalls.BAD, 0, 0, 0),
    "statmount": (syscalls.BAD, syscalls.BAD, 0, 0),
    "listmount": (syscalls.BAD, syscalls.BAD, 0, 0),
})
def new_mount_interface(_subject, name, arguments):
    return refused(syscalls.call(name, *arguments))


# cap_net_raw+ep, VFS_CAP_REVISION_2
_CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


@group("F14", {
    "capability": ("security.capability", _CAPABILITY),
    "redirect": ("trusted.overlay.redirect", b"/etc"),
    "opaque": ("trusted.overlay.opaque", b"y"),
    "ima": ("security.ima", b"\x01"),
})
def privileged_attribute(_subject, _name, row):
    attribute, value = row
    places = [f"/tmp/probe-attribute-{os.getpid()}", f"/dev/shm/probe-attribute-{os.getpid()}"]
    results = []
    for place in places:
        with open(place, "wb"):
            pass
        try:
            results.append((place, attempt(lambda place=place: os.setxattr(place, attribute, value))))
        finally:
            os.unlink(place)
    return all_of(results)


