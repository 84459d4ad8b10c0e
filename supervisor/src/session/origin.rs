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

use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use proto::ids::SessionId;
use std::sync::Arc;

/// What a new session begins with.
#[derive(Debug)]
pub enum Origin {
    /// A name: the driver launches it.
    Cold(SessionId),
}

/// How a session came to be, for figures and for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Launched for its caller, or taken over from an earlier daemon.
    Cold,
}

impl Path {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cold => "cold",
        }
    }
}

impl Origin {
    /// How a session came to be that begins with this.
    #[must_use]
    pub const fn path(&self) -> Path {
        match self {
            Self::Cold(_) => Path::Cold,
        }
    }
}

/// The quickest that there is for a session of this version, which is admitted.
#[expect(clippy::unused_async, reason = "claiming a member asks its driver")]
pub async fn choose(broker: &Arc<Broker>, _version: &Arc<RuntimeVersion>) -> Origin {
    Origin::Cold(broker.slots.take())
}
