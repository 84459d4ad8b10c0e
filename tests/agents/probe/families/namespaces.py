"""U01, U02: the session's namespaces are its own, one by one; and the host's are not to be entered."""

import os

from registry import group, probe
from verdict import failed, info, judge

# The kernel's fixed inode numbers of the initial namespaces (include/uapi/linux/nsfs.h; mnt and net only since 6.18), for
# runs without a canary. A daemon that itself runs in namespaces needs the canary.
INITIAL = {
    "user": 0xEFFFFFFD, "pid": 0xEFFFFFFC, "uts": 0xEFFFFFFE, "ipc": 0xEFFFFFFF, "cgroup": 0xEFFFFFFB,
    "net": 0xEFFFFFF9, "mnt": 0xEFFFFFF8,
}


def inode(name):
    return os.stat(f"/proc/self/ns/{name}").st_ino


@group("U01", INITIAL)
def not_the_hosts(subject, name, initial):
    """canaries["ns"]: name -> inode as seen by the daemon."""
    own = inode(name)
    host = subject.canary("ns", name)
    return judge(own not in (host, initial), f"own {own}, the host's {host}")


@group("U02", {name: name for name in INITIAL})
def not_the_peers(subject, name, _row):
    """canaries["peer"]["ns"]: another session's."""
    own, other = inode(name), subject.canary("peer", "ns", name)
    return judge(own != other, f"own {own}, the peer's {other}")


@probe("U03.time")
def time_namespace(_subject):
    """Not one of the seven: shown for the record."""
    return info(f"time namespace {inode('time')}")


@probe("U03.children")
def children_stay_in_the_same_pid_namespace(_subject):
    """pid_for_children must not differ: a half-entered pid namespace would put children outside the shim's reach."""
    try:
        own, children = inode("pid"), inode("pid_for_children")
    except OSError as fault:
        return failed(str(fault))
    return judge(own == children, f"pid {own}, pid_for_children {children}")
