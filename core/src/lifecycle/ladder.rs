//! The idle ladder: a session that nobody uses costs less with time, rung by rung, and any request takes it up again.
//!
//! ```text
//!  Ready ──freeze_after, and less than 1 % CPU──▶ frozen (idle) ──idle_timeout, or its place is wanted──▶ Draining
//!    ▲        │ it computes, or nobody knows yet      │
//!    ├────────┘ weighed again later                   │ any request: [`Session::thaw`], before a byte is relayed
//!    └────────────────────────────────────────────────┘
//! ```
//!
//! - **Down.** Only a session that is Ready: healthy, no work in flight (invocations, streams, WebSockets, shells, commands and
//!   tasks are work), not `HealthyBusy`, and none of that for `freeze_after`. Then it is weighed: what it has used of a CPU in
//!   that time must be known and less than a hundredth. An agent that computes without saying so is left alone, and weighed
//!   again after as much time once more.
//! - **Not twice at once.** One that has just been thawed, by whomever, or that could not be frozen, is left alone for
//!   `freeze_after`: whoever thawed it had a reason.
//! - **Out.** Who wants its place ([`Session::evict`]) gets it from any idle session, but for one that somebody holds.
//!
//! The freeze itself, a request that comes while it is under way included, is [`super::freeze`]'s.

use super::{Effect, EndReason, Session, State};
use crate::moment::Moment;
use proto::api::FreezeCause;
use std::time::Duration;

/// Share of a CPU, as one part of so many, from which a session does something.
const ONE_OF: u32 = 100;

/// How soon one is weighed again of which too little is known.
const SOON: Duration = Duration::from_secs(1);

/// What an idle session has used of a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quiet {
    /// Between the first and the last reading since it is idle.
    pub over: Duration,
    /// CPU time used between them.
    pub cpu: Duration,
}

impl Quiet {
    /// Whether the readings are far enough apart to say something of `after`. There is one a second, so that the first comes up
    /// to a second late.
    fn covers(self, after: Duration) -> bool {
        self.over >= after / 2
    }

    fn is_rest(self) -> bool {
        self.cpu * ONE_OF < self.over
    }
}

impl Session {
    /// Since when it has been idle; `None` if it is not, or if somebody holds it where it is.
    #[must_use]
    pub fn idle_since(&self) -> Option<Moment> {
        if self.in_flight > 0 {
            return None;
        }
        match self.state {
            State::Live {
                idle_since,
                busy: false,
                ..
            } => Some(idle_since),
            State::Frozen(frozen) => frozen.idle_since(),
            State::Launching
            | State::Starting
            | State::Live { .. }
            | State::Leaving { .. }
            | State::Draining { .. }
            | State::Killing { .. }
            | State::Removing { .. }
            | State::Over { .. } => None,
        }
    }

    /// Ends it if it is idle, because others need its place. Whether it does.
    pub fn evict(&mut self, now: Moment) -> Option<Vec<Effect>> {
        self.idle_since()?;
        Some(self.step(now, super::Event::Stop(EndReason::Evicted)))
    }

    /// When it is to be weighed.
    pub(super) fn weighing(&self) -> Option<Moment> {
        let after = self.policy.freeze_after?;
        match self.state {
            State::Live {
                idle_since,
                busy: false,
                unhealthy_since: None,
            } if self.in_flight == 0 => Some((idle_since + after).max(self.not_frozen_before)),
            State::Launching
            | State::Starting
            | State::Live { .. }
            | State::Frozen(_)
            | State::Leaving { .. }
            | State::Draining { .. }
            | State::Killing { .. }
            | State::Removing { .. }
            | State::Over { .. } => None,
        }
    }

    /// It has been weighed.
    pub(super) fn weighed(&mut self, now: Moment, quiet: Option<Quiet>) -> Vec<Effect> {
        let due = self.weighing().is_some_and(|at| at <= now);
        let Some(after) = self.policy.freeze_after.filter(|_| due) else {
            // Something has begun meanwhile.
            return Vec::new();
        };
        match quiet.filter(|quiet| quiet.covers(after)) {
            None => {
                self.not_frozen_before = now + SOON;
                Vec::new()
            }
            Some(quiet) if quiet.is_rest() => {
                let mut effects = self.freeze(now, FreezeCause::Idle).unwrap_or_default();
                // Whoever publishes a change of phase does so for all of them.
                effects.retain(|effect| *effect != Effect::Publish);
                effects
            }
            Some(_computes) => {
                self.not_frozen_before = now + after;
                vec![Effect::WeighAnew]
            }
        }
    }

    /// It runs again, or could not be frozen.
    pub(super) fn rest_later(&mut self, now: Moment) {
        if let Some(after) = self.policy.freeze_after {
            self.not_frozen_before = now + after;
        }
    }
}
