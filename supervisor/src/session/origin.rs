//! Where the processes of a new session come from: the one place that chooses, and the one type that says it.
//!
//! ```text
//! pool (a member that waits: claimed) ▸ template (a fork) ▸ cold (a launch)
//! ```
//!
//! Each that comes earlier is quicker, and may be empty or not there; the last always is. Whoever wants a session asks
//! [`choose`] once it is admitted and hands the answer to [`super::driver::spawn`]; nobody else knows the difference, but for
//! figures ([`Path`]).
//!
//! **A template** plugs in as one more variant of [`Origin`] that carries its session's name and what the fork needs (as
//! [`Origin::Cold`] carries a name), one more word of [`Path`], and one more arm where the driver begins
//! (`Driver::launch`, which runs [`super::boot::launch`]): a fork is a launch whose order to the launcher is another one. So it
//! has a row before it has processes, and its end, its failures and its figures are those of every launch.

use super::driver::Claimed;
use super::handle::SessionKey;
use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::owner::Principal;
use proto::ids::SessionId;
use std::sync::Arc;

/// What a new session begins with.
#[derive(Debug)]
pub enum Origin {
    /// A name: the driver launches it.
    Cold(SessionId),
    /// A pool's member, which is its new driver's from now on.
    Pool(Claimed),
}

/// How a session came to be, for figures and for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Launched for its caller, or taken over from an earlier daemon.
    Cold,
    /// Claimed.
    Pool,
    /// Launched for nobody: it waits in its pool.
    Waiting,
}

impl Path {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Pool => "pool",
            Self::Waiting => "waiting",
        }
    }
}

/// The quickest that there is for a session of this version, which is admitted. What is not used of it in the end goes back to
/// where it came from.
pub async fn choose(
    broker: &Arc<Broker>,
    key: &SessionKey,
    version: &Arc<RuntimeVersion>,
) -> Origin {
    // The daemon's own (a warm-up call) tells nothing of demand.
    if version.spec.pool.is_off() || key.owner.principal == Principal::daemon() {
        return Origin::Cold(broker.slots.take());
    }
    let claimed = broker.pool.claim(version, broker.clock.now()).await;
    broker.metrics.claimed(&version.name, claimed.is_some());
    match claimed {
        Some(claimed) => Origin::Pool(claimed),
        None => Origin::Cold(broker.slots.take()),
    }
}
