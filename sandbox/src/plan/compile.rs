//! From a [`SessionSpec`] to a [`Plan`]. Pure.

use super::{
    AGENT_ID, AGENT_OFFSET, AheadAct, Attr, ChildAct, DevNode, FsMount, FsOption, Lineage, MapAct,
    OrderAct, PlaceAct, Plan, SHIM_ID, SessionSpec, Step, StorageAct, UsherAct,
};
use crate::sys::capability::CapMask;
use crate::sys::mount::MountAttrs;
use caps::Capability;
use nix::sys::resource::Resource;
use std::ffi::{CStr, CString, NulError};
use std::os::unix::ffi::OsStrExt;

/// What a shim needs to start and to signal processes of the agent's uid; nothing else.
const SHIM_CAPABILITIES: [Capability; 3] = [
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_KILL,
];

/// `SECBIT_NOROOT` and its lock; the locks of `NO_SETUID_FIXUP` and `KEEP_CAPS` in their default, off: a change of uid
/// away from 0 clears every set, always; `NO_CAP_AMBIENT_RAISE` and its lock.
const SECUREBITS: u32 = 0b11 | 0b1000 | 0b10_0000 | 0b1100_0000;

/// Inodes of each scratch file system: one per 4 KiB, within these bounds.
const INODES: std::ops::RangeInclusive<u64> = 1024..=262_144;

/// Pseudo-terminals of one session.
const MAX_PTYS: u32 = 64;

fn step<A>(name: &'static str, act: A) -> Step<A> {
    Step { name, act }
}

fn attr(name: &'static str, attr: MountAttrs) -> Attr {
    Attr { name, attr }
}

fn option(name: &'static str, key: &CStr, value: impl ToString) -> Result<FsOption, NulError> {
    Ok(FsOption {
        name,
        key: key.to_owned(),
        value: Some(CString::new(value.to_string())?),
    })
}

fn flag(name: &'static str, key: &CStr) -> FsOption {
    FsOption {
        name,
        key: key.to_owned(),
        value: None,
    }
}

/// Compiles. Fails only if a path of the spec contains a null byte.
pub fn compile(spec: &SessionSpec) -> Result<Plan, NulError> {
    #[cfg(feature = "fault-injection")]
    let spec = &super::ablate::spec(spec);
    let plan = Plan {
        ahead: ahead()?,
        place: match spec.lineage {
            Lineage::Host | Lineage::Template { .. } => place(),
            Lineage::Fork { .. } => Vec::new(),
        },
        storage: if spec.storage { storage()? } else { Vec::new() },
        order: order(spec),
        usher: usher(&spec.lineage),
        namespaces: namespaces(&spec.lineage),
        maps: maps(spec),
        child: child(spec)?,
    };
    #[cfg(feature = "fault-injection")]
    let plan = {
        let mut plan = plan;
        super::ablate::plan(&mut plan);
        plan
    };
    Ok(plan)
}

fn order(spec: &SessionSpec) -> Vec<Step<OrderAct>> {
    let mut steps = vec![
        step("oom.score", OrderAct::OomScore(100)),
        step(
            "app.clone",
            OrderAct::CloneBundle(vec![
                attr("app.readonly", MountAttrs::RDONLY),
                attr("app.nosuid", MountAttrs::NOSUID),
                attr("app.nodev", MountAttrs::NODEV),
                attr("app.private", MountAttrs::PRIVATE),
            ]),
        ),
    ];
    match spec.lineage {
        Lineage::Host | Lineage::Template { .. } => {
            steps.push(step("ns.owner", OrderAct::Own(spec.uid_base)));
        }
        // Owned by the template's agent instead, see `usher`.
        Lineage::Fork { .. } => {}
    }
    steps
}

fn usher(lineage: &Lineage) -> Vec<Step<UsherAct>> {
    match lineage {
        Lineage::Host | Lineage::Template { .. } => Vec::new(),
        Lineage::Fork { .. } => vec![
            step("template.user", UsherAct::JoinUser),
            step("template.pid", UsherAct::JoinPid),
            step("template.owner", UsherAct::Become(AGENT_ID)),
        ],
    }
}

/// The part that does not depend on the session: taken before there is a stager.
pub fn ahead() -> Result<Vec<Step<AheadAct>>, NulError> {
    let device = |name: &CStr, minor| DevNode::Device {
        name: name.to_owned(),
        major: if name == c"tty" { 5 } else { 1 },
        minor,
    };
    let link = |name: &CStr, to: &CStr| DevNode::Link {
        name: name.to_owned(),
        to: to.to_owned(),
    };
    let steps = vec![
        step(
            "rootfs.clone",
            AheadAct::CloneBase(vec![
                attr("rootfs.readonly", MountAttrs::RDONLY),
                attr("rootfs.nosuid", MountAttrs::NOSUID),
                attr("rootfs.nodev", MountAttrs::NODEV),
                // pivot_root(2) refuses a new root that is in a peer group, as it is where systemd made `/` shared.
                attr("rootfs.private", MountAttrs::PRIVATE),
            ]),
        ),
        step(
            "dev.minimal",
            AheadAct::MakeDev {
                options: vec![
                    option("dev.mode", c"mode", "0755")?,
                    option("dev.size", c"size", "64k")?,
                    option("dev.inodes", c"nr_inodes", 32)?,
                ],
                nodes: vec![
                    device(c"null", 3),
                    device(c"zero", 5),
                    device(c"full", 7),
                    device(c"random", 8),
                    device(c"urandom", 9),
                    device(c"tty", 0),
                    DevNode::Directory(c"pts".to_owned()),
                    DevNode::Directory(c"shm".to_owned()),
                    link(c"ptmx", c"pts/ptmx"),
                    link(c"fd", c"/proc/self/fd"),
                    link(c"stdin", c"/proc/self/fd/0"),
                    link(c"stdout", c"/proc/self/fd/1"),
                    link(c"stderr", c"/proc/self/fd/2"),
                ],
                attrs: vec![
                    attr("dev.readonly", MountAttrs::RDONLY),
                    attr("dev.nosuid", MountAttrs::NOSUID),
                    attr("dev.noexec", MountAttrs::NOEXEC),
                ],
            },
        ),
    ];
    #[cfg(feature = "fault-injection")]
    let steps = {
        let mut steps = steps;
        super::ablate::ahead(&mut steps);
        steps
    };
    Ok(steps)
}

/// The network, made in the place.
#[must_use]
pub fn place() -> Vec<Step<PlaceAct>> {
    let steps = vec![
        step("ns.net", PlaceAct::Network),
        step("net.loopback", PlaceAct::Loopback),
    ];
    #[cfg(feature = "fault-injection")]
    let steps = {
        let mut steps = steps;
        super::ablate::place(&mut steps);
        steps
    };
    steps
}

/// What does not depend on the session of how its storage is mounted.
///
/// ```sh
/// mount -t ext4 -o nosuid,nodev,noinit_itable,discard,errors=remount-ro /dev/loopN <detached>
/// ```
///
/// Programs may be run from it, as on AWS: an agent that installs packages for its next session is what it is for, and
/// nothing is executable there that is not in `/tmp`.
pub fn storage() -> Result<Vec<Step<StorageAct>>, NulError> {
    let steps = vec![
        step("storage.image", StorageAct::Image),
        step("storage.device", StorageAct::Device),
        step(
            "storage.mount",
            StorageAct::Mount {
                options: vec![
                    // No kernel thread that goes on writing zeroes where a sparse file has none but zeroes.
                    flag("storage.no_init", c"noinit_itable"),
                    // What is deleted inside is given back to the host.
                    flag("storage.discard", c"discard"),
                    // Whatever the image says.
                    option("storage.errors", c"errors", "remount-ro")?,
                ],
                attrs: vec![
                    attr("storage.nosuid", MountAttrs::NOSUID),
                    attr("storage.nodev", MountAttrs::NODEV),
                ],
            },
        ),
        step(
            "storage.directory",
            StorageAct::Directory { owner: AGENT_ID },
        ),
    ];
    #[cfg(feature = "fault-injection")]
    let steps = {
        let mut steps = steps;
        super::ablate::storage(&mut steps);
        steps
    };
    Ok(steps)
}

fn namespaces(lineage: &Lineage) -> Vec<Step<u64>> {
    let flag = |flag: libc::c_int| u64::from(flag.cast_unsigned());
    let mut all = vec![
        step("ns.user", flag(libc::CLONE_NEWUSER)),
        step("ns.mnt", flag(libc::CLONE_NEWNS)),
        step("ns.pid", flag(libc::CLONE_NEWPID)),
    ];
    match lineage {
        // The stager is in it already, see `place`.
        Lineage::Host | Lineage::Template { .. } => {}
        // Must be its own user namespace's, or the fork could not join it.
        Lineage::Fork { .. } => all.push(step("ns.net", flag(libc::CLONE_NEWNET))),
    }
    all.extend([
        step("ns.ipc", flag(libc::CLONE_NEWIPC)),
        step("ns.uts", flag(libc::CLONE_NEWUTS)),
        step("ns.cgroup", flag(libc::CLONE_NEWCGROUP)),
    ]);
    all
}

fn maps(spec: &SessionSpec) -> Vec<Step<MapAct>> {
    let base = spec.uid_base;
    let mut ids = format!("{SHIM_ID} {base} 1\n{AGENT_ID} {} 1\n", base + AGENT_OFFSET);
    if let Lineage::Template { uids } = &spec.lineage {
        // All but its own two, which have their numbers already: ranges of a map may not overlap.
        for part in [uids.start..base, base + 2..uids.end] {
            if let Some(length) = part.end.checked_sub(part.start).filter(|n| *n > 0) {
                let start = part.start;
                ids.push_str(&format!("{start} {start} {length}\n"));
            }
        }
    }
    let write = |file, content| MapAct::Write { file, content };
    let mut steps = vec![
        step("idmap.setgroups", write("setgroups", "deny".to_owned())),
        step("idmap.uid", write("uid_map", ids.clone())),
        step("idmap.gid", write("gid_map", ids)),
        step("rootfs.owners", MapAct::MapBaseOwners),
    ];
    if spec.storage {
        steps.push(step("storage.owners", MapAct::MapStorageOwners));
    }
    steps
}

/// A scratch tmpfs.
fn scratch(
    target: &CStr,
    names: [&'static str; 6],
    mode: &str,
    bytes: u64,
) -> Result<FsMount, NulError> {
    let [size, inodes, mode_name, owner, nosuid, nodev] = names;
    let nr_inodes = (bytes / 4096).clamp(*INODES.start(), *INODES.end());
    Ok(FsMount {
        fstype: c"tmpfs".to_owned(),
        target: target.to_owned(),
        options: vec![
            option(size, c"size", bytes)?,
            option(inodes, c"nr_inodes", nr_inodes)?,
            option(mode_name, c"mode", mode)?,
            option(owner, c"uid", AGENT_ID)?,
            option(owner, c"gid", AGENT_ID)?,
        ],
        attrs: vec![
            attr(nosuid, MountAttrs::NOSUID),
            attr(nodev, MountAttrs::NODEV),
        ],
    })
}

fn child(spec: &SessionSpec) -> Result<Vec<Step<ChildAct>>, NulError> {
    let mut steps = vec![
        step("dumpable", ChildAct::NonDumpable),
        step("setsid", ChildAct::Setsid),
        step("signals", ChildAct::ResetSignals),
    ];
    if let Lineage::Fork { shares } = &spec.lineage {
        for (name, file, limit) in [
            (
                "inotify.share",
                c"/proc/sys/user/max_inotify_instances",
                shares.instances,
            ),
            (
                "inotify.watches",
                c"/proc/sys/user/max_inotify_watches",
                shares.watches,
            ),
        ] {
            let file = file.to_owned();
            steps.push(step(name, ChildAct::OwnShare { file, limit }));
        }
    }
    steps.extend([
        step("mounts.private", ChildAct::PrivateMounts),
        step(
            "rootfs.attach",
            ChildAct::AttachBase {
                staging: CString::new(spec.staging.as_os_str().as_bytes())?,
            },
        ),
        step("identity", ChildAct::BecomeShim),
    ]);
    steps.extend(mounts(spec.tmp_bytes)?);
    if spec.storage {
        // Its root is the shim's, and holds the one directory that is the agent's.
        let target = c"mnt".to_owned();
        steps.push(step("storage.attach", ChildAct::AttachStorage(target)));
    }
    steps.extend([
        step("rootfs.pivot", ChildAct::PivotRoot),
        step("rootfs.detach_old", ChildAct::DetachOldRoot),
        step("sys.absent", ChildAct::RequireEmpty(c"/sys".to_owned())),
        step("hostname", ChildAct::Hostname(c"localhost".to_owned())),
    ]);
    if matches!(spec.lineage, Lineage::Fork { .. }) {
        steps.push(step("net.loopback", ChildAct::Loopback));
    }
    steps.extend(rlimits(spec));
    steps.extend(privileges());
    steps.extend([
        step("umask", ChildAct::Umask(0o077)),
        step("cwd", ChildAct::Chdir(c"/".to_owned())),
        step(
            "stdio.own",
            ChildAct::OwnDescriptors {
                null: Some(c"/dev/null".to_owned()),
            },
        ),
        step("close_range", ChildAct::CloseRange { first: 6 }),
        step(
            "seccomp.allowed",
            ChildAct::Seccomp(spec.filters.allowed.clone()),
        ),
        step(
            "seccomp.forbidden",
            ChildAct::Seccomp(spec.filters.forbidden.clone()),
        ),
        step(
            "exec",
            ChildAct::Exec {
                // The spaces are room for its title, `shim: <session>`.
                argv: vec![c"agentcore-shim                  ".to_owned()],
                env: crate::faults::shim_environment(),
            },
        ),
    ]);
    Ok(steps)
}

/// ```sh
/// mount -t proc   -o nosuid,nodev,noexec,hidepid=invisible,subset=pid proc /proc
/// mount --move    <the /dev made ahead> /dev
/// mount -t devpts -o nosuid,noexec,mode=0620,ptmxmode=0666,max=64 devpts /dev/pts
/// mount -t tmpfs  -o nosuid,nodev,noexec,size=…,nr_inodes=…,mode=1777 shm /dev/shm
/// mount -t tmpfs  -o nosuid,nodev,size=…,nr_inodes=…,mode=1777 tmp /tmp
/// mount -t tmpfs  -o nosuid,nodev,size=…,nr_inodes=…,mode=0700 home /home/agent
/// mount --move    <the bundle> /app
/// ```
fn mounts(tmp_bytes: u64) -> Result<Vec<Step<ChildAct>>, NulError> {
    let mut shm = scratch(
        c"dev/shm",
        [
            "shm.size",
            "shm.inodes",
            "shm.mode",
            "shm.owner",
            "shm.nosuid",
            "shm.nodev",
        ],
        "1777",
        tmp_bytes / 4,
    )?;
    shm.attrs.push(attr("shm.noexec", MountAttrs::NOEXEC));
    Ok(vec![
        step(
            "proc.mount",
            ChildAct::Mount(FsMount {
                fstype: c"proc".to_owned(),
                target: c"proc".to_owned(),
                options: vec![
                    option("proc.hidepid", c"hidepid", "invisible")?,
                    option("proc.subset", c"subset", "pid")?,
                ],
                attrs: vec![
                    attr("proc.nosuid", MountAttrs::NOSUID),
                    attr("proc.nodev", MountAttrs::NODEV),
                    attr("proc.noexec", MountAttrs::NOEXEC),
                ],
            }),
        ),
        step("dev.attach", ChildAct::AttachDev(c"dev".to_owned())),
        step(
            "dev.pts_newinstance",
            ChildAct::Mount(FsMount {
                fstype: c"devpts".to_owned(),
                target: c"dev/pts".to_owned(),
                options: vec![
                    option("dev.pts_mode", c"mode", "0620")?,
                    option("dev.ptmx_mode", c"ptmxmode", "0666")?,
                    option("dev.pts_max", c"max", MAX_PTYS)?,
                ],
                attrs: vec![
                    attr("dev.pts_nosuid", MountAttrs::NOSUID),
                    attr("dev.pts_noexec", MountAttrs::NOEXEC),
                ],
            }),
        ),
        step("shm.mount", ChildAct::Mount(shm)),
        step(
            "tmp.mount",
            ChildAct::Mount(scratch(
                c"tmp",
                [
                    "tmp.size",
                    "tmp.inodes",
                    "tmp.mode",
                    "tmp.owner",
                    "tmp.nosuid",
                    "tmp.nodev",
                ],
                "1777",
                tmp_bytes,
            )?),
        ),
        step(
            "home.mount",
            ChildAct::Mount(scratch(
                c"home/agent",
                [
                    "home.size",
                    "home.inodes",
                    "home.mode",
                    "home.owner",
                    "home.nosuid",
                    "home.nodev",
                ],
                "0700",
                tmp_bytes,
            )?),
        ),
        step("app.attach", ChildAct::AttachBundle(c"app".to_owned())),
    ])
}

fn rlimits(spec: &SessionSpec) -> Vec<Step<ChildAct>> {
    let limit = |name, resource, limit| step(name, ChildAct::Rlimit { resource, limit });
    vec![
        limit(
            "rlimit.core",
            Resource::RLIMIT_CORE,
            spec.core_is_piped.into(),
        ),
        limit("rlimit.nofile", Resource::RLIMIT_NOFILE, spec.nofile),
        limit("rlimit.nproc", Resource::RLIMIT_NPROC, spec.nproc),
        limit("rlimit.memlock", Resource::RLIMIT_MEMLOCK, 8 << 20),
        limit("rlimit.sigpending", Resource::RLIMIT_SIGPENDING, 1024),
        limit("rlimit.msgqueue", Resource::RLIMIT_MSGQUEUE, 819_200),
        limit("rlimit.rtprio", Resource::RLIMIT_RTPRIO, 0),
        limit("rlimit.nice", Resource::RLIMIT_NICE, 0),
    ]
}

fn privileges() -> Vec<Step<ChildAct>> {
    let keep = CapMask::of(&SHIM_CAPABILITIES);
    vec![
        step("keyring.session", ChildAct::NewKeyring),
        step("caps.inheritable", ChildAct::LimitCaps { keep }),
        step("caps.ambient", ChildAct::RaiseAmbient { keep }),
        step("securebits", ChildAct::Securebits(SECUREBITS)),
        step("no_new_privs", ChildAct::NoNewPrivs),
        step("caps.bounding", ChildAct::EmptyBounding),
        step("caps.permitted", ChildAct::FinalCaps { keep }),
    ]
}
