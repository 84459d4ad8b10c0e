//! The one-shot process that makes a session, and the launcher's end of it.
//!
//! It sits in the session's cgroup from its start (on v2 cloned into it; on v1 it writes itself there, which may take
//! 7–16 ms and is therefore done ahead), so what it clones is born there. The new session is its sibling: a child of the
//! launcher.

use super::ground::Ground;
use super::message::{Limits, Lineage, OrderFault};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use sandbox::cgroup::{CgroupError, SessionCgroup};
use sandbox::plan::{Fault, PlaceAct, Step};
use sandbox::seqpacket::Seqpacket;
use sandbox::stager::{OrderFds, Staged, TemplateNamespaces};
use sandbox::sys::fork::Clone3;
use sandbox::sys::{close_range, errno_of, pidfd, title};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Largest packet between launcher and stager.
const MAX_PACKET: usize = 512;

/// What a stager is told. Descriptors: bundle, boot file, listener, exit record; the storage's mount if there is one; the
/// template's user and pid namespace if it is below one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StagerOrder {
    pub(super) uid_base: u32,
    pub(super) limits: Limits,
    pub(super) storage: bool,
    pub(super) lineage: Lineage,
}

/// What a stager answers, once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum StagerReport {
    /// The session runs its shim. One descriptor: its pidfd.
    Launched {
        pid: i32,
        start_time: u64,
        /// Microseconds of clone3, of the maps, and from "go" to exec.
        times: [u64; 3],
    },
    /// It does not, and nothing of it is left but cgroup and files.
    Failed { stage: String, errno: i32 },
}

/// The launcher's end.
#[derive(Debug)]
pub(super) struct Stager {
    pub(super) socket: Seqpacket,
    pidfd: OwnedFd,
}

impl Stager {
    /// Forks one that goes into `cgroup` and waits there. The launcher itself makes the session's device nodes first:
    /// within the cgroup nobody may. `below`: for a session below a template, if that is known.
    pub(super) fn park(
        ground: &Ground,
        cgroup: &SessionCgroup,
        below: bool,
    ) -> Result<Self, OrderFault> {
        let staged = Staged::prepare(&ground.ahead, &ground.host)
            .map_err(|fault| step_fault(fault.stage, fault.errno))?;
        let place = if below { &[] } else { &ground.place[..] };
        Self::fork(ground, cgroup, staged, place)
            .map_err(|error| step_fault("stager".to_owned(), errno_of(&error)))
    }

    fn fork(
        ground: &Ground,
        cgroup: &SessionCgroup,
        staged: Staged,
        place: &[Step<PlaceAct>],
    ) -> io::Result<Self> {
        let (socket, theirs) = Seqpacket::pair()?;
        let launcher = nix::unistd::getpid();
        let clone = Clone3 {
            cgroup: cgroup.clone_target(),
            ..Clone3::default()
        };
        let cloned = clone.spawn(|| run(ground, cgroup, (staged, place), &theirs, launcher))?;
        Ok(Self {
            socket,
            pidfd: cloned.pidfd,
        })
    }

    /// Hands it the order. Does not wait.
    pub(super) fn order(&self, order: &StagerOrder, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = postcard::to_stdvec(order).map_err(io::Error::other)?;
        self.socket.send(&bytes, fds)
    }

    /// Why it has ended, if `error` of [`Self::order`] says that it has.
    pub(super) fn last_words(&self, error: &io::Error) -> Option<OrderFault> {
        // Its end is closed, so reading does not wait.
        if error.kind() != io::ErrorKind::BrokenPipe {
            return None;
        }
        match self.report() {
            Ok(Some((StagerReport::Failed { stage, errno }, _))) => Some(step_fault(stage, errno)),
            Ok(_) | Err(_) => None,
        }
    }

    /// Kills it, wherever it is: on v1 it may not have entered the cgroup yet.
    pub(super) fn kill(&self) {
        // Fails only if it has ended by itself.
        let _ = pidfd::send_signal(self.pidfd.as_fd(), Signal::SIGKILL);
    }

    /// Waits until it has ended.
    pub(super) fn wait(&self, patience: Duration) {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        let _ = poll(
            &mut fds,
            PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO),
        );
    }

    /// Its report, once the socket is readable; `None` if it has ended without one.
    pub(super) fn report(&self) -> io::Result<Option<(StagerReport, Option<OwnedFd>)>> {
        let mut buffer = [0; MAX_PACKET];
        let mut received = match self.socket.recv(&mut buffer) {
            // It has ended with its order unread. The kernel says so once, and only then gives what it had said before.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                self.socket.recv(&mut buffer)?
            }
            other => other?,
        };
        if received.len == 0 {
            return Ok(None);
        }
        let report = postcard::from_bytes(&buffer[..received.len]).map_err(io::Error::other)?;
        Ok(Some((report, received.fds.pop())))
    }
}

impl From<Fault> for StagerReport {
    fn from(fault: Fault) -> Self {
        Self::Failed {
            stage: fault.stage,
            errno: fault.errno,
        }
    }
}

impl StagerReport {
    fn failed(stage: &str, error: &io::Error) -> Self {
        Self::Failed {
            stage: stage.to_owned(),
            errno: errno_of(error),
        }
    }
}

/// An order's fault from what a stager said.
pub(super) fn step_fault(stage: String, errno: i32) -> OrderFault {
    OrderFault::Step { stage, errno }
}

/// The stager's whole life.
fn run(
    ground: &Ground,
    cgroup: &SessionCgroup,
    staged: (Staged, &[Step<PlaceAct>]),
    link: &Seqpacket,
    launcher: Pid,
) -> i32 {
    let (report, pidfd) = match stage(ground, cgroup, staged, link, launcher) {
        Ok(Some((report, pidfd))) => (report, Some(pidfd)),
        // Given up before any order came.
        Ok(None) => return 0,
        Err(report) => (report, None),
    };
    let fds: Vec<BorrowedFd<'_>> = pidfd.iter().map(AsFd::as_fd).collect();
    // A launcher that is gone cannot be told; its successor finds the session by its cgroup.
    let told = postcard::to_stdvec(&report).is_ok_and(|bytes| link.send(&bytes, &fds).is_ok());
    i32::from(!told)
}

type Outcome = Result<Option<(StagerReport, OwnedFd)>, StagerReport>;

fn stage(
    ground: &Ground,
    cgroup: &SessionCgroup,
    (mut staged, place): (Staged, &[Step<PlaceAct>]),
    link: &Seqpacket,
    launcher: Pid,
) -> Outcome {
    let io_step = |stage: &'static str| move |error: io::Error| StagerReport::failed(stage, &error);
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| io_step("stager")(e.into()))?;
    // The launcher may have died before that took effect.
    if getppid() != launcher {
        return Ok(None);
    }
    title::set("agentcored: stager").map_err(io_step("stager"))?;
    cgroup.enter().map_err(|error| StagerReport::Failed {
        stage: sandbox::cgroup::Step::Enter.name().to_owned(),
        errno: CgroupError::errno(&error),
    })?;
    let plan_error = |_| StagerReport::failed("plan", &io::ErrorKind::InvalidInput.into());
    // Other stagers' sockets, the broker's link: nothing of it may live on here.
    let [base, dev] = staged.mounts();
    let host = &ground.host;
    let keep = [
        link.as_fd(),
        host.base.as_fd(),
        host.shim.as_fd(),
        base,
        dev,
    ];
    close_range::close_all_except(&keep).map_err(io_step("stager"))?;
    staged.settle(place)?;
    let mut buffer = [0; MAX_PACKET];
    let received = link.recv(&mut buffer).map_err(io_step("stager"))?;
    if received.len == 0 {
        return Ok(None);
    }
    let order: StagerOrder = postcard::from_bytes(&buffer[..received.len])
        .map_err(|error| io_step("stager")(io::Error::other(error)))?;
    let mut fds = received.fds;
    let template = match (&order.lineage, fds.pop(), fds.pop()) {
        (Lineage::Fork { .. }, Some(pid), Some(user)) => Some(TemplateNamespaces { user, pid }),
        (Lineage::Fork { .. }, _, _) => {
            return Err(io_step("stager")(io::ErrorKind::InvalidData.into()));
        }
        (Lineage::Host | Lineage::Template, last, before) => {
            fds.extend(before);
            fds.extend(last);
            None
        }
    };
    let storage = if order.storage { fds.pop() } else { None };
    let [bundle, boot, listener, record] = <[OwnedFd; 4]>::try_from(fds)
        .map_err(|_| io_step("stager")(io::ErrorKind::InvalidData.into()))?;
    let fds = OrderFds {
        bundle,
        shim: [boot, listener, record],
        storage,
        template,
    };
    let plan = ground.plan(&order).map_err(plan_error)?;
    let launched = staged.launch(&plan, &ground.host, &fds)?;
    let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    let times = &launched.times;
    let report = StagerReport::Launched {
        pid: launched.pid.as_raw(),
        start_time: launched.start_time,
        times: [micros(times.clone), micros(times.maps), micros(times.child)],
    };
    Ok(Some((report, launched.pidfd)))
}
