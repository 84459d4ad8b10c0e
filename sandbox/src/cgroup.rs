//! Control groups of sessions: one type over two backends.
//!
//! **v2** is home: one unified hierarchy with memory, cpu, pids and (optionally) io. **v1 or hybrid** hosts have the
//! controllers in hierarchies of their own, usually with a controller-less v2 hierarchy beside them whose
//! `cgroup.kill`, `cgroup.freeze` and `cgroup.events` are used. A session is a directory
//! `<parent>/agentcore-<instance>/<session>` in *every* hierarchy found: a forgotten hierarchy would be one where it has
//! no limit.
//!
//! Not for: deciding limits (`session-core`), waiting for events without blocking (the supervisor polls
//! [`SessionCgroup::oom_event`]), or moving processes other than the caller.
//!
//! Everything is opened beneath a directory descriptor that [`CgroupRoot`] holds since start (`openat2`, no symlinks, no
//! other mount), so a mount made over the hierarchy later cannot redirect a limit. One descriptor is held per session, not
//! one per session and hierarchy: on hybrid hosts that would be ten, and the launcher's table is bounded.

mod capability;
mod dir;
mod hierarchy;
mod unified;
mod v1;
mod v2;

pub use capability::{Capability, Support};

use dir::Dir;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long [`SessionCgroup::remove`] goes on trying: the kernel answers EBUSY for a moment after the last exit.
const REMOVE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a freeze may take. A process in uninterruptible sleep delays it.
const FREEZE_PATIENCE: Duration = Duration::from_secs(5);

/// Why a control group could not be made, changed or read.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file or directory operation failed.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried: `open`, `read`, `write`, …
        verb: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A controller that sessions need is not there.
    #[error("cgroup controller `{controller}` is missing: {detail}")]
    MissingController {
        /// Which.
        controller: String,
        /// Where it was looked for, and what to do.
        detail: String,
    },
    /// A cgroup v2 directory holds processes, so that controllers cannot be enabled below it.
    #[error(
        "{} holds processes ({pids}), so no controller can be enabled below it; move them into a cgroup of their own \
         below it, or name another parent",
        path.display()
    )]
    InternalProcesses {
        /// The directory.
        path: PathBuf,
        /// Some of the processes.
        pids: String,
    },
    /// The cgroup is there already and is in use.
    #[error("cgroup {} is already there and {why}; it is not reused", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// What makes it unusable.
        why: &'static str,
    },
    /// A name that is not safe as a path component.
    #[error(
        "`{0}` is no name for a cgroup: it must be 1 to 64 of a-z A-Z 0-9 _ + - . and not begin with a dot"
    )]
    Name(String),
    /// A limit that the kernel would refuse or round.
    #[error("limit `{limit}` must be {rule}, is {found}")]
    Limit {
        /// Which.
        limit: &'static str,
        /// What it must be.
        rule: &'static str,
        /// What was asked.
        found: u64,
    },
    /// No such session.
    #[error("no cgroup of the name `{0}`")]
    Unknown(String),
    /// A control file has content that is not understood.
    #[error("{} has no usable {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Something took too long.
    #[error("{} did not become {what} in time", path.display())]
    Late {
        /// The directory.
        path: PathBuf,
        /// The state waited for.
        what: &'static str,
    },
}

impl CgroupError {
    /// The error number that fits best, for callers that pass errors on as a number.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Self::MissingController { .. } => libc::ENODEV,
            Self::InternalProcesses { .. } => libc::EBUSY,
            Self::Occupied { .. } => libc::EEXIST,
            Self::Name(_) | Self::Limit { .. } => libc::EINVAL,
            Self::Unknown(_) => libc::ENOENT,
            Self::Content { .. } => libc::EPROTO,
            Self::Late { .. } => libc::ETIMEDOUT,
        }
    }

    fn is_errno(&self, wanted: i32) -> bool {
        matches!(self, Self::Io { source, .. } if source.raw_os_error() == Some(wanted))
    }
}

type Result<T, E = CgroupError> = std::result::Result<T, E>;

/// Limits of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory of all its processes, page cache and tmpfs included, bytes. Swap is not granted on top.
    pub memory_bytes: u64,
    /// CPU, thousandths of one; at least 10.
    pub cpu_millis: u32,
    /// Processes and threads.
    pub pids: u32,
    /// Block device limits, where wanted. Refused where the host cannot enforce them.
    pub io: Option<IoLimits>,
}

/// Limits on one block device. Absent: unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoLimits {
    /// Major and minor number of the whole disk (partitions have no limit of their own).
    pub device: (u32, u32),
    /// Bytes read per second.
    pub read_bps: Option<u64>,
    /// Bytes written per second.
    pub write_bps: Option<u64>,
    /// Reads per second.
    pub read_iops: Option<u64>,
    /// Writes per second.
    pub write_iops: Option<u64>,
}

/// What a session has used. Counters only grow while the cgroup lives; `memory_bytes` and `pids` are the present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// CPU time, microseconds.
    pub cpu_us: u64,
    /// Memory now, bytes.
    pub memory_bytes: u64,
    /// Highest memory, bytes.
    pub memory_peak_bytes: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// Processes killed because the session's memory limit was hit.
    pub oom_kills: u64,
}

/// The cgroup of one daemon instance, in every hierarchy; sessions are its children.
#[derive(Debug, Clone)]
pub struct CgroupRoot {
    tree: Arc<Tree>,
}

/// The instance's own directories.
#[derive(Debug)]
struct Tree {
    /// `agentcore-<instance>`.
    name: String,
    backend: Backend,
}

#[derive(Debug)]
enum Backend {
    /// All controllers in the unified hierarchy.
    V2(Branch),
    /// Controllers on v1; perhaps a unified hierarchy without them.
    V1 {
        hierarchies: Vec<v1::Hierarchy>,
        unified: Option<Branch>,
    },
}

/// The instance's directory in one hierarchy, and its parent (needed to remove it).
#[derive(Debug)]
struct Branch {
    parent: Dir,
    dir: Dir,
}

impl Tree {
    fn unified(&self) -> Option<&Dir> {
        match &self.backend {
            Backend::V2(branch) => Some(&branch.dir),
            Backend::V1 { unified, .. } => unified.as_ref().map(|b| &b.dir),
        }
    }

    /// Every hierarchy's directory of this instance, the unified one last: it is the one whose processes are counted, so
    /// a process is in all others before it is in there.
    fn branches(&self) -> Vec<&Branch> {
        match &self.backend {
            Backend::V2(branch) => vec![branch],
            Backend::V1 {
                hierarchies,
                unified,
            } => hierarchies
                .iter()
                .map(|h| &h.branch)
                .chain(unified)
                .collect(),
        }
    }

    /// The hierarchy that gives a session its identity: the unified one, else that of the memory controller.
    fn identity(&self) -> Result<&Dir> {
        match &self.backend {
            Backend::V2(branch) => Ok(&branch.dir),
            Backend::V1 {
                hierarchies,
                unified,
            } => match unified {
                Some(branch) => Ok(&branch.dir),
                None => Ok(&v1::of(hierarchies, "memory")?.branch.dir),
            },
        }
    }
}

impl CgroupRoot {
    /// Finds this host's hierarchies and makes (or opens) `agentcore-<instance>` in each.
    ///
    /// `parent` is a path below each hierarchy's root, made where missing. Without it, the directory is made below the
    /// cgroup of `agentcore-sessions.service` where systemd has one (so that sessions outlive a restart of the daemon's
    /// own unit), else below the hierarchy's root.
    pub fn open(instance: &str, parent: Option<&str>) -> Result<Self> {
        Self::open_in(&hierarchy::find()?, instance, parent)
    }

    fn open_in(
        found: &hierarchy::Hierarchies,
        instance: &str,
        parent: Option<&str>,
    ) -> Result<Self> {
        check_name(instance)?;
        let name = format!("agentcore-{instance}");
        let backend = match found.layout()? {
            hierarchy::Layout::V2(mount) => Backend::V2(v2::plant(mount, parent, &name)?),
            hierarchy::Layout::V1 { mounts, unified } => Backend::V1 {
                hierarchies: mounts
                    .iter()
                    .map(|mount| v1::plant(mount, parent, &name))
                    .collect::<Result<_>>()?,
                unified: match unified {
                    Some(mount) => Some(unified::plant(mount, parent, &name)?),
                    None => None,
                },
            },
        };
        Ok(Self {
            tree: Arc::new(Tree { name, backend }),
        })
    }

    /// Makes the cgroup of a session, without limits yet. An empty leftover of the same name is replaced; one that holds
    /// processes or is frozen is refused. Nothing is left behind on failure.
    pub fn create(&self, session: &str) -> Result<SessionCgroup> {
        check_name(session)?;
        let branches = self.tree.branches();
        for branch in &branches {
            clear_leftover(&branch.dir, session)?;
        }
        for (made, branch) in branches.iter().enumerate() {
            if let Err(fault) = branch.dir.make_child(session) {
                for undo in &branches[..made] {
                    // Fails only where something else took the directory; the first fault is the one to tell.
                    let _ = undo.dir.remove_child(session);
                }
                return Err(fault);
            }
        }
        SessionCgroup::open(&self.tree, session)
    }

    /// Opens the cgroup of a session made earlier, perhaps by a daemon that is gone. One that is there in some hierarchies
    /// only (a removal was interrupted) opens too, so that it can be killed and removed; [`SessionCgroup::apply`] and
    /// [`SessionCgroup::enter_self`] then fail.
    pub fn open_existing(&self, session: &str) -> Result<SessionCgroup> {
        check_name(session)?;
        SessionCgroup::open(&self.tree, session)
    }

    /// Sessions that have a cgroup here in any hierarchy, sorted.
    pub fn list(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for branch in self.tree.branches() {
            names.extend(branch.dir.children()?);
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Removes the instance's own cgroup. Fails while it has sessions.
    pub fn remove_self(self) -> Result<()> {
        for branch in self.tree.branches() {
            branch.parent.remove_child(&self.tree.name)?;
        }
        Ok(())
    }

    /// What this host can enforce, for `agentcore doctor`.
    #[must_use]
    pub fn capabilities(&self) -> Vec<Capability> {
        capability::of(&self.tree)
    }

    /// Where the instance's cgroups are, for messages.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.tree
            .branches()
            .iter()
            .map(|branch| branch.dir.path().to_owned())
            .collect()
    }
}

/// The cgroup of one session. Dropping it changes nothing on the host.
#[derive(Debug)]
pub struct SessionCgroup {
    tree: Arc<Tree>,
    name: String,
    /// Its directory in the identity hierarchy; absent only in a half-removed leftover.
    dir: Option<Dir>,
}

impl SessionCgroup {
    fn open(tree: &Arc<Tree>, name: &str) -> Result<Self> {
        let there = tree.branches().iter().any(|b| b.dir.has(name));
        if !there {
            return Err(CgroupError::Unknown(name.to_owned()));
        }
        let dir = match tree.identity()?.open_child(name) {
            Ok(dir) => Some(dir),
            Err(fault) if fault.is_errno(libc::ENOENT) => None,
            Err(fault) => return Err(fault),
        };
        Ok(Self {
            tree: Arc::clone(tree),
            name: name.to_owned(),
            dir,
        })
    }

    /// The session's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes all limits. Any that cannot be written is an error.
    pub fn apply(&self, limits: &Limits) -> Result<()> {
        check_limits(limits)?;
        match &self.tree.backend {
            Backend::V2(branch) => v2::apply(&branch.dir, &self.name, limits),
            Backend::V1 { hierarchies, .. } => v1::apply(hierarchies, &self.name, limits),
        }
    }

    /// Moves the calling process (it should have one thread) into the session, in every hierarchy.
    ///
    /// Costs 7–16 ms when the last move on this host was more than some 50 ms ago (an RCU grace period).
    pub fn enter_self(&self) -> Result<()> {
        let branches = self.tree.branches();
        // All or nothing: never end up in some hierarchies only.
        if branches.iter().any(|branch| !branch.dir.has(&self.name)) {
            return Err(CgroupError::Unknown(self.name.clone()));
        }
        for branch in branches {
            // 0 means the writer itself: right in every pid namespace.
            branch.dir.write(&self.file("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// The descriptor for `clone3(CLONE_INTO_CGROUP)`, where cloning into it is all that is needed: on pure v2. On v1 and
    /// hybrid hosts `None`: a process has to enter the other hierarchies itself.
    #[must_use]
    pub fn clone_target(&self) -> Option<BorrowedFd<'_>> {
        match &self.tree.backend {
            Backend::V2(_) => self.dir.as_ref().map(AsFd::as_fd),
            Backend::V1 { .. } => None,
        }
    }

    /// Sends SIGKILL to every process, also to frozen ones, and leaves none frozen. Does not wait for them to be gone.
    pub fn kill(&self) -> Result<()> {
        if let Some(dir) = self.unified() {
            unified::kill(dir)?;
        }
        if let Backend::V1 {
            hierarchies,
            unified,
        } = &self.tree.backend
        {
            // A frozen v1 cgroup ignores SIGKILL until it is thawed, whoever froze it.
            v1::kill(hierarchies, &self.name, unified.is_none())?;
        }
        Ok(())
    }

    /// Stops every process where it is; returns when all are stopped. On failure nothing stays frozen.
    pub fn freeze(&self) -> Result<()> {
        let deadline = Instant::now() + FREEZE_PATIENCE;
        match (self.unified(), &self.tree.backend) {
            (Some(dir), _) => unified::freeze(dir, deadline),
            (None, Backend::V1 { hierarchies, .. }) => {
                v1::freeze(hierarchies, &self.name, deadline)
            }
            (None, Backend::V2(_)) => Err(CgroupError::Unknown(self.name.clone())),
        }
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<()> {
        if let Some(dir) = self.unified() {
            unified::thaw(dir)?;
        }
        match &self.tree.backend {
            Backend::V1 { hierarchies, .. } => v1::thaw(hierarchies, &self.name),
            Backend::V2(_) => Ok(()),
        }
    }

    /// Waits until no process is left, or fails with [`CgroupError::Late`].
    pub fn wait_empty(&self, deadline: Instant) -> Result<()> {
        match (self.unified(), &self.tree.backend) {
            (Some(dir), _) => unified::wait_empty(dir, deadline),
            (None, Backend::V1 { hierarchies, .. }) => {
                v1::wait_empty(hierarchies, &self.name, deadline)
            }
            (None, Backend::V2(_)) => Ok(()),
        }
    }

    /// Reads all counters.
    pub fn counters(&self) -> Result<Counters> {
        match &self.tree.backend {
            Backend::V2(branch) => v2::counters(&branch.dir, &self.name),
            Backend::V1 {
                hierarchies,
                unified,
            } => v1::counters(hierarchies, unified.as_ref().map(|b| &b.dir), &self.name),
        }
    }

    /// A descriptor that becomes readable when the session's memory limit has been hit, and (v1) when the cgroup is
    /// removed. A hint, not a verdict: read up to 4096 bytes to re-arm it, then ask [`Self::counters`]; on v1 the hint may
    /// come a moment before the kill is counted.
    pub fn oom_event(&self) -> io::Result<OwnedFd> {
        match &self.tree.backend {
            Backend::V2(branch) => v2::oom_event(&branch.dir, &self.name),
            Backend::V1 { hierarchies, .. } => v1::oom_event(hierarchies, &self.name),
        }
    }

    /// Removes the (empty) cgroup in every hierarchy, retrying for up to 10 s while the kernel says busy. Removing what is
    /// gone already is no error.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVE_PATIENCE;
        for branch in self.tree.branches() {
            remove_with_patience(&branch.dir, &self.name, deadline)?;
        }
        Ok(())
    }

    /// Inode of its directory: with the process's start time, a session's identity after a restart of the daemon.
    pub fn inode(&self) -> Result<u64> {
        match &self.dir {
            Some(dir) => dir.inode(),
            None => Err(CgroupError::Unknown(self.name.clone())),
        }
    }

    /// This session's directory in the unified hierarchy, if both exist.
    fn unified(&self) -> Option<&Dir> {
        self.tree.unified().and(self.dir.as_ref())
    }

    fn file(&self, file: &str) -> String {
        format!("{}/{file}", self.name)
    }
}

/// Refuses names that are not plain path components (the rule of runc and crun, security bar G07).
fn check_name(name: &str) -> Result<()> {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(ok) {
        return Err(CgroupError::Name(name.to_owned()));
    }
    Ok(())
}

fn check_limits(limits: &Limits) -> Result<()> {
    let bad = |limit, rule, found| Err(CgroupError::Limit { limit, rule, found });
    // Below one megabyte nothing can even exec; 0 would mean "kill at once" on v2.
    if limits.memory_bytes < 1 << 20 || i64::try_from(limits.memory_bytes).is_err() {
        return bad("memory", "1 MiB to 2^63-1 bytes", limits.memory_bytes);
    }
    // The kernel's smallest quota is 1 ms in the 100 ms period.
    if limits.cpu_millis < 10 {
        return bad("cpu", "at least 10 millis", limits.cpu_millis.into());
    }
    if limits.pids == 0 || limits.pids > 4_194_304 {
        return bad("pids", "1 to 4194304", limits.pids.into());
    }
    Ok(())
}

fn clear_leftover(parent: &Dir, session: &str) -> Result<()> {
    let dir = match parent.open_child(session) {
        Ok(dir) => dir,
        Err(fault) if fault.is_errno(libc::ENOENT) => return Ok(()),
        Err(fault) => return Err(fault),
    };
    let occupied = |why| {
        Err(CgroupError::Occupied {
            path: dir.path().to_owned(),
            why,
        })
    };
    if !dir.read("cgroup.procs")?.trim().is_empty() {
        return occupied("holds processes");
    }
    if unified::is_frozen(&dir)? || v1::is_frozen(&dir)? {
        return occupied("is frozen");
    }
    match parent.remove_child(session) {
        Err(fault) if fault.is_errno(libc::EBUSY) || fault.is_errno(libc::ENOTEMPTY) => {
            occupied("is in use")
        }
        other => other,
    }
}

fn remove_with_patience(parent: &Dir, name: &str, deadline: Instant) -> Result<()> {
    let mut pause = Duration::from_micros(200);
    loop {
        match parent.remove_child(name) {
            Ok(()) => return Ok(()),
            Err(fault) if fault.is_errno(libc::ENOENT) => return Ok(()),
            // The kernel has no event for "may be removed now": an exiting task stays charged for a moment after the
            // cgroup is reported empty.
            Err(fault) if fault.is_errno(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(100));
            }
            Err(fault) => return Err(fault),
        }
    }
}

/// Opens `parent` below `top` (each component made where missing). `enter` is told of every directory on the way, the top
/// and the last included, with the one above it, before anything below it is made.
fn descend(
    top: Dir,
    parent: Option<&str>,
    enter: impl Fn(Option<&Dir>, &Dir) -> Result<()>,
) -> Result<Dir> {
    let components = parent
        .unwrap_or_default()
        .split('/')
        .filter(|c| !c.is_empty());
    components.clone().try_for_each(check_name)?;
    enter(None, &top)?;
    let mut dir = top;
    for component in components {
        let next = open_or_make(&dir, component)?;
        enter(Some(&dir), &next)?;
        dir = next;
    }
    Ok(dir)
}

fn open_or_make(parent: &Dir, name: &str) -> Result<Dir> {
    match parent.make_child(name) {
        Ok(()) => {}
        Err(fault) if fault.is_errno(libc::EEXIST) => {}
        Err(fault) => return Err(fault),
    }
    parent.open_child(name)
}

/// Where the instance's directory goes in the hierarchy mounted at `mount`, if the caller named no parent.
fn default_parent(mount: &Path) -> Option<&'static str> {
    const UNIT: [&str; 2] = [
        "agentcore.slice/agentcore-sessions.service",
        "system.slice/agentcore-sessions.service",
    ];
    UNIT.into_iter().find(|unit| mount.join(unit).is_dir())
}

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod root_tests;
