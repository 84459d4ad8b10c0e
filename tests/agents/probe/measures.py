"""The hardening measures, and for each the probes that must turn red without it.

Pure data, for the catalogue, for measures.md (a self-test holds both together) and for the ablation run:
`python3 measures.py --json`. After a change: `--write` puts the table into measures.md.

`red`    each of these ids must be green with the measure and red without it, and reads that measure's own effect.
`steps`  what switching it off leaves out, all of it together: names of the sandbox plan (sandbox/src/plan/compile.rs),
         `cgroup.*` for one limit of the session's cgroup (sandbox/src/cgroup/step.rs),
         `agent.*` for the shim's steps between fork and exec (sandbox/src/agent.rs), `shim.capabilities` for what
         shim_entry::harden clears, `shim.env` for its environment, `refusal.*` for one entry of the second filter (sandbox/src/seccomp/forbidden.rs).
`cover`  other measures that hide the effect. They are off in *both* runs, so that the one under test is all that is
         left: green with it, red without it.
`ground` what the harness must prepare for the effect to exist at all (a canary, a daemon started in a certain way).
`chaos`  the effect is the death of a session, which no probe survives to report: an action of the chaos agent instead.
`host`   no process of the agent's uid can see it: what the harness reads from outside instead.
"""

import json
import pathlib
import sys
from typing import NamedTuple


class Measure(NamedTuple):
    red: tuple = ()
    steps: tuple = ()
    cover: tuple = ()
    ground: str = ""
    chaos: str = ""
    host: str = ""


def _mount(place, **flags):
    """The measures of one mount: name -> ids."""
    return {f"{place}.{flag}": Measure(ids, (f"{place}.{flag}",)) for flag, ids in flags.items()}


MEASURES = {
    # Namespaces: the canary `ns` holds the daemon's inodes.
    "ns.user": Measure(("U01.user", "K03.uid_map"), ("ns.user",)),
    "ns.mount": Measure(("U01.mnt",), ("ns.mnt",)),
    "ns.pid": Measure(("U01.pid", "I03.kill"), ("ns.pid",), ground="canary pid: a process of the host"),
    "ns.net": Measure(
        ("U01.net", "N02.canary_ipv4", "N03.stream"), ("ns.net",), ground="canaries tcp_port and abstract: listeners of the host"),
    "ns.ipc": Measure(("U01.ipc", "C01.shm"), ("ns.ipc",), ground="canary sysv_key: a segment of the host, mode 0666"),
    "ns.uts": Measure(("U01.uts",), ("ns.uts", "hostname"), ground="the name is not set either: it would be the host's"),
    "ns.cgroup": Measure(("U01.cgroup", "G01"), ("ns.cgroup",)),
    "hostname": Measure(("C12",), ("hostname",), ground="canary hostname; the host is not called localhost"),
    # Who the agent is.
    "idmap.setgroups_deny": Measure(("K04",), ("idmap.setgroups",)),
    "idmap.agent_uid": Measure(("K06.agent_uid",), ("agent.uid",)),
    "idmap.agent_gid": Measure(("K06.agent_gid",), ("agent.gid",)),
    "idmap.session_range": Measure(
        ("K03.range",), ("idmap.session_range",), ground="off = every session the same range; two sessions: one plants, the other hunts"),
    "ns.owner": Measure(
        ("Y09.inotify",), ("ns.owner",), ground="two sessions: one plants, the other hunts; limits.inotify. The kernel counts instances per owner of the user namespace"),
    "inotify.share": Measure(
        ("Y09.inotify_share",), ("inotify.share",),
        ground="two sessions of one template, which is their namespaces' owner: one plants, the other hunts; limits.inotify"),
    "inotify.watches": Measure(
        ("Y09.watches",), ("inotify.watches",),
        ground="the same; the template's own limit lowered to a share and limits.watches more, as all that a host has cannot be taken in a probe's time"),
    "rootfs.owners": Measure(("F29.usr", "F29.etc_passwd"), ("rootfs.owners",)),
    "shim.nondumpable": Measure(
        ("P05.owner",), ("dumpable",), cover=("proc.hidepid",),
        ground="off = the shim's copy has mode 0755 and nobody calls PR_SET_DUMPABLE: mode 0111 alone makes it non-dumpable too"),
    # The root.
    "mounts.private": Measure(
        ("F03",), ("mounts.private", "app.private"),
        ground="the daemon's own mount namespace made rshared or rslave: else there is no peer group to be in"),
    "rootfs.pivot": Measure(
        (), ("rootfs.pivot", "rootfs.detach_old"), host="a file of the host is not there for who enters PID 1's mount namespace",
        ground="off = a chroot onto the finished root, which looks the same from inside. As \"stay on the host's root\": F01.direct"),
    "rootfs.detach_old": Measure(("F04.stacked", "F01.dotdot"), ("rootfs.detach_old",)),
    "rootfs.readonly": Measure(("F17.flag.root", "F17.erofs"), ("rootfs.readonly",)),
    **_mount("rootfs", nosuid=("K11.root",), nodev=("K12.root",)),
    "app.readonly": Measure(("F17.flag.app", "F17.app_erofs"), ("app.readonly",)),
    **_mount("app", nosuid=("K11.app",), nodev=("K12.app",)),
    # /proc, /dev, /sys.
    "proc.hidepid": Measure(("P01.hidepid", "P01.hidepid_option"), ("proc.hidepid",)),
    "proc.subset": Measure(("P01.subset", "P01.subset_option"), ("proc.subset",)),
    **_mount("proc", nosuid=("K11.proc",), nodev=("K12.proc",), noexec=("M04.proc",)),
    "dev.minimal": Measure(("D01",), ("dev.minimal", "dev.attach"), ground="off = the host's /dev bound"),
    **_mount("dev", size=("M01.dev",), inodes=("M02.dev",), mode=("D06",), nosuid=("K11.dev",), noexec=("M04.dev",),
             pts_nosuid=("K11.dev_pts",), pts_noexec=("M04.dev_pts",), pts_max=("D03.cap",), pts_mode=("D03.mode",),
             ptmx_mode=("D03.first",)),
    "dev.readonly": Measure(("F17.flag.dev",), ("dev.readonly",)),
    "dev.pts_newinstance": Measure(
        ("D03.instance",), ("dev.pts_newinstance",), ground="canary devpts: st_dev of the host's /dev/pts; off = that one bound"),
    "sys.absent": Measure(("P08", "P08.mounted"), ("sys.absent",), ground="off = the host's /sys bound (the base's own is empty)"),
    # Scratch.
    **_mount("tmp", size=("M01.tmp",), inodes=("M02.tmp",), owner=("M06.tmp",), nosuid=("K11.tmp",), nodev=("K12.tmp",)),
    **_mount("shm", size=("M01.shm",), inodes=("M02.shm",), owner=("M06.shm",), nosuid=("K11.shm",), nodev=("K12.shm",),
             noexec=("M04.shm", "F28.shm")),
    **_mount("home", size=("M01.home",), inodes=("M02.home",), mode=("M05",), owner=("M06.home", "M03.home"), nosuid=("K11.home",),
             nodev=("K12.home",)),
    # Session storage. Without one /mnt is the base's, and the probes are green.
    **_mount("storage", nosuid=("K11.storage",), nodev=("K12.storage",)),
    "storage.owners": Measure(("M07",), ("storage.owners",), ground="a runtime with storage"),
    # Network.
    "net.loopback_only": Measure(("N01",), ground="no step, but what nobody does: off = the harness puts one more interface (veth) into the session's network namespace"),
    "net.loopback": Measure(("N01.up",), ("net.loopback",)),
    # Limits: canary `limits` holds the promised figures.
    "rlimit.core": Measure(
        ("R01.core", "P10"), ("rlimit.core",), ground="daemon with an unlimited RLIMIT_CORE; P10 wants a core_pattern that is a file"),
    "rlimit.nofile": Measure(("R01.nofile", "R01.nofile_works"), ("rlimit.nofile",)),
    "rlimit.nproc": Measure(("R01.nproc",), ("rlimit.nproc",)),
    "rlimit.memlock": Measure(("R01.memlock",), ("rlimit.memlock",), ground="limits.memlock, and a daemon with more (LimitMEMLOCK=infinity): never more is set than the daemon has"),
    "rlimit.sigpending": Measure(("R01.sigpending",), ("rlimit.sigpending",)),
    "rlimit.msgqueue": Measure(
        ("R01.msgqueue",), ("rlimit.msgqueue",), ground="as rlimit.memlock"),
    "rlimit.rtprio": Measure(
        ("R01.rtprio",), ("rlimit.rtprio",), ground="daemon with a hard RLIMIT_RTPRIO above 0 (needs CAP_SYS_RESOURCE: the VM), as 0 is the default"),
    "rlimit.nice": Measure(("R01.nice",), ("rlimit.nice",), ground="as rlimit.rtprio"),
    "oom.score": Measure(("I12.score",), ("oom.score",), ground="limits.oom_score_adj; the daemon's own is lower"),
    # Privilege.
    "no_new_privs": Measure(
        ("K02.no_new_privs", "K02.prctl"), ("no_new_privs", "agent.capabilities"),
        ground="the shim checks it as well, so that goes too; the filters then need CAP_SYS_ADMIN: they come before the capabilities go"),
    "caps.bounding": Measure(("K01.bounding",), ("caps.bounding", "agent.capabilities"), ground="the shim checks it as well, so that goes too"),
    # The kernel empties the agent's sets four times over: at the change of uid, at exec (NOROOT), by the empty bounding set.
    "caps.permitted": Measure(
        ("K01.permitted", "K01.capget"), ("agent.capabilities", "shim.capabilities"), cover=("idmap.agent_uid",),
        ground="a change of uid away from 0 empties the set by itself, so the agent keeps uid 0 in both runs"),
    "caps.ambient": Measure(
        ("K01.ambient",), ("agent.capabilities", "shim.capabilities"), cover=("idmap.agent_uid",), ground="as caps.permitted"),
    "caps.inheritable": Measure(("K01.inheritable", "K01.start.inheritable"), ("agent.capabilities", "shim.capabilities")),
    "caps.shim": Measure(
        (), ("caps.permitted",), host="CapPrm and CapEff of PID 1 are exactly SETUID, SETGID and KILL (`grep Cap /proc/PID1/status`)"),
    "securebits": Measure(("K16",), ("securebits",)),
    "keyring.session": Measure(
        ("C03.search.session",), ("keyring.session",), cover=("seccomp.forbidden", "seccomp.allowlist"),
        ground="the daemon started in a session keyring that holds canary `key`, searchable by others"),
    "close_range": Measure(
        ("L01",), ("close_range", "agent.descriptors"), ground="the daemon started with a descriptor above 2 that has no CLOEXEC"),
    # The filters.
    "seccomp.allowlist": Measure(("S02.unlisted.io_setup", "S02.unlisted.io_destroy", "S02.unlisted.clone3"), ("seccomp.allowed",)),
    "seccomp.forbidden": Measure(("S11.keyctl", "S11.io_uring_enter", "S11.ptrace", "S11.unshare"), ("seccomp.forbidden",)),
    "seccomp.foreign_tables": Measure(("S04.getpid",), ("refusal.foreign_tables",), ground="a kernel with IA32_EMULATION"),
    "seccomp.ioctl_tiocsti": Measure(("S05.tiocsti", "S05.tiocsti_high_bit", "S05.tioclinux"), ("refusal.ioctl",)),
    "seccomp.ioctl_files": Measure(("S16.setflags", "S16.ext4_migrate", "S16.ext4_move_ext", "S16.btrfs_sync"), ("refusal.ioctl_files",)),
    "seccomp.socket_families": Measure(("N05.netlink_generic", "N05.netlink_uevent"), ("refusal.socket",)),
    "seccomp.clone_namespaces": Measure(("K09.user", "K09.mnt"), ("refusal.clone",)),
    "seccomp.personality": Measure(("S01.personality_exec",), ("refusal.personality",)),
    "seccomp.prctl": Measure(("K19.user_dispatch",), ("refusal.prctl",)),
    "seccomp.mknod": Measure(("S14.mknod", "S14.mknodat"), ("refusal.mknod", "refusal.mknodat")),
    "seccomp.sync": Measure(("S15.fsync", "S15.fdatasync", "S15.sync_file_range", "S15.msync"), ("refusal.sync",)),
    "seccomp.socket_layers": Measure(("N16.tls", "N16.encap"), ("refusal.setsockopt",)),
    "env.clear": Measure(("P06.canary",), ("env.clear", "shim.env"), ground="the daemon started with the variable of canary env_secret"),
    # cgroups.
    "cgroup.memory": Measure(steps=("cgroup.memory",), chaos="eat", ground="`eat` above the limit and below the machine's memory: ended by oom with it, answered without"),
    "cgroup.pids": Measure(("R02",), ("cgroup.pids",), cover=("rlimit.nproc",), ground="limits.pids"),
    "cgroup.cpu": Measure(("R05",), ("cgroup.cpu",), ground="limits.cpus well below the processors that are free, 0.2 say"),
    "cgroup.devices": Measure(
        ("G08",), ("cgroup.devices",), ground="canary denied_device: a node that the harness puts in /dev, of a driver that lets anybody open it (not kmsg)"),
    # What exec inherits: the shim first, then the agent, so both halves go.
    "stdio.own": Measure(("L04.own.stdout", "L04.own.stderr"), ("stdio.own", "agent.stdio"), ground="canary stdio: inodes of the daemon's own streams"),
    "cwd": Measure(("L03",), ("cwd", "agent.cwd")),
    "umask": Measure(("L07",), ("umask", "agent.umask"), ground="the daemon started with umask 0"),
    "setsid": Measure(("L08",), ("setsid", "agent.session")),
    "signals": Measure(("L09",), ("signals", "agent.signals"), ground="the daemon started with SIGUSR1 blocked and SIGUSR2 ignored"),
    "deathsig": Measure(("L11",), ("agent.deathsig",)),
}

# Steps of the plan without which no session starts, or which change nothing that is not the default: nothing to ablate.
SCAFFOLD = {
    "rootfs.clone": "no root", "app.clone": "no bundle", "app.attach": "no bundle", "rootfs.attach": "no root",
    "identity": "uid 0 inside is needed for every later step", "idmap.uid": "no ids", "idmap.gid": "no ids",
    "proc.mount": "the agent's interpreter needs /proc; its options are measures", "shm.mount": "its options are measures",
    "tmp.mount": "its options are measures", "home.mount": "its options are measures", "exec": "no shim",
    "tmp.mode": "1777 is what a tmpfs has by itself", "shm.mode": "1777 is what a tmpfs has by itself",
    "caps.inheritable": "carries the shim's three capabilities; what the agent inherits of it is the measure caps.inheritable",
    "caps.ambient": "carries the shim's three capabilities; the agent's loss of them is the measure caps.ambient",
    "dev.attach": "part of dev.minimal",
    "storage.image": "no storage", "storage.device": "no storage", "storage.mount": "no storage", "storage.attach": "no storage",
    "storage.directory": "nothing to write in", "storage.no_init": "saves work", "storage.discard": "saves space",
    "storage.errors": "what the image says itself",
    "template.user": "no fork: its template may not enter", "template.pid": "no fork: it cannot be in another pid namespace",
    "template.owner": "no fork: its template does not own the session's namespaces",
    "rootfs.private": "pivot_root refuses a new root in a peer group; the bundle's is part of mounts.private",
}


def rows():
    """The lines of measures.md's table."""
    yield "| measure | must turn red | leaves out | also off in both runs | the harness prepares |"
    yield "|---|---|---|---|---|"
    for name, measure in MEASURES.items():
        red = _code(measure.red) or (f"chaos `{measure.chaos}`" if measure.chaos else f"host: {measure.host}")
        yield f"| `{name}` | {red} | {_code(measure.steps)} | {_code(measure.cover)} | {measure.ground} |"


def _code(names):
    return " ".join(f"`{name}`" for name in names)


def write_page():
    page = pathlib.Path(__file__).parent.parent / "measures.md"
    lines = page.read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rest = [line for line in lines[first:] if not line.startswith("|")]
    page.write_text("\n".join([*lines[:first], *rows(), *rest]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if "--write" in sys.argv:
        write_page()
    elif "--json" in sys.argv:
        print(json.dumps({name: measure._asdict() for name, measure in MEASURES.items()}, indent=1))
    else:
        print("\n".join(rows()))
