//! What all sessions of an instance may have together, and their share of the processors against the rest of the host: written
//! on the instance's own cgroup, which every session is below.

use super::limits::{Bounded, Enforced, WEIGHT};
use super::{Backend, CgroupError, CgroupRoot, Result};
use std::time::Instant;

/// Bounds of all sessions together; absent: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Memory, bytes. What is in use beyond it has the kernel end sessions, the largest first.
    pub memory_bytes: Option<u64>,
    /// CPU, thousandths of one. On v1 no session may then have more.
    pub cpu_millis: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Share of the processors where others of this host want them too, 1 to 10,000.
    pub cpu_weight: u32,
}

impl Default for Slice {
    fn default() -> Self {
        Self {
            memory_bytes: None,
            cpu_millis: None,
            pids: None,
            cpu_weight: WEIGHT,
        }
    }
}

impl CgroupRoot {
    fn bounded(&self) -> Bounded<'_> {
        Bounded {
            tree: &self.tree,
            name: ".",
        }
    }

    /// Writes them all; what is absent is taken away, whoever set it. All or none: on an error everything is as it was.
    ///
    /// Less memory than is in use is [`CgroupError::InUse`] if that cannot be given back by `deadline`. On v1, fewer CPUs than
    /// one of the sessions may have are [`CgroupError::Above`]: there the kernel refuses them.
    pub fn limit_all(&self, slice: &Slice, deadline: Instant) -> Result<()> {
        let all = self.bounded();
        let before = all.enforced()?;
        // What can be refused for what there is comes first, and of that what nobody can give way for.
        let written = all
            .set_memory(slice.memory_bytes, deadline)
            .and_then(|()| self.limit_cpu(slice.cpu_millis))
            .and_then(|()| all.set_pids(slice.pids))
            .and_then(|()| all.set_cpu_weight(slice.cpu_weight));
        written.inspect_err(|_| {
            // What was in force a moment ago is so again, or the kernel is broken; the first fault is the one to tell.
            let _ = all.set_cpu(before.cpu_millis);
            let _ = all.set_memory(before.memory_bytes, deadline);
            let _ = all.set_pids(before.pids);
        })
    }

    fn limit_cpu(&self, millis: Option<u32>) -> Result<()> {
        let all = self.bounded();
        let fault = match all.set_cpu(millis) {
            Err(fault) if fault.is_errno(libc::EINVAL) => fault,
            other => return other,
        };
        let v1 = matches!(self.tree.backend, Backend::V1 { .. });
        match (millis, self.largest_cpu()?) {
            (Some(asked), Some((session, has))) if v1 && has > asked => Err(CgroupError::Above {
                session,
                has,
                asked,
            }),
            _ => Err(fault),
        }
    }

    /// The session that may have most CPU, and how much.
    fn largest_cpu(&self) -> Result<Option<(String, u32)>> {
        let mut largest: Option<(String, u32)> = None;
        for name in self.list()? {
            let session = Bounded {
                tree: &self.tree,
                name: &name,
            };
            // One that ends just now is not in the way.
            let Ok(Enforced {
                cpu_millis: Some(has),
                ..
            }) = session.enforced()
            else {
                continue;
            };
            if largest.as_ref().is_none_or(|(_, most)| has > *most) {
                largest = Some((name, has));
            }
        }
        Ok(largest)
    }

    /// Reads back what all sessions may have together.
    pub fn all_enforced(&self) -> Result<Slice> {
        let found = self.bounded().enforced()?;
        Ok(Slice {
            memory_bytes: found.memory_bytes,
            cpu_millis: found.cpu_millis,
            pids: found.pids,
            cpu_weight: found.cpu_weight,
        })
    }
}
