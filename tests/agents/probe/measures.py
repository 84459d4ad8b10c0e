"""The hardening measures, and for each the probes that must turn red without it.

Pure data, for the catalogue, for measures.md (a self-test holds both together) and for the ablation run:
`python3 measures.py --json`.

`red`: each of these ids must be green with the measure and red without it, and reads that measure's own effect.
`cover`: other measures that hide the effect. They are switched off in *both* runs, so that the one under test is all
         that is left: green with it, red without it.
`ground`: what the harness must prepare for the effect to exist at all (a canary, a daemon started in a certain way).
`chaos`: the effect is the death of a session, which no probe survives to report: an action of the chaos agent instead.
"""

import json
import sys
from typing import NamedTuple


class Measure(NamedTuple):
    red: tuple
    cover: tuple = ()
    ground: str = ""
    chaos: str = ""


MEASURES = {
    # Namespaces: the canary `ns` holds the daemon's inodes.
    "ns.user": Measure(("U01.user", "K03.uid_map")),
    "ns.mount": Measure(("U01.mnt",)),
    "ns.pid": Measure(("U01.pid", "I03.kill"), ground="canary pid: a process of the host"),
    "ns.net": Measure(("U01.net", "N02.canary_ipv4", "N03.stream"), ground="canaries tcp_port and abstract: listeners of the host"),
    "ns.ipc": Measure(("U01.ipc", "C01.shm"), ground="canary sysv_key: a segment of the host, mode 0666"),
    "ns.uts": Measure(("U01.uts", "C12")),
    "ns.cgroup": Measure(("U01.cgroup", "G01")),
    # Who the agent is.
    "idmap.setgroups_deny": Measure(("K04",)),
    "idmap.agent_uid": Measure(("K06.agent_uid",)),
    "idmap.session_range": Measure(
        ("K03.range", "Y09.inotify"), ground="off = every session the same range; two sessions: one plants, the other hunts"),
    "shim.nondumpable": Measure(
        ("P05.owner",), cover=("proc.hidepid",), ground="off = the shim's copy 0755 and no PR_SET_DUMPABLE: mode 0111 alone makes it non-dumpable too"),
    # The root.
    "mounts.private": Measure(("F03",), ground="the daemon's own mount namespace made rshared, else there is no peer group to be in"),
    "rootfs.pivot": Measure(
        ("F01.direct",),
        ground="off = the session stays on the host's root. A chroot instead of a pivot looks the same from inside: then the "
        "harness compares `nsenter -t PID -m stat /` with the session's own /"),
    "rootfs.readonly": Measure(("F17.flag.root", "F17.erofs")),
    "rootfs.detach_old": Measure(("F04.stacked",), ground="with a directory for the old root instead of \".\": F04.points"),
    "app.readonly": Measure(("F17.flag.app", "F17.app_erofs")),
    # /proc, /dev, /sys.
    "proc.hidepid": Measure(("P01.hidepid", "P01.hidepid_option")),
    "proc.subset": Measure(("P01.subset", "P01.subset_option")),
    "proc.nosuid": Measure(("K11.proc",)),
    "dev.minimal": Measure(("D01",)),
    "dev.pts_newinstance": Measure(("D03.instance",), ground="canary devpts: st_dev of the host's /dev/pts; off = that one bound"),
    "sys.absent": Measure(("P08", "P08.mounted")),
    # Scratch.
    "tmp.size": Measure(("M01.tmp",)),
    "tmp.inodes": Measure(("M02.tmp",)),
    "tmp.nosuid": Measure(("K11.tmp",)),
    "tmp.nodev": Measure(("K12.tmp",)),
    "shm.size": Measure(("M01.shm",)),
    "shm.noexec": Measure(("M04.shm", "F28.shm")),
    "home.size": Measure(("M01.home",), ground="a home that is a mount of its own"),
    "net.loopback_only": Measure(("N01",), ground="off = one more interface (dummy) in the session's network namespace"),
    # Limits: canary `limits` holds the promised figures.
    "rlimit.core": Measure(("R01.core", "P10"), ground="daemon with an unlimited RLIMIT_CORE and a core_pattern that is a file"),
    "rlimit.nofile": Measure(("R01.nofile", "R01.nofile_works")),
    "rlimit.nproc": Measure(("R01.nproc",)),
    "rlimit.memlock": Measure(("R01.memlock",)),
    "rlimit.sigpending": Measure(("R01.sigpending",)),
    "rlimit.msgqueue": Measure(("R01.msgqueue",)),
    "rlimit.rtprio": Measure(("R01.rtprio",), ground="daemon with a hard RLIMIT_RTPRIO above 0 (needs CAP_SYS_RESOURCE: the VM), as the default is 0"),
    "rlimit.nice": Measure(("R01.nice",), ground="as rlimit.rtprio"),
    # Privilege.
    "no_new_privs": Measure(("K02.no_new_privs", "K02.prctl"), ground="off = the filter is installed by the privileged half"),
    "caps.bounding": Measure(("K01.bounding",)),
    "caps.permitted": Measure(("K01.permitted", "K01.capget")),
    "caps.ambient": Measure(("K01.ambient",), ground="off = one raised: the set is empty by itself"),
    "securebits": Measure(("K16",)),
    "keyring.session": Measure(
        ("C03.search.session",), cover=("seccomp.forbidden", "seccomp.allowlist"),
        ground="the daemon started in a session keyring that holds canary `key`, readable by others"),
    "close_range": Measure(("L01",), ground="the daemon started with a descriptor above 2 that has no CLOEXEC"),
    # The filter.
    "seccomp.allowlist": Measure(("S02.unlisted.sysfs", "S02.unlisted.ustat", "S02.unlisted.remap_file_pages")),
    "seccomp.forbidden": Measure(("S11.keyctl", "S11.io_uring_enter", "S11.ptrace")),
    "seccomp.ioctl_tiocsti": Measure(("S05.tiocsti", "S05.tiocsti_high_bit", "S05.tioclinux")),
    "seccomp.socket_families": Measure(("N05.netlink_generic", "N05.netlink_uevent")),
    "seccomp.clone_namespaces": Measure(("K08.user", "K09.user")),
    "seccomp.personality": Measure(("S01.personality_exec",)),
    "env.clear": Measure(("P06.canary",), ground="the daemon started with the variable of canary env_secret"),
    # cgroups.
    "cgroup.memory": Measure((), chaos="eat", ground="`eat` above the limit and below the machine's memory: ended by oom with it, answered without"),
    "cgroup.pids": Measure(("R02",), cover=("rlimit.nproc",), ground="canary limits.pids"),
    "cgroup.cpu": Measure(("R05",), ground="canary limits.cpus well below the processors that are free, 0.2 say"),
    "cgroup.devices": Measure(("G08",), ground="canary denied_device: a node that the harness puts in the root, on a mount without nodev"),
    # What exec inherits.
    "stdio.own": Measure(("L04.own.stdout", "L04.own.stderr"), ground="canary stdio: inodes of the daemon's own streams"),
    "cwd": Measure(("L03",)),
    "umask": Measure(("L07",), ground="the daemon started with umask 0"),
    "setsid": Measure(("L08",)),
}


def rows():
    """The lines of measures.md's table."""
    yield "| measure | must turn red | also off in both runs | the harness prepares |"
    yield "|---|---|---|---|"
    for name, measure in MEASURES.items():
        red = " ".join(f"`{id}`" for id in measure.red) or f"chaos `{measure.chaos}`"
        cover = " ".join(f"`{other}`" for other in measure.cover)
        yield f"| `{name}` | {red} | {cover} | {measure.ground} |"


if __name__ == "__main__":
    if "--json" in sys.argv:
        print(json.dumps({name: measure._asdict() for name, measure in MEASURES.items()}, indent=1))
    else:
        print("\n".join(rows()))
