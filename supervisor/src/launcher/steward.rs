//! The one-shot process that mounts a session's storage, or clears storage away, and the launcher's end of it.
//!
//! Not the launcher itself, whose one thread must not wait: it may have to for the session before, for a disk, or for
//! mke2fs. Not the stager: within a session's cgroup nobody may open a disk. It is in the launcher's own cgroup, and what
//! it hands over is a detached mount, or nothing.

use super::ground::Ground;
use super::message::OrderFault;
use super::session::Kept;
use super::stager::step_fault;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use sandbox::plan::Fault;
use sandbox::seqpacket::Seqpacket;
use sandbox::storage::{self, StorageFault, Wanted};
use sandbox::sys::fork::Clone3;
use sandbox::sys::{close_range, errno_of, pidfd, title};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Largest report.
const MAX_PACKET: usize = 1024;

/// What it is to do.
#[derive(Debug)]
pub(super) enum Task {
    /// Mount a session's storage.
    Mount(Wanted),
    /// See to the storage of a session that is over, and to its last mount.
    Leave(Kept),
    /// Remove the storage of that runtime.
    Forget(String),
    /// Remove what was not used for long.
    Sweep,
}

/// What it answers, once.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Report {
    /// With the mount as its one descriptor, if one was to be made.
    Done,
    Full(String),
    Busy,
    Failed {
        stage: String,
        errno: i32,
    },
}

/// The launcher's end.
#[derive(Debug)]
pub(super) struct Steward {
    pub(super) socket: Seqpacket,
    pidfd: OwnedFd,
}

impl Steward {
    pub(super) fn fork(ground: &Ground, task: &Task) -> io::Result<Self> {
        let (socket, theirs) = Seqpacket::pair()?;
        let launcher = nix::unistd::getpid();
        let cloned = Clone3::default().spawn(|| run(ground, task, &theirs, launcher))?;
        Ok(Self {
            socket,
            pidfd: cloned.pidfd,
        })
    }

    pub(super) fn kill(&self) {
        // Fails only if it has ended by itself.
        let _ = pidfd::send_signal(self.pidfd.as_fd(), Signal::SIGKILL);
    }

    /// What came of it, once the socket is readable.
    pub(super) fn outcome(&self) -> Result<Option<OwnedFd>, OrderFault> {
        let mut buffer = [0; MAX_PACKET];
        let mut received = self
            .socket
            .recv(&mut buffer)
            .map_err(|error| step_fault("steward".to_owned(), errno_of(&error)))?;
        match postcard::from_bytes(&buffer[..received.len]) {
            Ok(Report::Done) => Ok(received.fds.pop()),
            Ok(Report::Full(why)) => Err(OrderFault::StorageFull(why)),
            Ok(Report::Busy) => Err(OrderFault::StorageBusy),
            Ok(Report::Failed { stage, errno }) => Err(step_fault(stage, errno)),
            // Killed.
            Err(_) => Err(step_fault("steward".to_owned(), Errno::ECHILD as i32)),
        }
    }
}

impl From<StorageFault> for Report {
    fn from(fault: StorageFault) -> Self {
        match fault {
            StorageFault::Full(why) => Self::Full(why),
            StorageFault::Busy => Self::Busy,
            StorageFault::Step(Fault { stage, errno }) => Self::Failed { stage, errno },
        }
    }
}

/// The steward's whole life.
fn run(ground: &Ground, task: &Task, link: &Seqpacket, launcher: Pid) -> i32 {
    let (report, mount) = match perform(ground, task, link, launcher) {
        Ok(mount) => (Report::Done, mount),
        Err(report) => (report, None),
    };
    let fds: Vec<BorrowedFd<'_>> = mount.iter().map(AsFd::as_fd).collect();
    // A launcher that is gone cannot be told; the mount goes with its last descriptor.
    let told = postcard::to_stdvec(&report).is_ok_and(|bytes| link.send(&bytes, &fds).is_ok());
    i32::from(!told)
}

fn perform(
    ground: &Ground,
    task: &Task,
    link: &Seqpacket,
    launcher: Pid,
) -> Result<Option<OwnedFd>, Report> {
    let failed = |error: io::Error| Report::Failed {
        stage: "steward".to_owned(),
        errno: errno_of(&error),
    };
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|errno| failed(errno.into()))?;
    // The launcher may have died before that took effect.
    if getppid() != launcher {
        return Err(failed(Errno::ESRCH.into()));
    }
    title::set("agentcored: steward").map_err(failed)?;
    // The broker's link, sessions' sockets and mounts: nothing of it may live on here, or in mke2fs.
    // What it is given is its own: the task's descriptor is closed with the rest.
    let given = match task {
        Task::Leave(kept) => Some(kept.mount.try_clone().map_err(failed)?),
        Task::Mount(_) | Task::Forget(_) | Task::Sweep => None,
    };
    let mut keep = vec![link.as_fd()];
    keep.extend(given.iter().map(AsFd::as_fd));
    close_range::close_all_except(&keep).map_err(failed)?;
    let Some(storage) = &ground.storage else {
        return Err(failed(Errno::EOPNOTSUPP.into()));
    };
    let shelf = &storage.shelf;
    match (task, given) {
        (Task::Mount(wanted), _) => Ok(Some(storage::mount(&storage.steps, shelf, wanted)?)),
        (Task::Leave(kept), Some(mount)) => storage::leave(shelf, &kept.wanted, mount)
            .map(|()| None)
            .map_err(failed),
        (Task::Leave(_), None) => Err(failed(Errno::EBADF.into())),
        (Task::Forget(runtime), _) => shelf.forget(runtime).map(|()| None).map_err(failed),
        (Task::Sweep, _) => shelf.sweep(storage.keep).map(|()| None).map_err(failed),
    }
}
