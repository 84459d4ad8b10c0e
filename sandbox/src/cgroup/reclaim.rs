//! Memory of a frozen session, given back to the host. <https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files>
//!
//! Sessions get no swap on top of their memory (`memory.swap.max` is 0), so it is lifted for as long as a session stands still,
//! in which time it can use no more than it has, and [`super::SessionCgroup::thaw`] puts it back before anything runs. What lies in
//! the swap by then comes back page by page, and counts as memory again.

use super::session::SessionCgroup;
use super::{Backend, CgroupRoot, Result};

impl CgroupRoot {
    /// Whether [`SessionCgroup::reclaim`] does anything.
    #[must_use]
    pub fn can_reclaim(&self) -> bool {
        match &self.tree.backend {
            Backend::V2(_) => true,
            Backend::V1 { .. } => false,
        }
    }
}

impl SessionCgroup {
    /// Makes the kernel take so many bytes of it, if it can; how much the session held before and holds after. `None` where there
    /// is no way to ask. Only for a session that is frozen.
    pub fn reclaim(&self, bytes: u64) -> Result<Option<(u64, u64)>> {
        let Backend::V2(branch) = &self.tree.backend else {
            return Ok(None);
        };
        let (current, reclaim) = (self.file("memory.current"), self.file("memory.reclaim"));
        if !branch.dir.has(&reclaim) {
            return Ok(None);
        }
        let before = branch.dir.number(&current)?;
        let swap = self.file("memory.swap.max");
        if branch.dir.has(&swap) {
            branch.dir.write(&swap, "max")?;
        }
        match branch.dir.write(&reclaim, &bytes.to_string()) {
            // Less than that could be had.
            Err(fault) if fault.is_errno(libc::EAGAIN) => {}
            other => other?,
        }
        Ok(Some((before, branch.dir.number(&current)?)))
    }

    /// It gets no more swap.
    pub(super) fn end_reclaim(&self) -> Result<()> {
        let Backend::V2(branch) = &self.tree.backend else {
            return Ok(());
        };
        let swap = self.file("memory.swap.max");
        match branch.dir.has(&swap) {
            true => branch.dir.write(&swap, "0"),
            false => Ok(()),
        }
    }
}
