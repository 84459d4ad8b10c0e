//! Where the processes of a new session come from: the one place that chooses, and the one type that says it.
//!
//! ```text
//! pool (a member that waits: claimed) ▸ template (a fork) ▸ cold (a launch)
//!   └─ its members are made as any: of a fork, or cold
//! ```
//!
//! Each that comes earlier is quicker, and may be empty or not there; the last always is. Whoever wants a session asks
//! [`choose`] once it is admitted and hands the answer to [`super::driver::spawn`]; nobody else knows the difference, but for
//! figures ([`Path`]).
//!
//! A fork is a launch whose order to the launcher is another one ([`super::fork`]), and which becomes a cold one where it fails.

use super::driver::Claimed;
use super::handle::SessionKey;
use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::owner::Principal;
use crate::templates::Lease;
use proto::ids::SessionId;
use std::sync::Arc;

/// What a new session begins with.
#[derive(Debug)]
pub enum Origin {
    /// A name: the driver launches it.
    Cold(SessionId),
    /// The same, and what its agent is to be a fork of.
    Fork(SessionId, Lease),
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
    /// Forked from a template.
    Fork,
    /// Launched for nobody: it waits in its pool.
    Waiting,
    /// Launched for nobody: others are forked from it.
    Template,
}

impl Path {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Pool => "pool",
            Self::Fork => "fork",
            Self::Waiting => "waiting",
            Self::Template => "template",
        }
    }

    /// As the API shows it.
    #[must_use]
    pub const fn to_api(self) -> proto::api::Origin {
        match self {
            Self::Cold => proto::api::Origin::Cold,
            Self::Pool => proto::api::Origin::Pool,
            Self::Fork => proto::api::Origin::Fork,
            Self::Waiting => proto::api::Origin::Waiting,
            Self::Template => proto::api::Origin::Template,
        }
    }

    /// Whether it is no session of anybody's.
    #[must_use]
    pub const fn is_nobodys(self) -> bool {
        match self {
            Self::Cold | Self::Pool | Self::Fork => false,
            Self::Waiting | Self::Template => true,
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
    if key.owner.principal == Principal::daemon() {
        return Origin::Cold(broker.slots.take());
    }
    let now = broker.clock.now();
    // Whatever it begins with: those to come, and the pool's members, are to be forks.
    broker.templates.wanted(version, now);
    if !version.spec.pool.is_off() {
        let claimed = broker.pool.claim(version, now).await;
        broker.metrics.claimed(&version.name, claimed.is_some());
        if let Some(claimed) = claimed {
            return Origin::Pool(claimed);
        }
    }
    let name = broker.slots.take();
    match broker.templates.lease(version) {
        Some(lease) => Origin::Fork(name, lease),
        None => Origin::Cold(name),
    }
}
