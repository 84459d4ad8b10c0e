//! How a session ends: whoever asks first gives the reason, and everything after goes downhill only (the drawing is above, in
//! [`super`]).

use super::{Effect, End, EndReason, FETCH, KILL_MARGIN, REMOVE_MARGIN, Session, State};
use crate::moment::Moment;
use std::time::Duration;

impl Session {
    pub(super) fn end(&self) -> Option<End> {
        match self.state {
            State::Launching | State::Starting | State::Live { .. } | State::Frozen(_) => None,
            State::Leaving { end, .. }
            | State::Draining { end, .. }
            | State::Killing { end, .. }
            | State::Removing { end }
            | State::Over { end } => Some(end),
        }
    }

    /// The end, with the first reason that applied.
    pub(super) fn ending(&self, reason: EndReason) -> End {
        self.end().unwrap_or(End {
            reason,
            was_live: self.was_live(),
        })
    }

    pub(super) fn agent_exited(&mut self, now: Moment) -> Vec<Effect> {
        let reason = EndReason::AgentExited;
        match self.state {
            State::Live { .. } if !self.holds.is_empty() => {
                self.state = State::Leaving {
                    end: self.ending(reason),
                    until: now + FETCH,
                };
                Vec::new()
            }
            State::Leaving { .. } => Vec::new(),
            State::Launching
            | State::Starting
            | State::Live { .. }
            | State::Frozen(_)
            | State::Draining { .. }
            | State::Killing { .. }
            | State::Removing { .. }
            | State::Over { .. } => self.drain(now, reason),
        }
    }

    pub(super) fn drain(&mut self, now: Moment, reason: EndReason) -> Vec<Effect> {
        let end = self.ending(reason);
        match self.state {
            // No handshake yet, so nobody to say `shutdown` to.
            State::Launching => self.kill(now, reason),
            // Its grace would be time that its budget has not.
            State::Frozen(frozen) if frozen.holds.budget => self.kill(now, reason),
            State::Starting | State::Live { .. } | State::Frozen(_) | State::Leaving { .. } => {
                // An agent that exited by itself has nothing to save; what it left running gets no grace.
                let grace = match end.reason {
                    EndReason::AgentExited => Duration::ZERO,
                    EndReason::Stopped
                    | EndReason::Idle
                    | EndReason::Evicted
                    | EndReason::MaxLifetime
                    | EndReason::Unhealthy
                    | EndReason::OutOfMemory
                    | EndReason::ShimDied
                    | EndReason::Protocol
                    | EndReason::LaunchFailed
                    | EndReason::StartTimeout
                    | EndReason::DaemonStopped
                    | EndReason::DaemonLost => self.policy.stop_grace,
                };
                let mut effects = self.thaw_to_end();
                self.state = State::Draining {
                    end,
                    kill_at: now + grace + KILL_MARGIN,
                };
                effects.push(Effect::Shutdown(grace));
                effects
            }
            State::Draining { .. }
            | State::Killing { .. }
            | State::Removing { .. }
            | State::Over { .. } => Vec::new(),
        }
    }

    pub(super) fn kill(&mut self, now: Moment, reason: EndReason) -> Vec<Effect> {
        let end = self.ending(reason);
        match self.state {
            State::Launching
            | State::Starting
            | State::Live { .. }
            | State::Frozen(_)
            | State::Leaving { .. }
            | State::Draining { .. } => {
                self.state = State::Killing {
                    end,
                    remove_at: now + REMOVE_MARGIN,
                };
                vec![Effect::Kill]
            }
            State::Killing { .. } | State::Removing { .. } | State::Over { .. } => Vec::new(),
        }
    }

    pub(super) fn remove(&mut self, reason: EndReason) -> Vec<Effect> {
        let end = self.ending(reason);
        self.state = State::Removing { end };
        vec![Effect::Remove]
    }
}
