//! The end of a session: kill ▸ (thaw) ▸ wait until nobody is left ▸ leave its storage ▸ final counters and exit record ▸ keep them as
//! its last word ▸ remove cgroup, socket and record ▸ answer. Mounts, network and the other namespaces are the kernel's to free: nothing on the host refers to
//! them.
//!
//! What is not over at once is looked at with every tick. Nothing here waits but [`Launcher::give_up_parked`], at the end of
//! the launcher's own life: every other session would wait with it.

use super::orders::{cgroup_fault, own_counters};
use super::{Launcher, host_fault};
use crate::launcher::message::{OrderFault, Reply};
use crate::launcher::session::{Farewell, Phase, Remains, Removal, Session};
use proto::ids::SessionId;
use sandbox::sys::errno_of;
use std::time::{Duration, Instant};

/// How long a session may take to go before the answer is a fault. A process in uninterruptible sleep can take for ever to
/// die, and its cgroup as long to be free; the removal goes on.
const PATIENCE: Duration = Duration::from_secs(30);

/// The same for a stager when the launcher itself ends.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

impl Launcher {
    /// Kills the session and remembers whom to tell when it is gone.
    pub(super) fn remove(&mut self, id: &SessionId, farewell: Farewell) {
        self.begin_removal(id);
        if let Some(removal) = self.sessions.get_mut(id).and_then(|s| s.removal.as_mut()) {
            removal.farewells.push(farewell);
        }
        // Mostly it is over at once, without a tick.
        self.advance(id);
    }

    /// The same where nobody waits for it.
    pub(super) fn give_up(&mut self, id: &SessionId) {
        self.begin_removal(id);
        self.advance(id);
    }

    fn begin_removal(&mut self, id: &SessionId) {
        self.give_up_freezing(id, "it is being removed");
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        session.removal.get_or_insert_with(|| Removal {
            began: Instant::now(),
            farewells: Vec::new(),
            remains: None,
        });
        if let Err(error) = session.cgroup.kill() {
            tracing::error!(session_id = %id, error = %error, "kill");
        }
        if let Phase::Parked { stager, .. } | Phase::Launching { stager, .. } = &session.phase {
            stager.kill();
        }
        // Its end is an event, which ends the launch that it worked for.
        if let Some(opening) = &session.opening {
            opening.steward.kill();
        }
    }

    pub(super) fn advance_removals(&mut self) {
        let leaving: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.removal.is_some())
            .map(|(id, _)| id.clone())
            .collect();
        for id in leaving {
            self.advance(&id);
        }
    }

    pub(super) fn advance(&mut self, id: &SessionId) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        if session.has_process() || session.cgroup.wait_empty(Instant::now()).is_err() {
            // On v1 without a unified hierarchy a process may have been forked past the first kill.
            let _ = session.cgroup.kill();
            return self.complain_if_late(id, "its processes do not die");
        }
        // Its end brings the removal on.
        if self.leave_storage(id) {
            return self.complain_if_late(id, "its storage is not let go");
        }
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        if let Some((key, oom)) = session.oom.take() {
            let _ = self.epoll.delete(oom);
            self.sources.remove(&key);
        }
        self.unwatch_life(id);
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let Some(removal) = &mut session.removal else {
            return;
        };
        if removal.remains.is_none() {
            let counters = session.cgroup.counters().map(own_counters);
            let usage = counters.unwrap_or_default();
            let record = session.endpoint.record();
            // Where nobody waits nobody would ever forget it.
            let awaited = !removal.farewells.is_empty() && session.endpoint.is_there();
            if awaited && let Err(error) = session.endpoint.keep(&(usage, record)) {
                tracing::warn!(session_id = %id, error = %error, "the last word of a session is not kept in case that this daemon is killed now");
            }
            removal.remains = Some(Remains { usage, record });
        }
        let outcome = match session.cgroup.remove(Instant::now()) {
            Err(fault) if fault.is_busy() => {
                return self.complain_if_late(id, "its cgroup stays busy");
            }
            Err(fault) => Err(cgroup_fault(&fault)),
            Ok(()) => session.endpoint.remove().map_err(|error| {
                host_fault("cannot remove socket and exit record", errno_of(&error))
            }),
        };
        let Some(removal) = session.removal.take() else {
            return;
        };
        if outcome.is_ok() {
            self.sessions.remove(id);
        }
        self.part(id, removal, &outcome);
    }

    /// Tells everyone who waits how a removal went.
    fn part(&mut self, id: &SessionId, removal: Removal, outcome: &Result<(), OrderFault>) {
        let (usage, record) = removal
            .remains
            .map_or_else(Default::default, |left| (left.usage, left.record));
        for farewell in removal.farewells {
            match farewell {
                Farewell::Removed { order } => {
                    let reply = outcome.clone().map(|()| Reply::Removed { usage, record });
                    self.reply(order, reply, None);
                }
                Farewell::Failed { order, fault } => {
                    if let Err(left) = outcome {
                        tracing::error!(session_id = %id, fault = %left, "clear away a failed launch");
                    }
                    self.reply(order, Err(fault), None);
                }
            }
        }
    }

    /// Answers those who have waited too long; the removal itself goes on.
    fn complain_if_late(&mut self, id: &SessionId, why: &'static str) {
        let Some(removal) = self.sessions.get_mut(id).and_then(|s| s.removal.as_mut()) else {
            return;
        };
        if removal.began.elapsed() < PATIENCE {
            return;
        }
        for farewell in std::mem::take(&mut removal.farewells) {
            let (Farewell::Removed { order } | Farewell::Failed { order, .. }) = farewell;
            let fault = host_fault(why, nix::errno::Errno::EBUSY as i32);
            self.reply(order, Err(fault), None);
        }
    }

    /// At the end of the launcher's life: prepared places are nobody's sessions.
    pub(super) fn give_up_parked(&self) {
        for (id, session) in &self.sessions {
            let Phase::Parked { stager, .. } = &session.phase else {
                continue;
            };
            stager.kill();
            stager.wait(LAST_PATIENCE);
            let deadline = Instant::now() + LAST_PATIENCE;
            let emptied = session.cgroup.wait_empty(deadline);
            if let Err(error) = emptied.and_then(|()| session.cgroup.remove(deadline)) {
                tracing::warn!(session_id = %id, error = %error, "prepared cgroup stays behind");
            }
        }
    }
}

impl Launcher {
    /// Removes the instance's own cgroup after an orderly end, unless sessions live on in it.
    pub(super) fn retire(&self) {
        let parked = |session: &Session| matches!(session.phase, Phase::Parked { .. });
        if !self.retiring || !self.sessions.values().all(parked) {
            return;
        }
        if let Err(error) = self.ground.cgroups.remove_self() {
            tracing::warn!(error = %error, "the instance's cgroup stays behind");
        }
    }
}
