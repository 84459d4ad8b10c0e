//! Limits of sessions that run: read back, and changed within what a launch may ask for.

use super::Launcher;
use super::orders::cgroup_fault;
use crate::launcher::checks;
use crate::launcher::message::{Enforced, OrderFault, Pressure, Reply, SetLimits};
use proto::ids::SessionId;
use sandbox::cgroup::CgroupError;
use std::time::{Duration, Instant};

/// How long the kernel may take to give page cache back; every other session waits with it. What was given back by then stays so,
/// so another try gets further.
const PATIENCE: Duration = Duration::from_millis(250);

impl Launcher {
    pub(super) fn limits(&self, id: &SessionId) -> Result<Reply, OrderFault> {
        let session = self.sessions.get(id).ok_or(OrderFault::Unknown)?;
        let enforced = session.cgroup.enforced().map_err(|e| cgroup_fault(&e))?;
        Ok(Reply::Limits(Enforced {
            memory_bytes: enforced.memory_bytes,
            cpu_millis: enforced.cpu_millis,
            pids: enforced.pids,
        }))
    }

    /// Memory first: it is the one that may fail, and then nothing has changed.
    pub(super) fn set_limits(&self, order: &SetLimits) -> Result<Reply, OrderFault> {
        checks::set_limits(order, &self.ground)?;
        let session = self
            .sessions
            .get(&order.session)
            .ok_or(OrderFault::Unknown)?;
        if session.removal.is_some() || !session.is_launched() {
            return Err(OrderFault::Refused("the session does not run".to_owned()));
        }
        let cgroup = &session.cgroup;
        if let Some(bytes) = order.memory_bytes {
            let changed = cgroup.set_memory(bytes, Instant::now() + PATIENCE);
            changed.map_err(|error| match error {
                CgroupError::InUse { used, .. } => OrderFault::MemoryInUse { used },
                other => cgroup_fault(&other),
            })?;
        }
        let cpu = order.cpu_millis.map(|millis| cgroup.set_cpu(millis));
        let pids = order.pids.map(|most| cgroup.set_pids(most));
        for changed in [cpu, pids].into_iter().flatten() {
            changed.map_err(|e| cgroup_fault(&e))?;
        }
        self.limits(&order.session)
    }

    pub(super) fn pressure(&self, id: &SessionId) -> Result<Reply, OrderFault> {
        let session = self.sessions.get(id).ok_or(OrderFault::Unknown)?;
        let pressure = session.cgroup.pressure().map_err(|e| cgroup_fault(&e))?;
        Ok(Reply::Pressure(pressure.map(|found| Pressure {
            cpu: hundredths(found.cpu),
            memory: hundredths(found.memory),
            io: hundredths(found.io),
        })))
    }
}

fn hundredths(percent: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped"
    )]
    let hundredths = (percent * 100.0).clamp(0.0, 10_000.0) as u32;
    hundredths
}
