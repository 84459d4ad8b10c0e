//! Freezing: every process of a live session stops where it is, and goes on later as if nothing had been.
//!
//! ```text
//!  Live ──freeze──▶ Freezing ──froze──▶ Held ──thaw │ (idle only) work──▶ Thawing ──thawed──▶ Live
//!    ▲                 │ failed                                              │ its shim does not answer
//!    └─────────────────┘                                                     ▼ Killing
//! ```
//!
//! - **Who holds it.** An operator's or a budget's freeze is a hold: work is refused, with the way out, until whoever holds
//!   it lets go. Without a hold it was frozen for idleness, and any work thaws it. Both may hold it; an operator's thaw does
//!   not lift a budget's hold.
//! - **Work in flight** stalls, and its time goes on: an invocation's timeout is a promise to its caller.
//! - **Clocks.** A lifetime goes on whatever happens. Idle time and failing checks stand still while somebody holds it;
//!   frozen for idleness, idle time goes on and ends it.
//! - **Stop** thaws it, so that its agent hears the signal and has its grace, as `docker stop` of a paused container does. One
//!   that a budget holds is killed where it stands: a grace would be CPU time that nobody has approved.
//! - One that was found frozen by a daemon that came later has no link; its shim shakes hands when it thaws.

use super::{Effect, EndReason, Health, Session, State};
use crate::moment::Moment;
use proto::api::FreezeCause;
use std::time::Duration;

/// Who wants a session to stay frozen. Nobody: it is frozen for idleness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Holds {
    /// An operator.
    pub operator: bool,
    /// A budget that is used up.
    pub budget: bool,
}

impl Holds {
    /// The hold of one cause.
    #[must_use]
    pub fn by(cause: FreezeCause) -> Self {
        Self {
            operator: cause == FreezeCause::Operator,
            budget: cause == FreezeCause::Budget,
        }
    }

    /// The holds of these causes.
    #[must_use]
    pub fn of(causes: &[FreezeCause]) -> Self {
        let none = Self::default();
        causes
            .iter()
            .fold(none, |holds, cause| holds.and(Self::by(*cause)))
    }

    /// Whether nobody holds it.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// As causes, never none.
    #[must_use]
    pub fn causes(self) -> Vec<FreezeCause> {
        let mut causes = Vec::new();
        if self.operator {
            causes.push(FreezeCause::Operator);
        }
        if self.budget {
            causes.push(FreezeCause::Budget);
        }
        if causes.is_empty() {
            causes.push(FreezeCause::Idle);
        }
        causes
    }

    fn and(self, other: Self) -> Self {
        Self {
            operator: self.operator || other.operator,
            budget: self.budget || other.budget,
        }
    }

    fn without(self, other: Self) -> Self {
        Self {
            operator: self.operator && !other.operator,
            budget: self.budget && !other.budget,
        }
    }
}

/// Why a session is not frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoFreeze {
    /// It has not been healthy yet.
    NotReady,
    /// Only of a freeze for idleness: it works.
    Working,
    /// It is ending or over.
    Ending,
}

/// Why a session is not thawed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoThaw {
    /// Somebody else holds it.
    Held(Holds),
    /// It is ending or over.
    Ending,
}

/// What has been ordered, and what has come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The launcher has been told; `back`: it is wanted again already.
    Freezing { back: bool },
    /// Nothing in it runs.
    Held,
    /// The launcher has been told, and the shim is.
    Thawing,
}

/// What a live session was when it was frozen, and what has become of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frozen {
    pub(super) step: Step,
    pub(super) holds: Holds,
    /// Since when its clocks stand still.
    stands_since: Option<Moment>,
    idle_since: Moment,
    busy: bool,
    unhealthy_since: Option<Moment>,
    /// It was found frozen, and whether its agent was ever healthy is for its shim to say.
    found: bool,
}

impl Frozen {
    /// As it is once it runs again.
    fn live(self, now: Moment) -> State {
        let stood = |since: Moment| match self.stands_since {
            // It goes on where it stood; work that ended meanwhile ends now.
            Some(stands) => now.before(stands - since),
            None => since,
        };
        State::Live {
            idle_since: stood(self.idle_since),
            busy: self.busy,
            // Nobody could answer while nothing ran.
            unhealthy_since: self.unhealthy_since.map(|_| now),
        }
    }

    /// Since when it is idle, if that is to end it.
    pub(super) fn idle_since(self) -> Option<Moment> {
        (self.holds.is_none() && !self.busy).then_some(self.idle_since)
    }

    pub(super) fn work_ended(&mut self, now: Moment) {
        self.idle_since = now;
    }

    /// Said before it was frozen, and heard after.
    pub(super) fn health(&mut self, now: Moment, health: Health) {
        self.busy = health == Health::HealthyBusy;
        match health {
            Health::Healthy | Health::HealthyBusy => self.unhealthy_since = None,
            Health::Unhealthy => {
                self.unhealthy_since.get_or_insert(now);
            }
        }
    }
}

impl Session {
    /// Freezes a live session, or adds a hold to one that is frozen. Without effects it is frozen already, or about to be.
    pub fn freeze(&mut self, now: Moment, cause: FreezeCause) -> Result<Vec<Effect>, NoFreeze> {
        let holds = Holds::by(cause);
        let working = self.in_flight > 0;
        match &mut self.state {
            State::Launching | State::Starting => Err(NoFreeze::NotReady),
            State::Live {
                idle_since,
                busy,
                unhealthy_since,
            } => {
                if cause == FreezeCause::Idle && (working || *busy) {
                    return Err(NoFreeze::Working);
                }
                self.state = State::Frozen(Frozen {
                    step: Step::Freezing { back: false },
                    holds,
                    stands_since: (!holds.is_none()).then_some(now),
                    idle_since: *idle_since,
                    busy: *busy,
                    unhealthy_since: *unhealthy_since,
                    found: false,
                });
                Ok(vec![Effect::Publish, Effect::Freeze])
            }
            State::Frozen(frozen) => {
                let thawing = frozen.step == Step::Thawing;
                if thawing && frozen.found {
                    // Until its shim has answered, nobody knows what there would be to freeze.
                    return Err(NoFreeze::NotReady);
                }
                if thawing && holds.is_none() {
                    return Err(NoFreeze::Working);
                }
                let before = frozen.holds;
                frozen.holds = before.and(holds);
                if !frozen.holds.is_none() {
                    frozen.stands_since.get_or_insert(now);
                }
                let changed = frozen.holds != before;
                match &mut frozen.step {
                    Step::Freezing { back } => *back &= holds.is_none(),
                    Step::Held => {}
                    // Orders are carried out one after another: it thaws first.
                    Step::Thawing => {
                        frozen.step = Step::Freezing { back: false };
                        return Ok(vec![Effect::Publish, Effect::Freeze]);
                    }
                }
                Ok(match changed {
                    true => vec![Effect::Publish, Effect::NoteHolds],
                    false => Vec::new(),
                })
            }
            State::Leaving { .. }
            | State::Draining { .. }
            | State::Killing { .. }
            | State::Removing { .. }
            | State::Over { .. } => Err(NoFreeze::Ending),
        }
    }

    /// Lets go of one cause's hold, and thaws a session that nobody holds any more. Without effects it is not frozen, or is
    /// about not to be.
    pub fn thaw(&mut self, now: Moment, cause: FreezeCause) -> Result<Vec<Effect>, NoThaw> {
        match &mut self.state {
            State::Launching | State::Starting | State::Live { .. } => Ok(Vec::new()),
            State::Frozen(frozen) => {
                let before = frozen.holds;
                frozen.holds = before.without(Holds::by(cause));
                if !frozen.holds.is_none() {
                    return if frozen.holds == before {
                        Err(NoThaw::Held(before))
                    } else {
                        Ok(vec![Effect::Publish, Effect::NoteHolds])
                    };
                }
                // From here on its idle clock is as it would be if it ran.
                if let Some(stands) = frozen.stands_since.take() {
                    frozen.idle_since = now.before(stands - frozen.idle_since);
                }
                match &mut frozen.step {
                    Step::Freezing { back } => {
                        *back = true;
                        Ok(Vec::new())
                    }
                    Step::Held => {
                        frozen.step = Step::Thawing;
                        Ok(vec![Effect::Thaw])
                    }
                    Step::Thawing => Ok(Vec::new()),
                }
            }
            State::Leaving { .. }
            | State::Draining { .. }
            | State::Killing { .. }
            | State::Removing { .. }
            | State::Over { .. } => Err(NoThaw::Ending),
        }
    }

    /// Who holds it, while it is frozen.
    #[must_use]
    pub fn frozen_by(&self) -> Option<Holds> {
        match self.state {
            State::Frozen(frozen) => Some(frozen.holds),
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

    /// Whether nothing in it runs, by the launcher's word.
    #[must_use]
    pub fn stands_still(&self) -> bool {
        matches!(self.state, State::Frozen(frozen) if frozen.step == Step::Held)
    }

    /// See [`super::Event::FoundFrozen`].
    pub(super) fn found_frozen(&mut self, now: Moment, holds: Holds, idle: Duration) {
        if self.state == State::Launching {
            self.state = State::Frozen(Frozen {
                step: Step::Held,
                holds,
                stands_since: (!holds.is_none()).then_some(now),
                idle_since: now.before(idle).max(self.created),
                busy: false,
                unhealthy_since: None,
                found: true,
            });
        }
    }

    /// Every process has stopped.
    pub(super) fn froze(&mut self) -> Vec<Effect> {
        match &mut self.state {
            State::Frozen(frozen) => {
                let Step::Freezing { back } = frozen.step else {
                    return Vec::new();
                };
                if back {
                    frozen.step = Step::Thawing;
                    return vec![Effect::Thaw];
                }
                frozen.step = Step::Held;
                Vec::new()
            }
            // It was told to end meanwhile, and is to hear it; on cgroup v1 the frozen do not even die.
            State::Leaving { .. } | State::Draining { .. } | State::Killing { .. } => {
                vec![Effect::Thaw]
            }
            State::Launching
            | State::Starting
            | State::Live { .. }
            | State::Removing { .. }
            | State::Over { .. } => Vec::new(),
        }
    }

    /// It could not be frozen, and runs.
    pub(super) fn freeze_failed(&mut self, now: Moment) {
        if let State::Frozen(frozen) = self.state
            && matches!(frozen.step, Step::Freezing { .. })
        {
            self.state = frozen.live(now);
            self.rest_later(now);
        }
    }

    /// It runs, and its shim is there.
    pub(super) fn thawed(&mut self, now: Moment) {
        if let State::Frozen(frozen) = self.state
            && frozen.step == Step::Thawing
            && !frozen.found
        {
            self.state = frozen.live(now);
            self.rest_later(now);
        }
    }

    /// The shim of one that was found frozen has answered the handshake: as [`super::Event::Attached`] and
    /// [`super::Event::Found`] of a session that runs.
    pub(super) fn thawed_anew(&mut self, now: Moment, state: State) {
        if let State::Frozen(frozen) = self.state
            && frozen.step == Step::Thawing
            && frozen.found
        {
            self.state = state;
            self.rest_later(now);
        }
    }

    /// The end of a frozen session begins with its thaw.
    pub(super) fn thaw_to_end(&self) -> Vec<Effect> {
        match self.state {
            State::Frozen(frozen) if frozen.step == Step::Held => vec![Effect::Thaw],
            // A freeze that is under way is undone when it is done, see `froze`; a thaw is one.
            State::Frozen(_)
            | State::Launching
            | State::Starting
            | State::Live { .. }
            | State::Leaving { .. }
            | State::Draining { .. }
            | State::Killing { .. }
            | State::Removing { .. }
            | State::Over { .. } => Vec::new(),
        }
    }

    /// Its reason to end for idleness or age, once its time has come.
    pub(super) fn frozen_reason(&self, now: Moment) -> EndReason {
        if now >= self.lifetime() {
            EndReason::MaxLifetime
        } else {
            EndReason::Idle
        }
    }
}
