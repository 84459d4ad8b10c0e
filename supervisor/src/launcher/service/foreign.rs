//! Sessions that an earlier launcher made. This one finds them by their cgroups, and the range of host uids of each by the
//! processes in it: the broker, which would know, is not believed about what keeps sessions apart.
//!
//! ```text
//! nobody in it                    ▸ no uids in use; it waits for the broker to fetch its exit record
//! a process of the block's uids   ▸ that range, until the session is removed: nobody in a session has uids of another
//! processes, but no such uids     ▸ not a session: its stager had not come that far. Ended and removed
//! cannot be told                  ▸ it lives on, and nothing is launched until it can be told
//! ```
//!
//! The third has no uid that could be given away twice, and is killed so that it never gets one; yet a stager may have
//! cloned a session between the look and the kill, so it is looked at again with every launch until it is gone. The fourth
//! may hold any range. Ending it would be safe too, but what cannot be read is the host's fault (no descriptor, no memory),
//! and would end sessions that people are using; while it lasts, a launch would fail anyhow.

use super::Launcher;
use crate::launcher::checks;
use crate::launcher::endpoint::Endpoint;
use crate::launcher::message::OrderFault;
use crate::launcher::session::{Phase, Session, Uids};
use proto::ids::SessionId;
use sandbox::cgroup::{CgroupError, Owner};
use std::io;
use std::time::{Duration, Instant};

/// How long the stagers of a launcher that has just been killed may take to follow it.
const STAGERS_DIE: Duration = Duration::from_secs(1);

impl Launcher {
    /// Before the first order: waits here are nobody's.
    pub(super) fn find_foreign(&mut self) -> io::Result<()> {
        // One for all of them: they were killed in one moment.
        let stagers_are_dead = Instant::now() + STAGERS_DIE;
        for name in self.ground.cgroups.list().map_err(io::Error::other)? {
            // Not a session's name: not ours to touch.
            let Ok(id) = SessionId::parse(name) else {
                continue;
            };
            let cgroup = self
                .ground
                .cgroups
                .open_existing(id.as_str())
                .map_err(io::Error::other)?;
            let endpoint = Endpoint::of(&self.ground.sessions, id.as_str());
            // A place that was prepared and never used: its socket would have been made before it was. Its stager dies
            // with its launcher. No store knows of it, so nobody would ever ask for its removal.
            let unused = !endpoint.is_there() && cgroup.wait_empty(stagers_are_dead).is_ok();
            self.sessions
                .insert(id.clone(), Session::new(cgroup, endpoint, Phase::Foreign));
            if unused {
                self.give_up(&id);
            } else if let Err(error) = self.identify(&id) {
                tracing::error!(session_id = %id, error = %error, "the uids of a session cannot be told; nothing is launched until they can");
            }
        }
        Ok(())
    }

    /// Refuses a range that a session has or, for all that can be told, may have.
    pub(super) fn require_free(&mut self, uid_base: u32) -> Result<(), OrderFault> {
        let unknown: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.uids == Uids::Unknown)
            .map(|(id, _)| id.clone())
            .collect();
        for id in unknown {
            self.identify(&id).map_err(|error| {
                OrderFault::Refused(format!("the uids of {id} cannot be told: {error}"))
            })?;
        }
        let taken = Uids::From(uid_base);
        if self.sessions.values().any(|session| session.uids == taken) {
            return Err(OrderFault::Refused(format!("uid {uid_base} is in use")));
        }
        Ok(())
    }

    /// Finds out the range of a session that is not of this launcher's making.
    fn identify(&mut self, id: &SessionId) -> Result<(), CgroupError> {
        let Some(session) = self.sessions.get_mut(id) else {
            return Ok(());
        };
        session.uids = Uids::Unknown;
        match session.cgroup.owner(&self.ground.uid_block)? {
            Owner::Nobody => session.uids = Uids::None,
            Owner::Of(uid) => session.uids = Uids::From(checks::base_of(uid, &self.ground)),
            Owner::Stranger => {
                tracing::warn!(session_id = %id, "nobody in its cgroup is of a session's uid: it is ended");
                self.give_up(id);
            }
        }
        Ok(())
    }
}
