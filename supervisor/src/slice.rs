//! What all sessions may have together (`limits.sessions_*`): given to the launcher at start and at each reload, and told in
//! words of the configuration if what runs is in the way.
//!
//! On cgroup v1 no session may have more CPUs than all together. Of those that have, the ones that are nobody's (members of pools,
//! templates) give way: their version is not served any more, or not with these CPUs, once the configuration is in force.

use crate::broker::Broker;
use crate::config::Config;
use crate::launcher::message::{OrderFault, SetLimits, Slice};
use crate::session::handle::SessionHandle;
use crate::session::origin::Path;
use nix::errno::Errno;
use proto::api::EndReason;
use proto::ids::SessionId;
use proto::units::{CpuMillis, MemoryBytes};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long those that are nobody's may take to give way, all together.
const PATIENCE: Duration = Duration::from_secs(5);

/// Before the first look again whether the kernel still counts what is gone, and twice as long before each further one.
const PAUSE: Duration = Duration::from_millis(50);

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
        let until = Instant::now() + PATIENCE;
        let mut pause = PAUSE;
        let found = loop {
            match self.launcher.limit_all(asked).await {
                Ok(found) => break found,
                Err(OrderFault::CpusInUse { session, has }) => {
                    // Nobody gives way to what is refused in the end.
                    let (session, has) = self.stays(&asked).unwrap_or((session, has));
                    let fault = OrderFault::CpusInUse {
                        session: session.clone(),
                        has,
                    };
                    if Instant::now() >= until || !self.gives_way(&session, &asked, until).await {
                        return Err(SliceError::of(fault, &asked));
                    }
                }
                // No session is in the way: one that is gone, which counts until the kernel has let go of it. (Or all may not have as
                // much as the cgroup above them, which stays so.)
                Err(OrderFault::Host { errno, .. })
                    if errno == Errno::EINVAL as i32 && Instant::now() < until =>
                {
                    sleep(pause).await;
                    pause *= 2;
                }
                Err(fault) => return Err(SliceError::of(fault, &asked)),
            }
        };
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

    /// A caller's session with more CPUs than all are to have, and how many.
    fn stays(&self, all: &Slice) -> Option<(String, u32)> {
        let most = CpuMillis(all.cpu_millis?);
        let all = self.registry.all();
        let stays = all.iter().find(|handle| {
            !handle.path.is_nobodys() && handle.view().end.is_none() && handle.limited().cpus > most
        })?;
        Some((stays.id.to_string(), stays.limited().cpus.0))
    }

    /// Has this one give way, if it is nobody's or is ending anyhow: whether it is worth trying again.
    async fn gives_way(&self, session: &str, all: &Slice, until: Instant) -> bool {
        let named = SessionId::parse(session).ok();
        let Some(handle) = named.and_then(|id| self.registry.get(&id)) else {
            return false;
        };
        if handle.view().end.is_some() {
            return timeout_at(until, handle.over()).await.is_ok();
        }
        match (&handle.template, handle.path) {
            // It ends with the last session below it, and is made again where it is wanted.
            (Some(template), _) => template.leave(),
            // From here on nobody can claim it.
            (None, Path::Waiting) if self.pool.take_off(&handle) => {
                handle.stop(EndReason::Evicted).await;
            }
            (None, Path::Waiting | Path::Cold | Path::Pool | Path::Fork | Path::Template) => {
                return false;
            }
        }
        tracing::info!(session_id = %handle.id, origin = handle.path.word(), "gives way to fewer CPUs for all sessions");
        // Sooner than it ends. What is just being made cannot be changed.
        self.lower(&handle, all).await || timeout_at(until, handle.settled()).await.is_ok()
    }

    /// Gives it no more than all are to have.
    async fn lower(&self, handle: &SessionHandle, all: &Slice) -> bool {
        let order = SetLimits {
            session: handle.id.clone(),
            memory_bytes: None,
            cpu_millis: all.cpu_millis,
            pids: None,
            cpu_weight: None,
        };
        match self.launcher.set_limits(order).await {
            Ok(enforced) => {
                handle.note_limits(enforced, self.clock.now());
                true
            }
            Err(_ends_or_begins) => false,
        }
    }
}
