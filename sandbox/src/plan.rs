//! What makes a sandbox, as data: compiled first, executed after (by [`crate::stager`]). The order *is* the documentation,
//! and a test compares it line by line without root.
//!
//! ```text
//! launcher, ahead of the order  clones the base's mount, makes the session's own /dev
//! stager, ahead of the order    makes the session's network
//! steward, before the order     mounts the session's storage, where it has one (see `crate::storage`)
//! stager, with the order        clones the bundle's mount
//! ushers, with the order        go below the template's namespaces, for a session that will be forked from one
//! clone3                        the other six namespaces at once (below a template, all seven)
//! stager, on the new process    setgroups=deny, uid and gid map, owners of the base mapped
//! new process                   everything else, down to seccomp; then it executes the shim
//! ```
//!
//! Every step, and every option of a mount, has a name. A step that fails ends the launch with that name and its errno
//! ([`Fault`]); nothing is left out because it "did not work here". In builds with `fault-injection` the name is also
//! what a test switches off or makes fail.
//!
//! Not for: cgroups (the process is born in its cgroup, see `supervisor`'s launcher), and what the agent loses beyond its
//! shim ([`crate::agent`]).

#[cfg(feature = "fault-injection")]
mod ablate;
mod compile;
mod display;

pub use compile::{ahead, compile, place, storage};

use crate::share::Shares;
use crate::sys::capability::CapMask;
use crate::sys::mount::MountAttrs;
use nix::sys::resource::Resource;
use seccompiler::BpfProgram;
use std::ffi::CString;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Uid and gid of the shim, inside.
pub const SHIM_ID: u32 = 0;

/// Uid and gid of the agent, inside.
pub const AGENT_ID: u32 = 1000;

/// The agent's host uid is that of its session's range with this index.
pub const AGENT_OFFSET: u32 = 1;

/// What a plan is compiled from.
#[derive(Debug, Clone)]
pub struct SessionSpec {
    /// First host uid (and gid) of the session's range: the shim's. The agent's is the next.
    pub uid_base: u32,
    /// Bytes of `/tmp` and of the home directory, each; `/dev/shm` has a quarter of it.
    pub tmp_bytes: u64,
    /// Open files of one process.
    pub nofile: u64,
    /// Processes and threads of the agent's uid.
    pub nproc: u64,
    /// An empty directory of the host, owned by root, on which the new root is attached until pivot_root.
    pub staging: PathBuf,
    /// The session has storage: a mount of it comes with the order.
    pub storage: bool,
    /// The host pipes core dumps into a program: only then does [`Resource::RLIMIT_CORE`] have to be 1 (core(5): a limit
    /// of 0 does not keep the kernel from starting that program on the host, 1 does).
    pub core_is_piped: bool,
    /// The two filters.
    pub filters: Filters,
    /// Below whose namespaces its own are.
    pub lineage: Lineage,
}

/// Below whose namespaces a session's own are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Lineage {
    /// The host's, and nobody is below.
    #[default]
    Host,
    /// The host's; sessions with these host uids will be below. A user namespace's map is written once, so they must be in
    /// it from the start; there they have the numbers that they have on the host.
    Template {
        /// Those of all sessions of the daemon.
        uids: Range<u32>,
    },
    /// A template's, whose agent owns the new user namespace: only so can a fork of that agent join it.
    Fork {
        /// Of what all sessions below that template have together.
        shares: Shares,
    },
}

/// The compiled seccomp programs, shared by all sessions.
#[derive(Debug, Clone)]
pub struct Filters {
    /// What is not in the allow-list answers ENOSYS. Installed first.
    pub allowed: Arc<BpfProgram>,
    /// What is refused with EPERM. Installed last, so that its answer wins.
    pub forbidden: Arc<BpfProgram>,
}

/// One named step.
#[derive(Debug, Clone)]
pub struct Step<A> {
    /// Stable; also the measure's name in the isolation suite.
    pub name: &'static str,
    /// What is done.
    pub act: A,
}

/// One named part of a step that makes a mount.
#[derive(Debug, Clone)]
pub struct Attr {
    /// Stable.
    pub name: &'static str,
    /// The attribute that it adds.
    pub attr: MountAttrs,
}

/// One named option of a file system.
#[derive(Debug, Clone)]
pub struct FsOption {
    /// Stable.
    pub name: &'static str,
    /// Key.
    pub key: CString,
    /// Value; without one it is a flag.
    pub value: Option<CString>,
}

/// A file system to make and to attach.
#[derive(Debug, Clone)]
pub struct FsMount {
    /// Type.
    pub fstype: CString,
    /// Where, below the new root.
    pub target: CString,
    /// In order.
    pub options: Vec<FsOption>,
    /// Together.
    pub attrs: Vec<Attr>,
}

/// A node of the session's own `/dev`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DevNode {
    /// Character device.
    Device {
        /// File name.
        name: CString,
        /// Major number.
        major: u64,
        /// Minor number.
        minor: u64,
    },
    /// Directory to mount on.
    Directory(CString),
    /// Symbolic link.
    Link {
        /// File name.
        name: CString,
        /// Where it leads.
        to: CString,
    },
}

/// Done by the launcher before it forks the stager. Not by the stager, because in a session's cgroup nobody, root included,
/// may make a device node.
#[derive(Debug, Clone)]
pub enum AheadAct {
    /// Clones the base's mount, with these attributes.
    CloneBase(Vec<Attr>),
    /// Makes the session's own `/dev`: a tmpfs of root's (so that its device nodes work) with these nodes, then read-only.
    MakeDev {
        /// Options of the tmpfs.
        options: Vec<FsOption>,
        /// What is in it.
        nodes: Vec<DevNode>,
        /// Of the finished mount.
        attrs: Vec<Attr>,
    },
    /// Instead of the above.
    #[cfg(feature = "fault-injection")]
    BindHostDev(Vec<Attr>),
}

/// Done by the stager in its place, ahead of the order (see `stager::place`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceAct {
    /// Goes into a network namespace of its own.
    Network,
    /// Brings up `lo`.
    Loopback,
}

/// Done by the steward: a one-shot process outside the session's cgroup, because within it nobody, root included, may open
/// a disk.
#[derive(Debug, Clone)]
pub enum StorageAct {
    /// Finds the storage's image, or makes it where there is none and there is room; holds the image's lease.
    Image,
    /// Attaches the image to a loop device that frees itself when nothing uses it any more.
    Device,
    /// Mounts that device, detached.
    Mount {
        /// Of the file system.
        options: Vec<FsOption>,
        /// Of the mount.
        attrs: Vec<Attr>,
    },
    /// The agent's directory in it.
    Directory {
        /// Uid and gid on the disk; the session sees them through its own map.
        owner: u32,
    },
}

/// Done by the stager when it has the order.
#[derive(Debug, Clone)]
pub enum OrderAct {
    /// Writes `/proc/self/oom_score_adj`: a daemon protected from the OOM killer must not protect its sessions.
    OomScore(i32),
    /// Clones the bundle's mount, with these attributes.
    CloneBundle(Vec<Attr>),
    /// Takes this effective uid for the clone, so that it owns the session's namespaces. The kernel counts some objects
    /// (inotify instances, namespaces) against the *owner* of a user namespace in its parent, whoever made them inside: if
    /// all sessions were root's, one could use up what the host has of them for every other one and for root.
    Own(u32),
}

/// Done by the ushers: two one-shot processes that take the clone of a forked session below its template (see
/// `stager::usher`).
#[derive(Debug, Clone)]
pub enum UsherAct {
    /// Joins the template's user namespace: all capabilities there, none on the host.
    JoinUser,
    /// The next child is one of the template's processes.
    JoinPid,
    /// That child: takes this uid and gid, and stays unreadable.
    Become(u32),
}

/// Done by the stager on the new process, which waits.
#[derive(Debug, Clone)]
pub enum MapAct {
    /// Writes a file of `/proc/<pid>/`.
    Write {
        /// `setgroups`, `uid_map` or `gid_map`.
        file: &'static str,
        /// Content.
        content: String,
    },
    /// Makes root's files in the base belong to the session's uid 0.
    MapBaseOwners,
    /// Makes the owners on the session's storage those of its own map: on the disk they are the same for every session.
    MapStorageOwners,
}

/// Done by the new process.
#[derive(Debug, Clone)]
pub enum ChildAct {
    /// Not readable through `/proc`, not traceable, by its own later agent.
    NonDumpable,
    /// A session (of terminals and signals) of its own.
    Setsid,
    /// Default action for every signal, none blocked: what a parent ignores would be ignored by every agent.
    ResetSignals,
    /// Limits what the session's user namespace may have of something that the kernel counts, besides, against the owner of
    /// that namespace, who has other sessions as well. The file is one of the host's `/proc/sys/user`, which shows every
    /// process its own namespace's.
    OwnShare {
        /// The file.
        file: CString,
        /// At most.
        limit: u32,
    },
    /// No mount event crosses to or from the host.
    PrivateMounts,
    /// Attaches the base on the staging directory and goes there.
    AttachBase {
        /// The staging directory.
        staging: CString,
    },
    /// Becomes uid and gid 0 of its own user namespace.
    BecomeShim,
    /// Makes and attaches a file system.
    Mount(FsMount),
    /// Attaches the `/dev` made ahead.
    AttachDev(CString),
    /// Attaches the bundle.
    AttachBundle(CString),
    /// Attaches the session's storage.
    AttachStorage(CString),
    /// Attaches a clone of what the host has mounted at `source`.
    #[cfg(feature = "fault-injection")]
    BindHost {
        /// Path on the host.
        source: CString,
        /// Where, below the new root.
        target: CString,
    },
    /// Instead of pivot_root.
    #[cfg(feature = "fault-injection")]
    Chroot,
    /// pivot_root(".", "."): the new root below, the old one on top of it.
    PivotRoot,
    /// Detaches the old root with all its mounts.
    DetachOldRoot,
    /// Fails unless that directory is empty or absent.
    RequireEmpty(CString),
    /// Names the UTS namespace.
    Hostname(CString),
    /// Brings up `lo`.
    Loopback,
    /// Sets soft and hard limit; never above what the process has.
    Rlimit {
        /// Which.
        resource: Resource,
        /// How much.
        limit: u64,
    },
    /// A new, empty session keyring.
    NewKeyring,
    /// Effective and permitted: `keep` and what is needed to drop the rest. Inheritable: `keep`.
    LimitCaps {
        /// What the shim keeps.
        keep: CapMask,
    },
    /// Carries `keep` through exec (securebits take the root uid's own way away).
    RaiseAmbient {
        /// What the shim keeps.
        keep: CapMask,
    },
    /// Uid 0 means nothing, for good.
    Securebits(u32),
    /// No exec grants anything.
    NoNewPrivs,
    /// Empties the bounding set.
    EmptyBounding,
    /// Effective, permitted and inheritable: exactly `keep`.
    FinalCaps {
        /// What the shim keeps.
        keep: CapMask,
    },
    /// File mode mask.
    Umask(u32),
    /// Goes to a directory of the new root.
    Chdir(CString),
    /// Opens the session's own null device as 0, 1 and 2, and puts the shim's three descriptors behind them.
    OwnDescriptors {
        /// Path of the null device; without it 0, 1 and 2 stay as they are.
        null: Option<CString>,
    },
    /// Everything else closes at exec.
    CloseRange {
        /// First descriptor to close.
        first: u32,
    },
    /// Installs a filter.
    Seccomp(Arc<BpfProgram>),
    /// Becomes the shim, with no environment.
    Exec {
        /// Its arguments.
        argv: Vec<CString>,
        /// Its environment.
        env: Vec<CString>,
    },
}

/// A compiled sandbox.
#[derive(Debug, Clone)]
pub struct Plan {
    /// See [`AheadAct`].
    pub ahead: Vec<Step<AheadAct>>,
    /// See [`PlaceAct`]; empty for a session that is below a template, whose agent could not join such a network.
    pub place: Vec<Step<PlaceAct>>,
    /// See [`StorageAct`]; empty for a session without storage.
    pub storage: Vec<Step<StorageAct>>,
    /// See [`OrderAct`].
    pub order: Vec<Step<OrderAct>>,
    /// See [`UsherAct`]; empty for a session that is below the host.
    pub usher: Vec<Step<UsherAct>>,
    /// Flags of clone3, one namespace each.
    pub namespaces: Vec<Step<u64>>,
    /// See [`MapAct`].
    pub maps: Vec<Step<MapAct>>,
    /// See [`ChildAct`].
    pub child: Vec<Step<ChildAct>>,
}

/// A step could not be applied: no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sandbox step `{stage}` failed: {}", io::Error::from_raw_os_error(*.errno))]
pub struct Fault {
    /// The step's (or mount option's) name.
    pub stage: String,
    /// Its errno.
    pub errno: i32,
}

impl Plan {
    /// Every name in order, those of mount options included.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        [
            self.names_ahead(),
            self.names_in_place(),
            self.names_with_order(),
        ]
        .concat()
    }

    /// Those of the part that is done ahead.
    #[must_use]
    pub fn names_ahead(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for step in &self.ahead {
            match &step.act {
                AheadAct::CloneBase(attrs) => {
                    names.push(step.name);
                    names.extend(attrs.iter().map(|a| a.name));
                }
                AheadAct::MakeDev { options, attrs, .. } => {
                    names.extend(options.iter().map(|o| o.name));
                    names.push(step.name);
                    names.extend(attrs.iter().map(|a| a.name));
                }
                #[cfg(feature = "fault-injection")]
                AheadAct::BindHostDev(_) => names.push(step.name),
            }
        }
        names
    }

    /// Those of the part that is done in the place.
    #[must_use]
    pub fn names_in_place(&self) -> Vec<&'static str> {
        self.place.iter().map(|step| step.name).collect()
    }

    /// Those of the rest.
    #[must_use]
    pub fn names_with_order(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for step in &self.storage {
            if let StorageAct::Mount { options, attrs } = &step.act {
                names.extend(options.iter().map(|o| o.name));
                names.extend(attrs.iter().map(|a| a.name));
            }
            names.push(step.name);
        }
        for step in &self.order {
            names.push(step.name);
            if let OrderAct::CloneBundle(attrs) = &step.act {
                names.extend(attrs.iter().map(|a| a.name));
            }
        }
        names.extend(self.usher.iter().map(|step| step.name));
        names.extend(self.namespaces.iter().map(|step| step.name));
        names.extend(self.maps.iter().map(|step| step.name));
        for step in &self.child {
            if let ChildAct::Mount(mount) = &step.act {
                names.extend(mount.options.iter().map(|o| o.name));
                names.extend(mount.attrs.iter().map(|a| a.name));
            }
            names.push(step.name);
        }
        // Owner and group are two options of one name.
        names.dedup();
        names
    }
}

#[cfg(test)]
mod tests;
