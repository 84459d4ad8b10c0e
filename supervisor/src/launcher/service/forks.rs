//! Sessions below a template: what a launch needs of it, and the look at the agent that came of a fork.
//!
//! ```text
//! launch of a fork ─▶ the template's namespaces, opened here ─▶ its stager
//! inspect ─▶ inspector ─ passed ─▶ done
//!                      ─ found ──▶ the session is killed, and the order refused
//! ```

use super::{Launcher, Source, host_fault};
use crate::launcher::inspector::{Inspection, Inspector};
use crate::launcher::message::{Lineage, OrderFault, Reply};
use crate::launcher::session::Uids;
use nix::sys::epoll::EpollFlags;
use nix::unistd::Pid;
use proto::ids::SessionId;
use sandbox::stager::TemplateNamespaces;
use sandbox::sys::{errno_of, pidfd};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

/// A look that is taken.
#[derive(Debug)]
pub(super) struct Looking {
    inspector: Inspector,
    session: SessionId,
    /// Whom to answer.
    order: u64,
}

fn refused<T>(why: &str) -> Result<T, OrderFault> {
    Err(OrderFault::Refused(why.to_owned()))
}

impl Launcher {
    /// What a session below this template needs of it.
    pub(super) fn namespaces_of(
        &self,
        template: &SessionId,
    ) -> Result<TemplateNamespaces, OrderFault> {
        let session = self.sessions.get(template).ok_or(OrderFault::Unknown)?;
        if session.lineage != Lineage::Template {
            return refused("that session is no template");
        }
        let pid = self.living(template)?;
        let open = |name: &str| -> Result<OwnedFd, OrderFault> {
            File::open(format!("/proc/{pid}/ns/{name}"))
                .map(OwnedFd::from)
                .map_err(|error| host_fault("cannot open a template's namespace", errno_of(&error)))
        };
        Ok(TemplateNamespaces {
            user: open("user")?,
            pid: open("pid")?,
        })
    }

    /// PID 1 of a session that this launcher has made and not collected: so its number is its own.
    fn living(&self, id: &SessionId) -> Result<Pid, OrderFault> {
        let found = self.pids.iter().find(|(_, session)| *session == id);
        found.map_or(Err(OrderFault::Unknown), |(pid, _)| Ok(*pid))
    }

    /// Answers by itself.
    pub(super) fn inspect(
        &mut self,
        order: u64,
        id: &SessionId,
        fds: Vec<OwnedFd>,
    ) -> Result<(), OrderFault> {
        let Ok([agent]) = <[OwnedFd; 1]>::try_from(fds) else {
            return refused("a look at a fork has one descriptor");
        };
        // A descriptor that is none of a process fails here.
        pidfd::number(agent.as_fd())
            .map_err(|error| host_fault("the forked agent has ended", errno_of(&error)))?;
        let shim = self.living(id)?;
        let session = self.sessions.get(id).ok_or(OrderFault::Unknown)?;
        let (Lineage::Fork { template }, Uids::From(uid_base)) = (&session.lineage, session.uids)
        else {
            return refused("that session's agent is no fork");
        };
        let inspection = Inspection {
            cgroup: &session.cgroup,
            birthplace: &self
                .sessions
                .get(template)
                .ok_or(OrderFault::Unknown)?
                .cgroup,
            agent: agent.as_fd(),
            shim,
            template: self.living(template)?,
            uid: uid_base + sandbox::plan::AGENT_OFFSET,
        };
        let failed = |error: std::io::Error| host_fault("cannot look", errno_of(&error));
        let inspector = Inspector::fork(&inspection).map_err(failed)?;
        let watched = self.watch(
            inspector.socket.as_fd(),
            Source::Inspector,
            EpollFlags::EPOLLIN,
        );
        let key = watched.map_err(|error| {
            inspector.kill();
            failed(error)
        })?;
        let looking = Looking {
            inspector,
            session: id.clone(),
            order,
        };
        self.looking.insert(key, looking);
        Ok(())
    }

    /// The inspector speaks, once, or has ended.
    pub(super) fn inspector_event(&mut self, key: u64) {
        let Some(looking) = self.looking.remove(&key) else {
            return;
        };
        let _ = self.epoll.delete(&looking.inspector.socket);
        let outcome = looking.inspector.outcome();
        if let Err(fault) = &outcome {
            tracing::warn!(session_id = %looking.session, fault = %fault, "a forked agent is not let through");
            if let Some(session) = self.sessions.get(&looking.session)
                && let Err(error) = session.cgroup.kill()
            {
                tracing::error!(session_id = %looking.session, error = %error, "kill");
            }
        }
        self.reply(looking.order, outcome.map(|()| Reply::Done), None);
    }
}
