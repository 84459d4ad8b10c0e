//! Limits of sessions that run: read back, and changed within what a launch may ask for.

use super::Launcher;
use super::orders::cgroup_fault;
use crate::launcher::checks;
use crate::launcher::message::{
    Enforced, OrderFault, OwnPressure, Pressure, Reply, SetLimits, Slice,
};
use proto::ids::SessionId;
use proto::units::{CpuMillis, MemoryBytes};
use sandbox::cgroup::{Capability, CgroupError, Support};
use std::time::{Duration, Instant};

/// How long the kernel may take to give page cache back; every other session waits with it. What was given back by then stays so,
/// so another try gets further.
const PATIENCE: Duration = Duration::from_millis(250);

/// The same for what all sessions have: an operator's act, and there may be more of it.
const PATIENCE_FOR_ALL: Duration = Duration::from_secs(1);

impl Launcher {
    pub(super) fn limits(&self, id: &SessionId) -> Result<Reply, OrderFault> {
        let session = self.sessions.get(id).ok_or(OrderFault::Unknown)?;
        let enforced = session.cgroup.enforced().map_err(|e| cgroup_fault(&e))?;
        Ok(Reply::Limits(Enforced {
            memory_bytes: enforced.memory_bytes,
            cpu_millis: enforced.cpu_millis,
            pids: enforced.pids,
            cpu_weight: enforced.cpu_weight,
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
            changed.map_err(|error| in_use(&error))?;
        }
        let cpu = order.cpu_millis.map(|millis| cgroup.set_cpu(millis));
        let pids = order.pids.map(|most| cgroup.set_pids(most));
        let weight = order.cpu_weight.map(|weight| cgroup.set_cpu_weight(weight));
        for changed in [cpu, pids, weight].into_iter().flatten() {
            changed.map_err(|e| cgroup_fault(&e))?;
        }
        self.limits(&order.session)
    }

    pub(super) fn limit_all(&mut self, all: &Slice) -> Result<Reply, OrderFault> {
        let cgroups = &self.ground.cgroups;
        let slice = sandbox::cgroup::Slice {
            memory_bytes: all.memory_bytes,
            cpu_millis: all.cpu_millis,
            pids: all.pids,
            cpu_weight: all.cpu_weight,
        };
        cgroups
            .limit_all(&slice, Instant::now() + PATIENCE_FOR_ALL)
            .map_err(|error| in_use(&error))?;
        let found = cgroups.all_enforced().map_err(|e| cgroup_fault(&e))?;
        self.ground.all = *all;
        Ok(Reply::LimitedAll(Slice {
            memory_bytes: found.memory_bytes,
            cpu_millis: found.cpu_millis,
            pids: found.pids,
            cpu_weight: found.cpu_weight,
        }))
    }

    /// What all sessions may have together, as the kernel has it.
    pub(super) fn all_sessions(&self) -> Capability {
        let told = self.ground.cgroups.all_enforced().map(|all| {
            let or_any = |limit: Option<String>| limit.unwrap_or_else(|| "any".to_owned());
            format!(
                "all sessions together: memory {}, cpus {}, pids {}, weight {}",
                or_any(all.memory_bytes.map(|bytes| MemoryBytes(bytes).to_string())),
                or_any(
                    all.cpu_millis
                        .map(|millis| CpuMillis(millis).cpus().to_string())
                ),
                or_any(all.pids.map(|most| most.to_string())),
                all.cpu_weight,
            )
        });
        let (support, detail) = match told {
            Ok(detail) => (Support::On, detail),
            Err(error) => (Support::Off, error.to_string()),
        };
        Capability {
            name: "cgroup.sessions",
            support,
            detail,
        }
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

    pub(super) fn own_pressure(&self) -> Result<Reply, OrderFault> {
        let pressure = self.ground.cgroups.pressure();
        let pressure = pressure.map_err(|e| cgroup_fault(&e))?;
        Ok(Reply::OwnPressure(pressure.map(|found| OwnPressure {
            cpu: hundredths(found.cpu),
            memory_full: hundredths(found.memory_full),
            io_full: hundredths(found.io_full),
        })))
    }
}

fn in_use(error: &CgroupError) -> OrderFault {
    match error {
        CgroupError::InUse { used, .. } => OrderFault::MemoryInUse { used: *used },
        CgroupError::Above { session, has, .. } => OrderFault::CpusInUse {
            session: session.clone(),
            has: *has,
        },
        other => cgroup_fault(other),
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
