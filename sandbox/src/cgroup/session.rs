//! The cgroup of one session: its limits, its life and death, its counters.

use super::dir::Dir;
use super::owner::{self, Member, Owner};
use super::{Backend, CgroupError, Counters, Limits, Result, Step, Tree, unified, v1, v2};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a freeze may take. A process in uninterruptible sleep delays it.
const FREEZE_PATIENCE: Duration = Duration::from_secs(5);

/// The cgroup of one session. Dropping it changes nothing on the host.
#[derive(Debug)]
pub struct SessionCgroup {
    pub(super) tree: Arc<Tree>,
    name: String,
    /// Its directory in the identity hierarchy; absent only in a half-removed leftover.
    dir: Option<Dir>,
}

impl SessionCgroup {
    pub(super) fn open(tree: &Arc<Tree>, name: &str) -> Result<Self> {
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

    /// Sees to it that the calling process, which was cloned into [`Self::clone_target`] where there is one, is in the session.
    pub fn enter(&self) -> Result<()> {
        Step::Enter.strike()?;
        match self.clone_target() {
            Some(_) => Ok(()),
            None => self.enter_self(),
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

    /// Moves another process into the session, in every hierarchy. Costs as [`Self::enter_self`].
    pub fn take_in(&self, pid: Pid) -> Result<()> {
        let branches = self.tree.branches();
        if branches.iter().any(|branch| !branch.dir.has(&self.name)) {
            return Err(CgroupError::Unknown(self.name.clone()));
        }
        for branch in branches {
            let file = self.file("cgroup.procs");
            branch.dir.write(&file, &pid.to_string())?;
        }
        Ok(())
    }

    /// Numbers of all processes that are in it, in whichever hierarchy.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mut all = BTreeSet::new();
        for branch in self.tree.branches() {
            all.extend(owner::members(&branch.dir, &self.name)?);
        }
        Ok(all.into_iter().collect())
    }

    /// What it needs to have open.
    #[must_use]
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let branches = self.tree.branches().into_iter();
        let trees = branches.map(|branch| branch.dir.as_fd());
        trees.chain(self.dir.as_ref().map(AsFd::as_fd)).collect()
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

    /// The same as far as it goes at once, for who must not wait; whether all are stopped. If not, some are, and more will be:
    /// ask again, and [`Self::thaw`] if it takes too long.
    pub fn try_freeze(&self) -> Result<bool> {
        match (self.unified(), &self.tree.backend) {
            (Some(dir), _) => unified::try_freeze(dir),
            (None, Backend::V1 { hierarchies, .. }) => v1::try_freeze(hierarchies, &self.name),
            (None, Backend::V2(_)) => Err(CgroupError::Unknown(self.name.clone())),
        }
    }

    /// Whether it was told to freeze, by whichever freezer.
    pub fn is_frozen(&self) -> Result<bool> {
        if let Some(dir) = self.unified()
            && unified::is_frozen(dir)?
        {
            return Ok(true);
        }
        match &self.tree.backend {
            Backend::V1 { hierarchies, .. } => v1::session_is_frozen(hierarchies, &self.name),
            Backend::V2(_) => Ok(false),
        }
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<()> {
        self.end_reclaim()?;
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

    /// Whose its processes are, of all who have a user or group id among `ids`. An error means that it cannot be told, not
    /// that there is nobody.
    pub fn owner(&self, ids: &Range<u32>) -> Result<Owner> {
        owner::of(&self.tree.branches(), &self.name, ids)
    }

    /// The process of this number, if it is in the session's cgroup and lives.
    pub fn member(&self, pid: i32) -> Result<Option<Member>> {
        match self.tree.branches().first() {
            Some(branch) => owner::member(&branch.dir, &self.name, pid),
            None => Ok(None),
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

    /// A descriptor that becomes readable when the session is out of memory, and when the cgroup is removed. A hint, not a
    /// verdict: read its eight bytes to re-arm it, then ask [`Self::oom_kills`]; the hint comes a moment before the kill is
    /// counted.
    ///
    /// `None` on v2, where there is nothing to do for who would watch: [`Self::apply`] has set `memory.oom.group`, so the
    /// kernel ends a session as a whole, its PID 1 with it. (`memory.events` also changes whenever page cache is reclaimed
    /// at the limit, which an agent can make happen all the time; and an inotify instance for each session would end at
    /// the 128 that root may have.)
    pub fn oom_event(&self) -> io::Result<Option<OwnedFd>> {
        Step::OomEvent.strike().map_err(io::Error::other)?;
        match &self.tree.backend {
            Backend::V2(_) => Ok(None),
            Backend::V1 { hierarchies, .. } => v1::oom_event(hierarchies, &self.name).map(Some),
        }
    }

    /// Processes killed because the memory limit was hit: one counter of [`Self::counters`], for who asks often.
    pub fn oom_kills(&self) -> Result<u64> {
        match &self.tree.backend {
            Backend::V2(branch) => v2::oom_kills(&branch.dir, &self.name),
            Backend::V1 { hierarchies, .. } => v1::oom_kills(hierarchies, &self.name),
        }
    }

    /// Removes the (empty) cgroup in every hierarchy. Removing what is gone already is no error.
    ///
    /// The kernel says busy for a moment after the last exit, and has no event for "may be removed now"; until `deadline`
    /// it is asked again. Who must not wait gives a deadline that has passed: it is then tried once, and a fault that
    /// [`CgroupError::is_busy`] means that it is worth coming back. What was removed by then stays removed.
    pub fn remove(&self, deadline: Instant) -> Result<()> {
        let mut pause = Duration::from_micros(200);
        loop {
            match self.try_remove() {
                Err(fault) if fault.is_busy() && Instant::now() < deadline => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(100));
                }
                other => return other,
            }
        }
    }

    fn try_remove(&self) -> Result<()> {
        // The one that gives the session its identity last: until then it can be opened as itself.
        for branch in self.tree.branches().into_iter().rev() {
            match branch.dir.remove_child(&self.name) {
                Err(fault) if !fault.is_errno(libc::ENOENT) => return Err(fault),
                Ok(()) | Err(_) => {}
            }
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

    pub(super) fn file(&self, file: &str) -> String {
        format!("{}/{file}", self.name)
    }
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
