//! Session storage: what the launcher has stewards do, and what comes of it.
//!
//! ```text
//! launch with storage ─▶ steward ─ mount ─▶ the stager gets its order
//!                           │ full, busy, a step failed
//!                           ▼
//!                        the launch fails; what was prepared for it is cleared away
//! last process gone ─▶ steward ─ leave ─▶ the rest of the removal
//! ```
//!
//! The launcher keeps a reference to the mount for as long as the session lives, so that its end can give back what was
//! deleted while the file system is still mounted. A launcher that dies loses that, and nothing else.

use super::orders::Handover;
use super::{Launcher, Source, host_fault};
use crate::launcher::message::{LaunchOrder, OrderFault, Reply, StorageOrder};
use crate::launcher::session::{Kept, Opening, Uids};
use crate::launcher::steward::{Steward, Task};
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use proto::ids::{RuntimeId, SessionId};
use sandbox::storage::Wanted;
use sandbox::sys::errno_of;
use std::ffi::{CString, NulError};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Between two looks for storage that was not used for long, which is counted in days.
const SWEEP_PERIOD: Duration = Duration::from_secs(3600);

/// Most stewards at once that work for no session. Each looks at the shelf alone, so more would only wait.
const MAX_ERRANDS: usize = 8;

/// A steward that works for no session.
#[derive(Debug)]
pub(super) struct Errand {
    steward: Steward,
    /// Whom to answer.
    order: Option<u64>,
}

impl Launcher {
    /// The first part of a launch with storage: a steward for it. Its uids are taken from now on.
    pub(super) fn open_storage(
        &mut self,
        number: u64,
        order: &LaunchOrder,
        boot: OwnedFd,
        bundle: OwnedFd,
    ) -> Result<(), Handover> {
        self.parked(&order.session)?;
        let failed = |error: std::io::Error| {
            Handover::Failed(host_fault("cannot start a steward", errno_of(&error)))
        };
        let Some(wanted) = order.storage.as_ref().map(wanted) else {
            return Ok(());
        };
        let wanted = wanted.map_err(|error| failed(error.into()))?;
        let steward = Steward::fork(&self.ground, &Task::Mount(wanted)).map_err(failed)?;
        let source = Source::Steward(order.session.clone());
        if let Err(error) = self.watch(steward.socket.as_fd(), source, EpollFlags::EPOLLIN) {
            steward.kill();
            return Err(failed(error));
        }
        let session = self.parked(&order.session)?;
        session.uids = Uids::From(order.uid_base);
        session.opening = Some(Box::new(Opening {
            steward,
            number,
            order: order.clone(),
            boot,
            bundle,
        }));
        Ok(())
    }

    /// The steward of a launch speaks, once, or has ended.
    pub(super) fn steward_event(&mut self, id: &SessionId) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let Some(opening) = session.opening.take() else {
            return;
        };
        let Opening {
            steward,
            number,
            order,
            boot,
            bundle,
        } = *opening;
        // Forked processes may hold a copy of the socket, so closing it would not take it out of the epoll.
        let _ = self.epoll.delete(&steward.socket);
        let leaving = session.removal.is_some();
        let begun = match steward.outcome() {
            Ok(Some(mount)) => {
                let begun = if leaving {
                    // It was given up meanwhile.
                    Err(Handover::Failed(OrderFault::Unknown))
                } else {
                    self.hand_over(number, &order, &[&bundle, &boot, &mount])
                };
                self.keep_storage(id, &order, mount);
                begun
            }
            Ok(None) => {
                let fault = host_fault("cannot take the storage's mount", Errno::EMFILE as i32);
                Err(Handover::Failed(fault))
            }
            Err(fault) => Err(Handover::Failed(fault)),
        };
        if let Err(fault) = self.begun(number, id, begun) {
            self.reply(number, Err(fault), None);
        }
    }

    /// Remembers the mount until the session ends, whether or not its launch goes on.
    fn keep_storage(&mut self, id: &SessionId, order: &LaunchOrder, mount: OwnedFd) {
        // Its name was one when the steward was sent for it.
        let wanted = order.storage.as_ref().and_then(|order| wanted(order).ok());
        if let Some((session, wanted)) = self.sessions.get_mut(id).zip(wanted) {
            session.storage = Some(Kept { wanted, mount });
        }
    }

    /// Nobody is left in a session that has storage: a steward does the rest. Says whether one is at it.
    pub(super) fn leave_storage(&mut self, id: &SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(id) else {
            return false;
        };
        let Some(kept) = session.storage.take() else {
            return session.leaving.is_some();
        };
        let task = Task::Leave(kept);
        let sent = Steward::fork(&self.ground, &task).and_then(|steward| {
            let source = Source::Leaving(id.clone());
            let watched = self.watch(steward.socket.as_fd(), source, EpollFlags::EPOLLIN);
            watched.inspect_err(|_| steward.kill())?;
            Ok(steward)
        });
        match (sent, self.sessions.get_mut(id)) {
            (Ok(steward), Some(session)) => {
                session.leaving = Some(steward);
                true
            }
            (Ok(_), None) => false,
            // What it would have given back or removed stays until the next session, or the next sweep.
            (Err(error), _) => {
                tracing::warn!(session_id = %id, error = %error, "no steward to leave session storage");
                false
            }
        }
    }

    /// The steward of a session's end speaks, once, or has ended.
    pub(super) fn leaving_event(&mut self, id: &SessionId) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let Some(steward) = session.leaving.take() else {
            return;
        };
        let _ = self.epoll.delete(&steward.socket);
        if let Err(fault) = steward.outcome() {
            tracing::warn!(session_id = %id, fault = %fault, "leaving session storage");
        }
        self.advance(id);
    }

    pub(super) fn forget_storage(
        &mut self,
        number: u64,
        runtime: RuntimeId,
    ) -> Result<(), OrderFault> {
        if self.ground.storage.is_none() {
            self.reply(number, Ok(Reply::Done), None);
            return Ok(());
        }
        if self.errands.len() >= MAX_ERRANDS {
            return Err(OrderFault::StorageBusy);
        }
        self.send(&Task::Forget(runtime.into()), Some(number))
            .map_err(|error| host_fault("cannot start a steward", errno_of(&error)))
    }

    fn send(&mut self, task: &Task, order: Option<u64>) -> std::io::Result<()> {
        let steward = Steward::fork(&self.ground, task)?;
        match self.watch(steward.socket.as_fd(), Source::Errand, EpollFlags::EPOLLIN) {
            Ok(key) => {
                self.errands.insert(key, Errand { steward, order });
                Ok(())
            }
            Err(error) => {
                steward.kill();
                Err(error)
            }
        }
    }

    pub(super) fn errand_event(&mut self, key: u64) {
        let Some(Errand { steward, order }) = self.errands.remove(&key) else {
            return;
        };
        let _ = self.epoll.delete(&steward.socket);
        let outcome = steward.outcome().map(|_| Reply::Done);
        match (order, outcome) {
            (Some(order), outcome) => self.reply(order, outcome, None),
            (None, Err(fault)) => tracing::error!(fault = %fault, "sweep of session storage"),
            (None, Ok(_)) => {}
        }
    }

    pub(super) fn until_sweep(&self) -> Option<Duration> {
        self.ground.storage.as_ref()?;
        Some(self.next_sweep.saturating_duration_since(Instant::now()))
    }

    pub(super) fn sweep_if_due(&mut self) {
        if self.ground.storage.is_none() || Instant::now() < self.next_sweep {
            return;
        }
        self.next_sweep = Instant::now() + SWEEP_PERIOD;
        if let Err(error) = self.send(&Task::Sweep, None) {
            tracing::error!(error = %error, "no steward to sweep session storage");
        }
    }
}

fn wanted(order: &StorageOrder) -> Result<Wanted, NulError> {
    Ok(Wanted {
        runtime: order.runtime.as_str().to_owned(),
        key: order.key,
        caller: order.caller,
        version: order.version,
        name: CString::new(order.name.as_str())?,
        bytes: order.bytes,
        scratch: order.scratch,
    })
}
