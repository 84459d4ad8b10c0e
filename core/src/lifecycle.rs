//! The life of one session, as a pure state machine.
//!
//! ```text
//!  new ─▶ Launching ──attached──▶ Starting ──healthy──▶ Live (Ready ⇄ Busy)
//!            │fault/stop/timeout     │exit/stop/timeout     │stop│idle│lifetime│unhealthy│exit│oom
//!            ▼                       ▼                      ▼
//!         Killing ◀──grace over── Draining ◀────────────────┘
//!            │ gone                  │ gone
//!            └────────▶ Removing ◀───┘      ──torn down──▶ Over
//!
//!  Live ⇄ Frozen, see [`freeze`] and, for who freezes it, [`ladder`]; whatever ends a live session ends a frozen one
//! ```
//!
//! - **Launching ▸ Starting**: the sandbox is made and the shim has answered the handshake. A launch that fails goes to
//!   `Removing` directly: there is no process, but there may be a cgroup. A session that an earlier daemon launched begins
//!   here too, with its age, and is Live with the handshake if its agent was ([`Event::Found`]).
//! - **Starting ▸ Live**: the first healthy answer. Until then nobody's invocation is relayed.
//! - **Live**: work in flight (invocations, streams, execs) or `HealthyBusy` is activity. Idle time counts from the last end
//!   of work or the last change of health, whichever is later; the agent's own `time_of_last_update` is not believed,
//!   because stamping "now" on each ping would keep a session for ever (contract §1.2). A failing `/ping` ends the
//!   session only after `unhealthy_after` without work in flight: a server that blocks while it works is slow, not dead.
//!   Its **lifetime** is never reset, but work may hold it off up to a deadline of its own ([`Session::hold`]): a task that may
//!   take longer than a session lives. Other work that begins meanwhile ends with the session when the hold is over.
//! - **Leaving** (told as draining): the agent has ended, and work that holds the session takes what is left of its answers: at
//!   most [`FETCH`], then Draining. Without such work an agent that ends leads to Draining directly. No new work either way.
//! - **Draining**: the shim has been told to end (TERM ▸ grace ▸ KILL inside). No new work. If it is not gone shortly after
//!   the grace period, **Killing**: the launcher kills the cgroup.
//! - **Removing**: processes are gone; cgroup, socket and directory go; the final usage comes back.
//! - **Over**: the permit is given back. Exactly one [`EndReason`], the first that applied.
//!
//! [`Session::step`] takes the moment and an event and says which effects to perform; completions come back as events.

use crate::moment::Moment;
use proto::api::{EndReason, Phase};
use std::time::Duration;

mod ending;
pub mod freeze;
pub mod ladder;
mod words;

pub use words::{Effect, Event, Health, Policy, Refusal};

use freeze::Frozen;

/// After the grace period, how long the shim may take to go before the launcher kills the cgroup.
const KILL_MARGIN: Duration = Duration::from_secs(2);

/// After the kill, how long to wait for the exit notice before removing anyway (removal kills and waits by itself).
const REMOVE_MARGIN: Duration = Duration::from_secs(5);

/// How long answers may be fetched when their agent has ended. They are in the shim's memory by then, or fail.
const FETCH: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Launching,
    Starting,
    Live {
        idle_since: Moment,
        busy: bool,
        unhealthy_since: Option<Moment>,
    },
    Frozen(Frozen),
    Leaving {
        end: End,
        until: Moment,
    },
    Draining {
        end: End,
        kill_at: Moment,
    },
    Killing {
        end: End,
        remove_at: Moment,
    },
    Removing {
        end: End,
    },
    Over {
        end: End,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    reason: EndReason,
    was_live: bool,
}

/// One session.
#[derive(Debug, Clone)]
pub struct Session {
    policy: Policy,
    created: Moment,
    /// Since when its start takes its time.
    begun: Moment,
    in_flight: u32,
    /// Until when work holds it, one for each; as many as are in flight at most.
    holds: Vec<Moment>,
    last_activity: Moment,
    /// Not for idleness.
    not_frozen_before: Moment,
    state: State,
}

impl Session {
    /// A session whose launch has been ordered at `now`.
    #[must_use]
    pub fn new(now: Moment, policy: Policy) -> Self {
        Self {
            policy,
            created: now,
            begun: now,
            in_flight: 0,
            holds: Vec::new(),
            last_activity: now,
            not_frozen_before: Moment(0),
            state: State::Launching,
        }
    }

    /// A session that an earlier daemon launched so long ago. Its lifetime goes on; for the handshake, and for an agent that
    /// was not healthy yet, it has the time of a start once more.
    #[must_use]
    pub fn adopted(now: Moment, age: Duration, policy: Policy) -> Self {
        Self {
            created: now.before(age),
            ..Self::new(now, policy)
        }
    }

    /// Where it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Launching => Phase::Launching,
            State::Starting => Phase::Starting,
            State::Live { busy, .. } if busy || self.in_flight > 0 => Phase::Busy,
            State::Live { .. } => Phase::Ready,
            State::Frozen(_) => Phase::Frozen,
            State::Leaving { .. }
            | State::Draining { .. }
            | State::Killing { .. }
            | State::Removing { .. } => Phase::Draining,
            State::Over { end } if end.was_live => Phase::Ended,
            State::Over { .. } => Phase::Failed,
        }
    }

    /// Whether its agent said `HealthyBusy` last. Work in flight does not count: it is the daemon's to know, and an agent's
    /// ping does not tell of it (contract §1.2).
    #[must_use]
    pub fn says_busy(&self) -> bool {
        matches!(self.state, State::Live { busy: true, .. })
    }

    /// Why it ends or ended.
    #[must_use]
    pub fn end_reason(&self) -> Option<EndReason> {
        self.end().map(|end| end.reason)
    }

    /// Whether it ever became healthy; meaningful once it ends.
    #[must_use]
    pub fn was_live(&self) -> bool {
        match self.state {
            State::Launching | State::Starting => false,
            State::Live { .. } | State::Frozen(_) => true,
            State::Leaving { end, .. }
            | State::Draining { end, .. }
            | State::Killing { end, .. }
            | State::Removing { end }
            | State::Over { end } => end.was_live,
        }
    }

    /// Invocations, streams and execs in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Last begin or end of work.
    #[must_use]
    pub fn last_activity(&self) -> Moment {
        self.last_activity
    }

    /// Work that is in flight must not be cut off by the session's lifetime before `until`.
    pub fn hold(&mut self, until: Moment) {
        self.holds.push(until);
    }

    /// The work of one [`Self::hold`] has ended, or needs it no longer. Say it before [`Event::WorkEnds`].
    pub fn release(&mut self, until: Moment) {
        if let Some(at) = self.holds.iter().position(|hold| *hold == until) {
            self.holds.swap_remove(at);
        }
    }

    /// When it has lived long enough.
    fn lifetime(&self) -> Moment {
        let own = self.created + self.policy.max_lifetime;
        self.holds
            .iter()
            .fold(own, |latest, hold| latest.max(*hold))
    }

    /// When to send [`Event::Tick`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        let lifetime = self.lifetime();
        match self.state {
            State::Launching | State::Starting => {
                Some(lifetime.min(self.begun + self.policy.start_timeout))
            }
            State::Live { .. } => [
                Some(lifetime),
                self.idle_deadline(),
                self.unhealthy_deadline(),
                self.weighing(),
            ]
            .into_iter()
            .flatten()
            .min(),
            State::Frozen(_) => [Some(lifetime), self.idle_deadline()]
                .into_iter()
                .flatten()
                .min(),
            State::Leaving { until, .. } => Some(until),
            State::Draining { kill_at, .. } => Some(kill_at),
            State::Killing { remove_at, .. } => Some(remove_at),
            State::Removing { .. } | State::Over { .. } => None,
        }
    }

    /// Asks for work to begin; `Ok` counts it as in flight until [`Event::WorkEnds`].
    pub fn begin_work(&mut self, now: Moment) -> Result<Vec<Effect>, Refusal> {
        match self.state {
            State::Launching | State::Starting => Err(Refusal::NotReady),
            State::Live { .. } => Ok(self.step(now, Event::WorkBegins)),
            State::Frozen(frozen) if frozen.holds.is_none() => Err(Refusal::Asleep),
            State::Frozen(frozen) => Err(Refusal::Frozen(frozen.holds)),
            State::Leaving { .. }
            | State::Draining { .. }
            | State::Killing { .. }
            | State::Removing { .. }
            | State::Over { .. } => Err(Refusal::Ending),
        }
    }

    /// Takes one event. Events that come too late (work that ends after the session did, a second stop) change nothing.
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        let before = (self.phase(), self.end_reason());
        let mut effects = self.transition(now, event);
        if (self.phase(), self.end_reason()) != before {
            // First, so that a watcher sees the new phase before any effect's completion.
            effects.insert(0, Effect::Publish);
        }
        effects
    }

    fn transition(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        match event {
            Event::Attached => {
                if self.state == State::Launching {
                    self.state = State::Starting;
                }
                if matches!(self.state, State::Frozen(_)) {
                    // Its start goes on, with all its time once more.
                    self.begun = now;
                    self.thawed_anew(now, State::Starting);
                }
                Vec::new()
            }
            Event::Found { idle } => {
                let idle_since = now.before(idle).max(self.created);
                let live = State::Live {
                    idle_since,
                    busy: false,
                    unhealthy_since: None,
                };
                if self.state == State::Launching {
                    self.last_activity = idle_since;
                    self.state = live;
                }
                self.thawed_anew(now, live);
                Vec::new()
            }
            Event::FoundFrozen { holds, idle } => {
                self.found_frozen(now, holds, idle);
                Vec::new()
            }
            Event::Froze => self.froze(),
            Event::FreezeFailed => {
                self.freeze_failed(now);
                Vec::new()
            }
            Event::Thawed => {
                self.thawed(now);
                Vec::new()
            }
            Event::Weighed(quiet) => self.weighed(now, quiet),
            Event::LaunchFailed => match self.state {
                State::Launching | State::Starting => self.remove(EndReason::LaunchFailed),
                // It was killed on its way: no exit notice comes of what was not there.
                State::Killing { end, .. } => self.remove(end.reason),
                State::Live { .. }
                | State::Frozen(_)
                | State::Leaving { .. }
                | State::Draining { .. }
                | State::Removing { .. }
                | State::Over { .. } => Vec::new(),
            },
            Event::Health(health) => {
                self.health(now, health);
                Vec::new()
            }
            Event::WorkBegins => {
                self.in_flight += 1;
                self.last_activity = now;
                Vec::new()
            }
            Event::WorkEnds => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.last_activity = now;
                match &mut self.state {
                    State::Live {
                        idle_since,
                        unhealthy_since,
                        ..
                    } => {
                        *idle_since = now;
                        // A server that could not answer while it worked gets its full time again.
                        *unhealthy_since = unhealthy_since.map(|_| now);
                    }
                    State::Frozen(frozen) => frozen.work_ended(now),
                    State::Leaving { end, .. } if self.holds.is_empty() => {
                        let reason = end.reason;
                        return self.drain(now, reason);
                    }
                    State::Launching
                    | State::Starting
                    | State::Leaving { .. }
                    | State::Draining { .. }
                    | State::Killing { .. }
                    | State::Removing { .. }
                    | State::Over { .. } => {}
                }
                Vec::new()
            }
            Event::Stop(reason) => self.drain(now, reason),
            Event::AgentExited => self.agent_exited(now),
            Event::OutOfMemory => self.kill(now, EndReason::OutOfMemory),
            Event::ProtocolFault => self.kill(now, EndReason::Protocol),
            Event::Gone => match self.state {
                State::Launching | State::Starting | State::Live { .. } | State::Frozen(_) => {
                    self.remove(EndReason::ShimDied)
                }
                State::Leaving { end, .. }
                | State::Draining { end, .. }
                | State::Killing { end, .. } => self.remove(end.reason),
                State::Removing { .. } | State::Over { .. } => Vec::new(),
            },
            Event::TornDown => match self.state {
                State::Removing { end } => {
                    self.state = State::Over { end };
                    vec![Effect::Release]
                }
                State::Launching
                | State::Starting
                | State::Live { .. }
                | State::Frozen(_)
                | State::Leaving { .. }
                | State::Draining { .. }
                | State::Killing { .. }
                | State::Over { .. } => Vec::new(),
            },
            Event::Tick => self.tick(now),
        }
    }

    fn tick(&mut self, now: Moment) -> Vec<Effect> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        match self.state {
            State::Launching | State::Starting => {
                if now >= self.lifetime() {
                    self.drain(now, EndReason::MaxLifetime)
                } else {
                    self.drain(now, EndReason::StartTimeout)
                }
            }
            State::Live { .. } => {
                let over = |at: Option<Moment>| at.is_some_and(|at| now >= at);
                let reason = if now >= self.lifetime() {
                    EndReason::MaxLifetime
                } else if over(self.unhealthy_deadline()) {
                    EndReason::Unhealthy
                } else if over(self.idle_deadline()) {
                    EndReason::Idle
                } else {
                    return vec![Effect::Weigh];
                };
                self.drain(now, reason)
            }
            State::Frozen(_) => self.drain(now, self.frozen_reason(now)),
            State::Leaving { end, .. } => self.drain(now, end.reason),
            State::Draining { end, .. } => self.kill(now, end.reason),
            State::Killing { end, .. } => self.remove(end.reason),
            State::Removing { .. } | State::Over { .. } => Vec::new(),
        }
    }

    fn health(&mut self, now: Moment, health: Health) {
        match (&mut self.state, health) {
            (State::Starting, Health::Healthy | Health::HealthyBusy) => {
                self.last_activity = now;
                self.state = State::Live {
                    idle_since: now,
                    busy: health == Health::HealthyBusy,
                    unhealthy_since: None,
                };
            }
            (
                State::Live {
                    idle_since,
                    busy,
                    unhealthy_since,
                },
                Health::Healthy | Health::HealthyBusy,
            ) => {
                let busy_now = health == Health::HealthyBusy;
                if *busy != busy_now || unhealthy_since.is_some() {
                    *idle_since = now;
                }
                *busy = busy_now;
                *unhealthy_since = None;
            }
            (
                State::Live {
                    busy,
                    unhealthy_since,
                    ..
                },
                Health::Unhealthy,
            ) => {
                *busy = false;
                unhealthy_since.get_or_insert(now);
            }
            (State::Frozen(frozen), health) => frozen.health(now, health),
            (
                State::Launching
                | State::Starting
                | State::Leaving { .. }
                | State::Draining { .. }
                | State::Killing { .. }
                | State::Removing { .. }
                | State::Over { .. },
                _,
            ) => {}
        }
    }

    fn idle_deadline(&self) -> Option<Moment> {
        Some(self.idle_since()? + self.policy.idle_timeout)
    }

    fn unhealthy_deadline(&self) -> Option<Moment> {
        match self.state {
            State::Live {
                unhealthy_since: Some(since),
                ..
            } if self.in_flight == 0 => Some(since + self.policy.unhealthy_after),
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
}
