//! What all sessions may have together (`limits.sessions_*`): given to the launcher at start and at each reload, and told in
//! words of the configuration if what runs is in the way.

use crate::broker::Broker;
use crate::config::Config;
use crate::launcher::message::{OrderFault, Slice};
use proto::units::{CpuMillis, MemoryBytes};

/// Why what all sessions may have together stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum SliceError {
    /// What sessions use now does not fit.
    #[error(
        "limits.sessions_memory is {asked}, and the sessions that run use {used} that they cannot give back now; stop some of them and reload, or allow more"
    )]
    MemoryInUse {
        /// What was wanted.
        asked: MemoryBytes,
        /// What is used.
        used: MemoryBytes,
    },
    /// What one session may have does not fit.
    #[error(
        "limits.sessions_cpus is {asked}, and session {session} has {has} (resources.cpus of its runtime, within ceilings.cpus): on cgroup v1 none may have more than all together; give it less (agentcore session limits {session} --cpus {asked}) or stop it, and reload"
    )]
    CpusInUse {
        /// What was wanted.
        asked: f64,
        /// Whose.
        session: String,
        /// What it has.
        has: f64,
    },
    /// The host refuses.
    #[error("limits.sessions_*: {0}")]
    Host(OrderFault),
}

impl SliceError {
    /// Whether it may be otherwise when other sessions run.
    #[must_use]
    pub const fn will_pass(&self) -> bool {
        match self {
            Self::MemoryInUse { .. } | Self::CpusInUse { .. } => true,
            Self::Host(_) => false,
        }
    }

    fn of(fault: OrderFault, asked: &Slice) -> Self {
        match fault {
            OrderFault::MemoryInUse { used } => Self::MemoryInUse {
                asked: MemoryBytes(asked.memory_bytes.unwrap_or(u64::MAX)),
                // In whole MiB it is read more easily.
                used: MemoryBytes::mib(used.div_ceil(1 << 20)),
            },
            OrderFault::CpusInUse { session, has } => Self::CpusInUse {
                asked: CpuMillis(asked.cpu_millis.unwrap_or(u32::MAX)).cpus(),
                session,
                has: CpuMillis(has).cpus(),
            },
            other => Self::Host(other),
        }
    }
}

impl Broker {
    /// Puts in force what the configuration says of all sessions together; all of it or nothing.
    pub async fn limit_all_sessions(&self, config: &Config) -> Result<(), SliceError> {
        let asked = config.limits.all_sessions;
        let found = self.launcher.limit_all(asked).await;
        let found = found.map_err(|fault| SliceError::of(fault, &asked))?;
        if asked != Slice::NONE {
            tracing::info!(
                memory_bytes = found.memory_bytes,
                cpu_millis = found.cpu_millis,
                pids = found.pids,
                cpu_weight = found.cpu_weight,
                "all sessions together are limited"
            );
        }
        Ok(())
    }
}
