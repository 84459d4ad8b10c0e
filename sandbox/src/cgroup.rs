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
mod device;
mod dir;
mod error;
mod gauge;
mod hierarchy;
mod limits;
mod owner;
mod reclaim;
mod session;
mod slice;
mod step;
mod unified;
mod v1;
mod v2;

pub use capability::{Capability, Support};
pub use error::CgroupError;
pub use gauge::{GAUGE_FILES, Gauge, Sample};
pub use limits::{Enforced, OwnPressure, Pressure, WEIGHT};
pub use owner::{Member, Owner};
pub use session::SessionCgroup;
pub use slice::Slice;
pub use step::Step;

use dir::Dir;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// Share of the processors where others want them too, 1 to 10,000; [`WEIGHT`] is what everybody has.
    pub cpu_weight: u32,
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
    /// Why the device list is not enforced, if it is not.
    devices_off: Option<String>,
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

    /// Every hierarchy's directory of this instance. The unified one first: whoever enters is in reach of its
    /// `cgroup.kill`, and counted as there, before it is anywhere else.
    fn branches(&self) -> Vec<&Branch> {
        match &self.backend {
            Backend::V2(branch) => vec![branch],
            Backend::V1 {
                hierarchies,
                unified,
            } => unified
                .iter()
                .chain(hierarchies.iter().map(|h| &h.branch))
                .collect(),
        }
    }

    /// Sets the device list for all sessions to come where v1 does not have it per session. A second line of defence (they
    /// cannot make nodes, and their mounts are nodev), so a host that cannot do it is degraded, not refused.
    fn limit_devices(&self) -> Result<(), String> {
        if let Backend::V1 { hierarchies, .. } = &self.backend
            && v1::find(hierarchies, "devices").is_some()
        {
            return Ok(());
        }
        let dir = self.unified().ok_or("no devices hierarchy")?;
        device::set(dir.as_fd())
            .map_err(|error| format!("the kernel takes no device filter: {error}"))
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
    ///
    /// On v1 it is below no unit's cgroup: when such a unit is started again, systemd gathers all processes below it, delegated or not,
    /// in the unit's own cgroup of each controller, out of their sessions' limits. A directory of the unit's name, without its kind,
    /// stands at the hierarchy's root instead.
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
            hierarchy::Layout::V1 { mounts, unified } => {
                let parent = parent.map(beside_units);
                Backend::V1 {
                    hierarchies: mounts
                        .iter()
                        .map(|mount| v1::plant(mount, parent, &name))
                        .collect::<Result<_>>()?,
                    unified: match unified {
                        Some(mount) => Some(unified::plant(mount, parent, &name)?),
                        None => None,
                    },
                }
            }
        };
        let mut tree = Tree {
            name,
            backend,
            devices_off: None,
        };
        tree.devices_off = tree.limit_devices().err();
        Ok(Self {
            tree: Arc::new(tree),
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
            // A test's failure is that of the last: what was made before it has to go again.
            let strike = if made + 1 == branches.len() {
                Step::Create.strike()
            } else {
                Ok(())
            };
            if let Err(fault) = strike.and_then(|()| branch.dir.make_child(session)) {
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
    pub fn remove_self(&self) -> Result<()> {
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

/// Refuses names that are not plain path components (the rule of runc and crun, security bar G07).
fn check_name(name: &str) -> Result<()> {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(ok) {
        return Err(CgroupError::Name(name.to_owned()));
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

/// See [`CgroupRoot::open`]: the path itself, if none of systemd's units is in it.
fn beside_units(parent: &str) -> &str {
    const KINDS: [&str; 3] = [".service", ".scope", ".slice"];
    let is_unit = |name: &str| KINDS.iter().any(|kind| name.ends_with(kind));
    if !parent.split('/').any(is_unit) {
        return parent;
    }
    let last = parent
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or(parent);
    let stem = KINDS.iter().find_map(|kind| last.strip_suffix(kind));
    stem.unwrap_or(last)
}

/// Where the instance's directory goes in the v2 hierarchy mounted at `mount`, if the caller named no parent.
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
