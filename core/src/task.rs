//! An asynchronous task: from its turn to its one outcome.
//!
//! ```text
//!            Turn              Obtained              Answered(ok)
//!  Queued ─────────▶ Starting ──────────▶ Running ───────────────▶ Succeeded
//!    ▲                  │                   │
//!    ├── Busy ──────────┤                   │   (nothing was sent: no attempt)
//!    ├── Unsent ────────────────────────────┤   (sent, and certainly not seen by the agent)
//!    └── a retry, if one is left ───────────┤
//!                                           └─▶ Failed (Agent) · Lost (Interrupted) · Cancelled (Stopped)
//!  any of the three ── Cancel ─▶ Cancelled        any of the three ── Deadline ─▶ TimedOut
//! ```
//!
//! - **Queued** waits for its turn, not before a moment of its own. A deadline ends it there like anywhere else.
//! - **Starting** obtains a session. The agent has seen nothing, so whatever goes wrong for want of room sends it back to wait, as
//!   often as it takes until the deadline. An agent that cannot be started is the agent's failure.
//! - **Running**: written down *before* the first byte is sent. From here on the agent may have acted, so nothing sends it again
//!   but a retry that its submitter has allowed, or the certainty that the agent has seen nothing.
//! - An interruption (of the daemon, of the host) without a retry is **Lost**: nobody knows what came of it.
//! - An operator's stop of the session is a **Cancelled** task, and no retry follows it: stop means stop.
//!
//! Whoever performs the effects does so in their order; [`Effect::Record`] is on disk before the next one is begun. Moments here
//! are civil time (milliseconds since 1970), because a deadline outlives the daemon.

use crate::moment::Moment;
use std::time::Duration;

/// The longest pause between two attempts.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(3600);

/// A task's one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The agent's whole answer is kept.
    Succeeded,
    /// The agent failed.
    Failed,
    /// Somebody ended it.
    Cancelled,
    /// Its deadline was over.
    TimedOut,
    /// Interrupted while an agent had it.
    Lost,
}

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Waits for its turn.
    Queued {
        /// And not less than until then.
        not_before: Moment,
    },
    /// Obtains a session.
    Starting,
    /// The agent has it, or may have.
    Running,
    /// Over.
    Ended(Outcome),
}

/// What may be done with a task, as its submitter said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Attempts that may follow one that failed.
    pub retries: u32,
    /// Before the first of them; twice as long before each further one.
    pub backoff: Duration,
    /// When it is over, done or not.
    pub deadline: Moment,
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    terms: Terms,
    state: State,
    attempts: u32,
    retried: u32,
}

/// What happens to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It is its turn.
    Turn,
    /// It has a session.
    Obtained,
    /// It has none.
    NotObtained(Hindrance),
    /// The agent's answer is here, and kept: whether it is a success.
    Answered {
        /// A status below 400.
        ok: bool,
    },
    /// There is no answer, or not all of it.
    Broke(Cause),
    /// Somebody wants it ended.
    Cancel,
    /// Its deadline is here.
    Deadline,
    /// A new daemon finds it.
    Found {
        /// Its invocation goes on all the same.
        kept: bool,
    },
}

/// Why a task has no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hindrance {
    /// Want of room, or of an answer to whether there is any.
    Busy {
        /// When to ask again.
        again: Duration,
    },
    /// Its agent cannot be started.
    Agent,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The agent has certainly seen nothing of it.
    Unsent {
        /// When to try again.
        again: Duration,
    },
    /// The agent's own doing.
    Agent,
    /// Its session was stopped by somebody who may.
    Stopped,
    /// The daemon, the host, or what is between them and the agent.
    Interrupted,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Write the state down, durably, before anything else.
    Record,
    /// Obtain a session.
    Obtain,
    /// Send the request.
    Send,
    /// Go on with the invocation that was kept.
    Resume,
    /// End what is under way: the agent is told.
    Abort,
}

impl Task {
    /// One that was just submitted.
    #[must_use]
    pub const fn submitted(terms: Terms, now: Moment) -> Self {
        Self {
            terms,
            state: State::Queued { not_before: now },
            attempts: 0,
            retried: 0,
        }
    }

    /// One as it was written down.
    #[must_use]
    pub const fn read(terms: Terms, state: State, attempts: u32, retried: u32) -> Self {
        Self {
            terms,
            state,
            attempts,
            retried,
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Attempts that have begun: how often it was sent to an agent, or an agent could not be started for it.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Retries that were used.
    #[must_use]
    pub const fn retried(&self) -> u32 {
        self.retried
    }

    /// What its submitter said.
    #[must_use]
    pub const fn terms(&self) -> Terms {
        self.terms
    }

    /// Its outcome, if it has one.
    #[must_use]
    pub const fn outcome(&self) -> Option<Outcome> {
        match self.state {
            State::Ended(outcome) => Some(outcome),
            State::Queued { .. } | State::Starting | State::Running => None,
        }
    }

    /// Takes an event; what is to be done over it, in order. An event that does not fit the state is one that came too late,
    /// and changes nothing.
    pub fn step(&mut self, now: Moment, event: Event) -> &'static [Effect] {
        match (self.state, event) {
            (State::Ended(_), _) => &[],
            (State::Queued { .. }, Event::Cancel) => self.end(Outcome::Cancelled),
            (State::Starting | State::Running, Event::Cancel) => self.abort(Outcome::Cancelled),
            (State::Queued { .. }, Event::Deadline) => self.end(Outcome::TimedOut),
            (State::Starting | State::Running, Event::Deadline) => self.abort(Outcome::TimedOut),
            (State::Queued { .. }, Event::Turn) => {
                if now >= self.terms.deadline {
                    return self.end(Outcome::TimedOut);
                }
                self.state = State::Starting;
                &[Effect::Record, Effect::Obtain]
            }
            (State::Starting, Event::Obtained) => {
                self.attempts = self.attempts.saturating_add(1);
                self.state = State::Running;
                &[Effect::Record, Effect::Send]
            }
            (State::Starting, Event::NotObtained(Hindrance::Busy { again }))
            | (State::Running, Event::Broke(Cause::Unsent { again })) => self.wait(now + again),
            (State::Starting, Event::NotObtained(Hindrance::Agent)) => {
                self.attempts = self.attempts.saturating_add(1);
                self.retry_or(now, Outcome::Failed)
            }
            (State::Starting, Event::Found { .. }) => self.wait(now),
            (State::Running, Event::Answered { ok: true }) => self.end(Outcome::Succeeded),
            (State::Running, Event::Answered { ok: false } | Event::Broke(Cause::Agent)) => {
                self.retry_or(now, Outcome::Failed)
            }
            (State::Running, Event::Broke(Cause::Stopped)) => self.end(Outcome::Cancelled),
            (State::Running, Event::Broke(Cause::Interrupted) | Event::Found { kept: false }) => {
                self.retry_or(now, Outcome::Lost)
            }
            (State::Running, Event::Found { kept: true }) => &[Effect::Resume],
            (
                State::Queued { .. },
                Event::Obtained
                | Event::NotObtained(_)
                | Event::Answered { .. }
                | Event::Broke(_)
                | Event::Found { .. },
            )
            | (State::Starting, Event::Turn | Event::Answered { .. } | Event::Broke(_))
            | (State::Running, Event::Turn | Event::Obtained | Event::NotObtained(_)) => &[],
        }
    }

    fn end(&mut self, outcome: Outcome) -> &'static [Effect] {
        self.state = State::Ended(outcome);
        &[Effect::Record]
    }

    fn abort(&mut self, outcome: Outcome) -> &'static [Effect] {
        self.state = State::Ended(outcome);
        &[Effect::Record, Effect::Abort]
    }

    fn wait(&mut self, not_before: Moment) -> &'static [Effect] {
        self.state = State::Queued { not_before };
        &[Effect::Record]
    }

    /// A retry that could not begin before the deadline is none.
    fn retry_or(&mut self, now: Moment, outcome: Outcome) -> &'static [Effect] {
        let not_before = now + self.pause();
        if self.retried >= self.terms.retries || not_before >= self.terms.deadline {
            return self.end(outcome);
        }
        self.retried = self.retried.saturating_add(1);
        self.wait(not_before)
    }

    /// Before the next retry.
    fn pause(&self) -> Duration {
        let doubled = 2_u32.saturating_pow(self.retried);
        let pause = self.terms.backoff.checked_mul(doubled);
        pause.map_or(LONGEST_BACKOFF, |pause| pause.min(LONGEST_BACKOFF))
    }
}
