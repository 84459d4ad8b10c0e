//! How a session ends: the order of signals and waits. Pure; [`crate::shim`] performs the acts.
//!
//! ```text
//!  Running ──agent ends by itself──▶ Lingering ──stop grace over, nobody said shutdown──▶ Over
//!     │                                  │
//!     └─shutdown │ lifetime │ orphaned─┬─┘
//!                                      ▼
//!                      Terminating: TERM to all ──grace over──▶ Killing: KILL to all
//!                                      │                              │
//!                                      └────── no process left ───────┴──▶ Over
//! ```
//!
//! - The cause is the first one: an agent that ended by itself is `agent_exited`, whatever is said afterwards.
//! - A second `shutdown` can only shorten the grace.
//! - An agent that ends in its grace leaves its other processes a second of it ([`STRAGGLERS`]).
//! - Invocations that are kept ([`Holds`]) put lifetime and orphanhood off.
//! - KILL is waited for only [`REAP`] long: the end of PID 1 ends whatever is left.

use proto::shim::{ExitCause, ShimLimits};
use std::time::{Duration, Instant};

/// How long killed processes may take to be gone.
const REAP: Duration = Duration::from_secs(1);

/// How long what the agent leaves running when it heeds TERM may go on: the grace is the agent's, to finish its work.
const STRAGGLERS: Duration = Duration::from_secs(1);

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// TERM (and CONT, or a stopped process never hears it) to every process of the session.
    Terminate,
    /// KILL to every process of the session.
    Kill,
    /// Write the record and exit.
    Exit(ExitCause),
}

/// What holds the session beyond its time. Each has a deadline, at which the invocation is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Holds {
    /// Kept invocations that are in flight, up to the latest of their deadlines. The session does not end before; and as long as
    /// no daemon is there, its time as an orphan begins when the last of them has ended.
    pub(crate) in_flight: Option<Instant>,
    /// Kept ones that have ended and are not settled. The lifetime waits for somebody to come for the outcome, and so does a
    /// session whose agent has ended meanwhile; an orphan's time does not.
    pub(crate) unsettled: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Lingering {
        until: Option<Instant>,
    },
    Terminating {
        cause: ExitCause,
        until: Option<Instant>,
    },
    Killing {
        cause: ExitCause,
        until: Instant,
    },
    Over(ExitCause),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Ending {
    state: State,
    stop_grace: Duration,
    /// When the session has lived long enough. Times beyond the clock's reach never come.
    lifetime: Option<Instant>,
    orphan_timeout: Duration,
    /// When nobody will have been there for too long; `None` while somebody is, or something holds it.
    orphaned: Option<Instant>,
    attached: bool,
    holds: Holds,
}

impl Ending {
    pub(crate) fn new(limits: &ShimLimits, now: Instant) -> Self {
        let orphan_timeout = Duration::from_millis(limits.orphan_timeout_ms);
        Self {
            state: State::Running,
            stop_grace: Duration::from_millis(limits.stop_grace_ms),
            lifetime: now.checked_add(Duration::from_millis(limits.max_lifetime_ms)),
            orphan_timeout,
            orphaned: now.checked_add(orphan_timeout),
            attached: false,
            holds: Holds::default(),
        }
    }

    /// Whether new work is still taken.
    pub(crate) fn is_running(&self) -> bool {
        self.state == State::Running
    }

    pub(crate) fn attached(&mut self) {
        self.attached = true;
        self.orphaned = None;
    }

    pub(crate) fn detached(&mut self, now: Instant) {
        self.attached = false;
        self.orphaned = match self.holds.in_flight {
            None => now.checked_add(self.orphan_timeout),
            Some(_) => None,
        };
    }

    /// What holds it now.
    pub(crate) fn hold(&mut self, holds: Holds, now: Instant) {
        if !self.attached && holds.in_flight.is_some() != self.holds.in_flight.is_some() {
            self.orphaned = match holds.in_flight {
                None => now.checked_add(self.orphan_timeout),
                Some(_) => None,
            };
        }
        self.holds = holds;
    }

    /// It has so long to live from now on.
    pub(crate) fn begin_anew(&mut self, lifetime: Duration, now: Instant) {
        self.lifetime = now.checked_add(lifetime);
    }

    /// When it has lived long enough, and nothing holds it any more.
    fn end_of_life(&self) -> Option<Instant> {
        let held = [self.holds.in_flight, self.holds.unsettled];
        let lifetime = self.lifetime?;
        held.into_iter().flatten().chain([lifetime]).max()
    }

    /// What the agent left is still to be fetched. A daemon that is there says `shutdown` when it has it.
    fn is_awaited(&self) -> bool {
        self.holds != Holds::default()
    }

    /// The agent's process has ended.
    pub(crate) fn agent_ended(&mut self, now: Instant) {
        match &mut self.state {
            State::Running => {
                let until = now.checked_add(self.stop_grace);
                self.state = State::Lingering { until };
            }
            State::Terminating { until, .. } => {
                let soon = now + STRAGGLERS;
                *until = Some(until.map_or(soon, |until| until.min(soon)));
            }
            State::Lingering { .. } | State::Killing { .. } | State::Over(_) => {}
        }
    }

    /// `shutdown` was ordered.
    pub(crate) fn shutdown(&mut self, grace: Duration, now: Instant) -> Option<Act> {
        self.end(ExitCause::Shutdown, grace, now)
    }

    /// SIGTERM to PID 1.
    pub(crate) fn terminated(&mut self, now: Instant) -> Option<Act> {
        self.end(ExitCause::Shutdown, self.stop_grace, now)
    }

    /// No process but the shim is left.
    pub(crate) fn all_gone(&mut self) -> Option<Act> {
        match self.state {
            State::Terminating { cause, .. } | State::Killing { cause, .. } => {
                self.state = State::Over(cause);
                Some(Act::Exit(cause))
            }
            State::Running | State::Lingering { .. } | State::Over(_) => None,
        }
    }

    /// Whether [`Self::all_gone`] would end it.
    pub(crate) fn waits_for_processes(&self) -> bool {
        matches!(
            self.state,
            State::Terminating { .. } | State::Killing { .. }
        )
    }

    /// What time has made due.
    pub(crate) fn tick(&mut self, now: Instant) -> Option<Act> {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        match self.state {
            State::Lingering { until } if due(until) && !self.is_awaited() => {
                self.state = State::Over(ExitCause::AgentExited);
                Some(Act::Exit(ExitCause::AgentExited))
            }
            State::Terminating { cause, until } if due(until) => {
                let until = now + REAP;
                self.state = State::Killing { cause, until };
                Some(Act::Kill)
            }
            State::Killing { cause, until } if until <= now => {
                self.state = State::Over(cause);
                Some(Act::Exit(cause))
            }
            State::Running | State::Lingering { .. } if due(self.end_of_life()) => {
                self.end(ExitCause::MaxLifetime, self.stop_grace, now)
            }
            State::Running | State::Lingering { .. } if due(self.orphaned) => {
                self.end(ExitCause::Orphaned, self.stop_grace, now)
            }
            State::Running
            | State::Lingering { .. }
            | State::Terminating { .. }
            | State::Killing { .. }
            | State::Over(_) => None,
        }
    }

    /// When to call [`Self::tick`] next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let limits = [self.end_of_life(), self.orphaned]
            .into_iter()
            .flatten()
            .min();
        match self.state {
            State::Running => limits,
            State::Lingering { .. } if self.is_awaited() => limits,
            State::Lingering { until } => [limits, until].into_iter().flatten().min(),
            State::Terminating { until, .. } => until,
            State::Killing { until, .. } => Some(until),
            State::Over(_) => None,
        }
    }

    fn end(&mut self, cause: ExitCause, grace: Duration, now: Instant) -> Option<Act> {
        let until = now.checked_add(grace);
        match &mut self.state {
            State::Running => {
                self.state = State::Terminating { cause, until };
                Some(Act::Terminate)
            }
            State::Lingering { .. } => {
                let cause = ExitCause::AgentExited;
                self.state = State::Terminating { cause, until };
                Some(Act::Terminate)
            }
            State::Terminating { until: before, .. } => {
                let sooner = before.is_none_or(|before| until.is_some_and(|now| now < before));
                if sooner {
                    *before = until;
                }
                None
            }
            State::Killing { .. } | State::Over(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(15);

    fn ending(now: Instant) -> Ending {
        Ending::new(
            &ShimLimits {
                ping_interval_ms: 1,
                ping_timeout_ms: 1,
                stop_grace_ms: 15_000,
                max_lifetime_ms: 100_000,
                orphan_timeout_ms: 50_000,
                log_bytes_per_s: 0,
                log_burst_bytes: 0,
                max_invocations: 1,
                max_egress_backlog: 0,
            },
            now,
        )
    }

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn what_an_agent_leaves_running_does_not_get_its_grace() {
        let t0 = Instant::now();
        let mut ending = ending(t0);
        assert_eq!(ending.shutdown(GRACE, t0), Some(Act::Terminate));
        ending.agent_ended(at(t0, 3));
        assert_eq!(ending.tick(at(t0, 3)), None);
        assert_eq!(ending.tick(at(t0, 4)), Some(Act::Kill));
        assert_eq!(ending.all_gone(), Some(Act::Exit(ExitCause::Shutdown)));
    }

    #[test]
    fn term_then_grace_then_kill_then_exit() {
        let t0 = Instant::now();
        let mut ending = ending(t0);
        assert_eq!(ending.shutdown(GRACE, t0), Some(Act::Terminate));
        assert_eq!(ending.deadline(), Some(at(t0, 15)));
        assert_eq!(ending.tick(at(t0, 14)), None);
        assert_eq!(ending.tick(at(t0, 15)), Some(Act::Kill));
        assert_eq!(ending.all_gone(), Some(Act::Exit(ExitCause::Shutdown)));
        assert_eq!((ending.deadline(), ending.all_gone()), (None, None));
    }

    #[test]
    fn what_survives_kill_does_not_keep_the_shim() {
        let t0 = Instant::now();
        let mut ending = ending(t0);
        ending.shutdown(Duration::ZERO, t0);
        assert_eq!(ending.tick(t0), Some(Act::Kill));
        assert_eq!(ending.tick(at(t0, 1)), Some(Act::Exit(ExitCause::Shutdown)));
    }

    #[test]
    fn grace_ends_early_and_can_only_be_shortened() {
        let t0 = Instant::now();
        let mut ending = ending(t0);
        ending.shutdown(GRACE, t0);
        assert_eq!(ending.shutdown(2 * GRACE, t0), None);
        assert_eq!(ending.deadline(), Some(t0 + GRACE));
        ending.shutdown(GRACE / 3, t0);
        assert_eq!(ending.deadline(), Some(t0 + GRACE / 3));
        assert_eq!(ending.all_gone(), Some(Act::Exit(ExitCause::Shutdown)));
    }

    #[test]
    fn an_agent_that_ended_is_the_cause() {
        let t0 = Instant::now();
        let mut waited = ending(t0);
        waited.agent_ended(t0);
        assert!(!waited.is_running());
        assert_eq!(waited.all_gone(), None);
        assert_eq!(
            waited.tick(t0 + GRACE),
            Some(Act::Exit(ExitCause::AgentExited))
        );
        let mut told = ending(t0);
        told.agent_ended(t0);
        assert_eq!(told.shutdown(GRACE, t0), Some(Act::Terminate));
        assert_eq!(told.all_gone(), Some(Act::Exit(ExitCause::AgentExited)));
    }

    fn holds(in_flight: Option<Instant>, unsettled: Option<Instant>) -> Holds {
        Holds {
            in_flight,
            unsettled,
        }
    }

    #[test]
    fn what_is_kept_puts_the_lifetime_off_up_to_its_deadline() {
        let t0 = Instant::now();
        let mut busy = ending(t0);
        busy.attached();
        busy.hold(holds(Some(at(t0, 150)), None), at(t0, 90));
        assert_eq!(busy.tick(at(t0, 120)), None);
        assert_eq!(busy.deadline(), Some(at(t0, 150)));
        // Done, but nobody has said that he knows.
        busy.hold(holds(None, Some(at(t0, 150))), at(t0, 120));
        assert_eq!(busy.tick(at(t0, 121)), None);
        busy.hold(Holds::default(), at(t0, 122));
        assert_eq!(busy.deadline(), Some(at(t0, 100)));
        assert_eq!(busy.tick(at(t0, 122)), Some(Act::Terminate));
        assert_eq!(busy.all_gone(), Some(Act::Exit(ExitCause::MaxLifetime)));
    }

    #[test]
    fn an_orphan_that_works_is_one_from_the_end_of_its_work() {
        let t0 = Instant::now();
        let mut orphan = ending(t0);
        orphan.attached();
        orphan.hold(holds(Some(at(t0, 95)), None), t0);
        orphan.detached(at(t0, 10));
        assert_eq!(orphan.tick(at(t0, 70)), None);
        assert_eq!(orphan.deadline(), Some(at(t0, 100)));
        orphan.hold(holds(None, Some(at(t0, 95))), at(t0, 40));
        assert_eq!(
            orphan.deadline(),
            Some(at(t0, 90)),
            "its outcome holds nothing"
        );
        assert_eq!(orphan.tick(at(t0, 90)), Some(Act::Terminate));
        assert_eq!(orphan.all_gone(), Some(Act::Exit(ExitCause::Orphaned)));
    }

    #[test]
    fn an_agent_that_ended_while_nobody_was_there_leaves_its_answer_to_be_fetched() {
        let t0 = Instant::now();
        let mut left = ending(t0);
        left.hold(holds(None, Some(at(t0, 99))), t0);
        left.agent_ended(t0);
        assert_eq!(left.deadline(), Some(at(t0, 50)));
        assert_eq!(left.tick(at(t0, 20)), None);
        left.attached();
        assert_eq!(left.tick(at(t0, 60)), None);
        left.hold(Holds::default(), at(t0, 61));
        assert_eq!(
            left.tick(at(t0, 61)),
            Some(Act::Exit(ExitCause::AgentExited))
        );
    }

    #[test]
    fn lifetime_and_orphanhood() {
        let t0 = Instant::now();
        let mut old = ending(t0);
        old.attached();
        assert_eq!(old.tick(at(t0, 99)), None);
        assert_eq!(old.tick(at(t0, 100)), Some(Act::Terminate));
        assert_eq!(old.all_gone(), Some(Act::Exit(ExitCause::MaxLifetime)));
        let mut orphan = ending(t0);
        assert_eq!(orphan.deadline(), Some(at(t0, 50)));
        orphan.attached();
        orphan.detached(at(t0, 30));
        assert_eq!(orphan.tick(at(t0, 79)), None);
        assert_eq!(orphan.tick(at(t0, 80)), Some(Act::Terminate));
        assert_eq!(orphan.all_gone(), Some(Act::Exit(ExitCause::Orphaned)));
    }
}
