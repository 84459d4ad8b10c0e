//! Freeze and thaw. A freeze is mostly done at once; a process in the middle of a system call that cannot be interrupted puts
//! it off, and is looked at with every tick, so that nobody else waits for it.

use super::orders::cgroup_fault;
use super::{Launcher, host_fault};
use crate::launcher::message::{OrderFault, Reply};
use crate::launcher::session::Freezing;
use nix::errno::Errno;
use proto::ids::SessionId;
use std::time::{Duration, Instant};

/// How long a freeze may take before everything is let go again.
const PATIENCE: Duration = Duration::from_secs(5);

impl Launcher {
    /// Begins to freeze a session; the answer comes when all of it stands still.
    pub(super) fn freeze(&mut self, number: u64, id: &SessionId) -> Result<(), OrderFault> {
        let session = self.sessions.get_mut(id).ok_or(OrderFault::Unknown)?;
        if !session.is_launched() || session.removal.is_some() {
            return Err(OrderFault::Refused(format!("{id} does not run")));
        }
        if session.freezing.is_some() {
            return Err(OrderFault::Refused(format!("{id} is being frozen already")));
        }
        session.freezing = Some(Freezing {
            order: number,
            began: Instant::now(),
        });
        self.look_at_freezing(id);
        Ok(())
    }

    /// Thaws a session, also one that is being frozen.
    pub(super) fn thaw(&mut self, id: &SessionId) -> Result<(), OrderFault> {
        self.give_up_freezing(id, "it was thawed");
        let session = self.sessions.get(id).ok_or(OrderFault::Unknown)?;
        session.cgroup.thaw().map_err(|e| cgroup_fault(&e))
    }

    pub(super) fn advance_freezing(&mut self) {
        let freezing = self.sessions.iter();
        let freezing: Vec<SessionId> = freezing
            .filter(|(_, session)| session.freezing.is_some())
            .map(|(id, _)| id.clone())
            .collect();
        for id in freezing {
            self.look_at_freezing(&id);
        }
    }

    fn look_at_freezing(&mut self, id: &SessionId) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let Some(freezing) = session.freezing else {
            return;
        };
        let outcome = match session.cgroup.try_freeze() {
            Ok(true) => Ok(Reply::Done),
            Ok(false) if freezing.began.elapsed() < PATIENCE => return,
            Ok(false) => Err(host_fault(
                "not all of its processes can be frozen just now",
                Errno::EBUSY as i32,
            )),
            Err(error) => Err(cgroup_fault(&error)),
        };
        session.freezing = None;
        if outcome.is_err()
            && let Err(error) = session.cgroup.thaw()
        {
            tracing::error!(session_id = %id, error = %error, "thaw after a freeze that failed");
        }
        self.reply(freezing.order, outcome, None);
    }

    /// Answers a freeze that will not be done.
    pub(super) fn give_up_freezing(&mut self, id: &SessionId, why: &'static str) {
        let freezing = self.sessions.get_mut(id).and_then(|s| s.freezing.take());
        if let Some(freezing) = freezing {
            let fault = host_fault(why, Errno::ECANCELED as i32);
            self.reply(freezing.order, Err(fault), None);
        }
    }
}
