//! What all sessions may have together, and what that says of one.

use super::{MemoryBytes, Resolver};
use crate::launcher::message::Slice;
use proto::units::CpuMillis;

/// Less than this does not hold one session that is of any use.
const LEAST_MEMORY: MemoryBytes = MemoryBytes::mib(64);

impl Resolver<'_> {
    pub(super) fn all_sessions(&mut self) -> Slice {
        let most = MemoryBytes(1 << 50);
        let memory = self.within("limits.sessions_memory", most, LEAST_MEMORY..=most);
        let pids = self.within("limits.sessions_pids", u32::MAX, 64..=u32::MAX);
        Slice {
            memory_bytes: Some(memory.0).filter(|bytes| *bytes < most.0),
            cpu_millis: self
                .take::<CpuMillis>("limits.sessions_cpus")
                .map(|cpus| cpus.0),
            pids: Some(pids).filter(|pids| *pids < u32::MAX),
            cpu_weight: self.within(
                "limits.sessions_cpu_weight",
                Slice::NONE.cpu_weight,
                1..=10_000,
            ),
        }
    }

    /// The most CPUs of one session, given those of all: a ceiling that nobody typed comes down with them.
    pub(super) fn ceiling_of_cpus(&mut self, all: &Slice, built_in: CpuMillis) -> CpuMillis {
        let all = all.cpu_millis.map(CpuMillis);
        let default = all.map_or(built_in, |all| all.min(built_in));
        let ceiling = self.or("ceilings.cpus", default);
        if let Some(all) = all.filter(|all| *all < ceiling) {
            self.fault(
                "limits.sessions_cpus",
                format!(
                    "must be at least `ceilings.cpus`, which is {}: no session may have more than all of them together; is {}",
                    ceiling.cpus(),
                    all.cpus()
                ),
            );
        }
        ceiling
    }
}
