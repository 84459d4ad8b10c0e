//! Memory of a frozen session, given back to the host: <https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files>,
//! <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>
//!
//! **v2** has `memory.reclaim`. Sessions get no swap on top of their memory (`memory.swap.max` is 0), so they are given some for as
//! long as they stand still, and [`super::SessionCgroup::thaw`] takes it back before anything runs. What lies in the swap by then
//! comes back page by page, and counts as memory again; until it does it counts nowhere, so a session that leaves it there and fills
//! its memory anew could have another part of the host's swap each time it is frozen. It gets no more of it than it may have memory.
//!
//! **v1** gives back what is above a limit that is written (as [`super::SessionCgroup::set_memory`] has it done), so the limit is a
//! piece less than what is held for the moment that this takes. What lies in the swap goes on to count: the limit of memory and
//! swap together is the same number, and stays. It also says what to put back, should a launcher die in that moment; a kernel
//! without it is not asked.
//!
//! Not by process_madvise(2): that takes CAP_SYS_NICE, which the launcher does not keep and needs for nothing else, and each
//! process's map, which is the session's to shape.

use super::dir::Dir;
use super::session::SessionCgroup;
use super::{Backend, CgroupRoot, Result, v1};

/// Of memory, and of memory and swap together.
const LIMIT: &str = "memory.limit_in_bytes";
const WITH_SWAP: &str = "memory.memsw.limit_in_bytes";

impl CgroupRoot {
    /// The file by which [`SessionCgroup::reclaim`] does anything, if it does.
    #[must_use]
    pub fn reclaims_by(&self) -> Option<&'static str> {
        match &self.tree.backend {
            Backend::V2(_) => Some("memory.reclaim"),
            Backend::V1 { hierarchies, .. } => {
                let memory = v1::find(hierarchies, "memory")?;
                memory.branch.dir.has(WITH_SWAP).then_some(LIMIT)
            }
        }
    }
}

impl SessionCgroup {
    /// Makes the kernel take so many bytes of it, if it can; how much the session held before and holds after. `None` where there
    /// is no way to ask. Only for a session that is frozen.
    pub fn reclaim(&self, bytes: u64) -> Result<Option<(u64, u64)>> {
        match &self.tree.backend {
            Backend::V2(branch) => self.reclaim_v2(&branch.dir, bytes),
            Backend::V1 { hierarchies, .. } => {
                self.reclaim_v1(&v1::of(hierarchies, "memory")?.branch.dir, bytes)
            }
        }
    }

    fn reclaim_v2(&self, dir: &Dir, bytes: u64) -> Result<Option<(u64, u64)>> {
        let (current, reclaim) = (self.file("memory.current"), self.file("memory.reclaim"));
        if !dir.has(&reclaim) {
            return Ok(None);
        }
        let before = dir.number(&current)?;
        let swap = self.file("memory.swap.max");
        if dir.has(&swap) {
            let most = dir.read(&self.file("memory.max"))?;
            dir.write(&swap, most.trim())?;
        }
        match dir.write(&reclaim, &bytes.to_string()) {
            // Less than that could be had.
            Err(fault) if fault.is_errno(libc::EAGAIN) => {}
            other => other?,
        }
        Ok(Some((before, dir.number(&current)?)))
    }

    fn reclaim_v1(&self, dir: &Dir, bytes: u64) -> Result<Option<(u64, u64)>> {
        if !dir.has(&self.file(WITH_SWAP)) {
            return Ok(None);
        }
        let usage = self.file("memory.usage_in_bytes");
        let before = dir.number(&usage)?;
        let less = before.saturating_sub(bytes);
        let asked = match dir.write(&self.file(LIMIT), &less.to_string()) {
            // Less than that could be had; the limit is as it was.
            Err(fault) if fault.is_busy() => Ok(()),
            other => other,
        };
        self.put_limit_back(dir)?;
        asked?;
        Ok(Some((before, dir.number(&usage)?)))
    }

    fn put_limit_back(&self, dir: &Dir) -> Result<()> {
        let limit = self.file(LIMIT);
        let meant = dir.number(&self.file(WITH_SWAP))?;
        match dir.number(&limit)? == meant {
            true => Ok(()),
            false => dir.write(&limit, &meant.to_string()),
        }
    }

    /// It gets no more swap, and has its limit. A thaw does so by itself.
    pub fn end_reclaim(&self) -> Result<()> {
        match &self.tree.backend {
            Backend::V2(branch) => {
                let swap = self.file("memory.swap.max");
                match branch.dir.has(&swap) {
                    true => branch.dir.write(&swap, "0"),
                    false => Ok(()),
                }
            }
            Backend::V1 { hierarchies, .. } => match v1::find(hierarchies, "memory") {
                Some(memory) if memory.branch.dir.has(&self.file(WITH_SWAP)) => {
                    self.put_limit_back(&memory.branch.dir)
                }
                // Not asked, or not there any more.
                Some(_) | None => Ok(()),
            },
        }
    }
}
