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
//! A broker that knows such a session may adopt it ([`Launcher::adopt`]); until then it is only kept apart.
//!
//! The third has no uid that could be given away twice, and is killed so that it never gets one; yet a stager may have
//! cloned a session between the look and the kill, so it is looked at again with every launch until it is gone. The fourth
//! may hold any range. Ending it would be safe too, but what cannot be read is the host's fault (no descriptor, no memory),
//! and would end sessions that people are using; while it lasts, a launch would fail anyhow.

use super::orders::cgroup_fault;
use super::{Launcher, Source, host_fault};
use crate::launcher::checks;
use crate::launcher::endpoint::Endpoint;
use crate::launcher::message::{AdoptOrder, Lineage, OrderFault};
use crate::launcher::session::{OomSuspicion, Phase, Session, Uids};
use nix::sys::epoll::EpollFlags;
use proto::ids::SessionId;
use sandbox::cgroup::{CgroupError, Owner};
use sandbox::sys::errno_of;
use std::io;
use std::os::fd::AsFd;
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
            let cgroup = match self.ground.cgroups.open_existing(id.as_str()) {
                // Its launcher was still there to clear it away.
                Err(CgroupError::Unknown(_)) => continue,
                other => other.map_err(io::Error::other)?,
            };
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

    /// Takes a session over, if it is the one that the order tells; whether it is frozen.
    pub(super) fn adopt(&mut self, order: &AdoptOrder) -> Result<bool, OrderFault> {
        let id = &order.session;
        if self
            .sessions
            .get(id)
            .is_some_and(|session| session.uids == Uids::Unknown)
        {
            self.identify(id).map_err(|e| cgroup_fault(&e))?;
        }
        let session = self.sessions.get(id).ok_or(OrderFault::Unknown)?;
        let other = |what: &str| Err(OrderFault::Refused(format!("{what} of {id} is another")));
        if !matches!(session.phase, Phase::Foreign) || session.removal.is_some() {
            return Err(OrderFault::Refused(format!(
                "{id} is not there to be adopted"
            )));
        }
        if session.uids == Uids::None {
            // Nobody is in it any more.
            return Err(OrderFault::Unknown);
        }
        if session.uids != Uids::From(order.uid_base) {
            return other("the uid range");
        }
        if session.cgroup.inode().map_err(|e| cgroup_fault(&e))? != order.cgroup_inode {
            return other("the cgroup");
        }
        let first = session.cgroup.member(order.pid);
        let first = first.map_err(|e| cgroup_fault(&e))?;
        let Some(first) = first.filter(|first| first.start_time == order.start_time) else {
            return other("PID 1");
        };
        let frozen = session.cgroup.is_frozen().map_err(|e| cgroup_fault(&e))?;
        // Its launcher may have died while it was made smaller.
        let whole = session.cgroup.end_reclaim();
        whole.map_err(|e| cgroup_fault(&e))?;
        let oom = session.cgroup.oom_event();
        let watched = |error: io::Error| host_fault("cannot watch it", errno_of(&error));
        let life = Source::Life(id.clone());
        let key = self
            .watch(first.pidfd.as_fd(), life, EpollFlags::EPOLLIN)
            .map_err(watched)?;
        if let Some(session) = self.sessions.get_mut(id) {
            session.phase = Phase::Adopted {
                life: (key, first.pidfd),
            };
            if order.template {
                session.lineage = Lineage::Template;
            }
            // It may have been out of memory while nobody looked.
            let now = Instant::now();
            session.oom_suspicion = Some(OomSuspicion {
                next: now,
                until: now,
            });
        }
        let oom = oom.map_err(watched)?;
        self.watch_memory(id, oom).map_err(watched)?;
        Ok(frozen)
    }

    /// Forgets the descriptor of an adopted session's PID 1.
    pub(super) fn unwatch_life(&mut self, id: &SessionId) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        if let Phase::Adopted { life: (key, pidfd) } = &session.phase {
            // Stagers hold copies, so closing it would not take it out of the epoll.
            let _ = self.epoll.delete(pidfd);
            self.sources.remove(key);
            session.phase = Phase::Ended;
        }
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
