//! One session as the launcher knows it.
//!
//! ```text
//! Parked ─launch─▶ Launching ─stager's report─▶ Running ─exit─▶ Ended
//!   │                  │ fault                     │               │
//!   └──────────────────┴────────remove─────────────┴───────────────┴─▶ (removal) ─cgroup empty─▶ gone
//! A launch with storage leaves it Parked until the steward has opened that ([`Opening`]).
//! Foreign: the cgroup of a session that an earlier launcher made (`service/foreign.rs`); killed, counted and removed by name,
//! or Adopted ─exit─▶ Ended
//! ```
//!
//! A removal runs beside the phase, because a session that is being removed still ends as it would have.

use super::endpoint::Endpoint;
use super::message::{Counters, ExitNumbers, LaunchOrder, Lineage, OrderFault};
use super::stager::Stager;
use super::steward::Steward;
use sandbox::cgroup::{Gauge, SessionCgroup};
use sandbox::storage::Wanted;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// Where a session is in its life.
#[derive(Debug)]
pub(super) enum Phase {
    /// Its stager waits for an order, or has said already why it cannot take one.
    Parked {
        stager: Stager,
        fault: Option<OrderFault>,
    },
    /// Its stager has the order of this number.
    Launching { stager: Stager, order: u64 },
    /// PID 1 runs.
    Running,
    /// PID 1 has ended, or never began.
    Ended,
    /// Made by an earlier launcher.
    Foreign,
    /// The same, taken over. PID 1 is no child of ours: its descriptor, with its key in the epoll, tells its end.
    Adopted { life: (u64, OwnedFd) },
}

/// Which host uids a session has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uids {
    /// None: not launched yet, or found with nobody in it.
    None,
    /// The range that begins with this one.
    From(u32),
    /// Perhaps some. Only of foreign ones.
    Unknown,
}

/// What to answer when a session is gone.
#[derive(Debug)]
pub(super) enum Farewell {
    /// A `Remove`: final counters and exit record.
    Removed { order: u64 },
    /// A `Launch` that failed: why.
    Failed { order: u64, fault: OrderFault },
}

/// A launch whose stager gets its order when the storage is there.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) steward: Steward,
    /// The launch.
    pub(super) number: u64,
    pub(super) order: LaunchOrder,
    pub(super) boot: OwnedFd,
    pub(super) bundle: OwnedFd,
}

/// Storage that a session has.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) wanted: Wanted,
    /// The same mount as the session's.
    pub(super) mount: OwnedFd,
}

/// A session on its way out.
#[derive(Debug)]
pub(super) struct Removal {
    pub(super) began: Instant,
    pub(super) farewells: Vec<Farewell>,
    /// Read once nobody is left. A removal that the kernel puts off has taken some of the counters away by the next try.
    pub(super) remains: Option<Remains>,
}

/// What is known of a session when its last process is gone.
#[derive(Debug)]
pub(super) struct Remains {
    /// Zero where they could not be read.
    pub(super) usage: Counters,
    /// The exit record as its shim left it.
    pub(super) record: Option<ExitNumbers>,
}

/// The time in which a kill for want of memory is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct OomSuspicion {
    /// Next look.
    pub(super) next: Instant,
    /// The last one is the first after this.
    pub(super) until: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) cgroup: SessionCgroup,
    /// Its counters, once they were asked for.
    pub(super) gauge: Option<Gauge>,
    pub(super) endpoint: Endpoint,
    pub(super) uids: Uids,
    /// What it was launched as. Of foreign ones it is not known, so nothing is forked from them.
    pub(super) lineage: Lineage,
    pub(super) phase: Phase,
    /// Its storage is on its way.
    pub(super) opening: Option<Box<Opening>>,
    /// Its storage, until the removal comes to that.
    pub(super) storage: Option<Kept>,
    /// The steward that the removal waits for.
    pub(super) leaving: Option<Steward>,
    /// Becomes readable when it is out of memory, where the kernel does not end it by itself (v1); with its key in the epoll.
    pub(super) oom: Option<(u64, OwnedFd)>,
    /// It was out of memory, and for a while it is looked whether that has killed someone.
    pub(super) oom_suspicion: Option<OomSuspicion>,
    pub(super) removal: Option<Removal>,
    /// It is being frozen.
    pub(super) freezing: Option<Freezing>,
}

/// A freeze that is not done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Freezing {
    /// Whom to tell.
    pub(super) order: u64,
    pub(super) began: Instant,
}

impl Session {
    pub(super) fn new(cgroup: SessionCgroup, endpoint: Endpoint, phase: Phase) -> Self {
        Self {
            cgroup,
            gauge: None,
            endpoint,
            uids: Uids::None,
            lineage: Lineage::Host,
            phase,
            opening: None,
            storage: None,
            leaving: None,
            oom: None,
            oom_suspicion: None,
            removal: None,
            freezing: None,
        }
    }

    /// Whether it is a session by now, and still one.
    pub(super) fn is_launched(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Adopted { .. })
    }

    /// Whether a process of this launcher's is still to be waited for.
    pub(super) fn has_process(&self) -> bool {
        self.opening.is_some() || self.has_own_process()
    }

    fn has_own_process(&self) -> bool {
        match self.phase {
            Phase::Parked { fault: None, .. } | Phase::Launching { .. } | Phase::Running => true,
            // A stager that has said why it cannot go on is not coming back.
            Phase::Parked { .. } | Phase::Ended | Phase::Foreign | Phase::Adopted { .. } => false,
        }
    }
}
