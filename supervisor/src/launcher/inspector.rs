//! The one-shot process that takes a forked agent into its session's cgroup and looks at it, and the launcher's end of it.
//!
//! Not the launcher itself, whose one thread must not wait: a move into another cgroup takes 7–16 ms where none was made
//! shortly before.
//!
//! The broker names the process by a descriptor, and the broker may be subverted. So nothing is done to a process that is not
//! in the session's pid namespace already; and one that is is the session's own, whatever else it may be.

use super::message::OrderFault;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use sandbox::cgroup::SessionCgroup;
use sandbox::seqpacket::Seqpacket;
use sandbox::sys::fork::Clone3;
use sandbox::sys::{close_range, errno_of, pidfd, title};
use sandbox::template::{self, Fork};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Largest report.
const MAX_PACKET: usize = 1024;

/// How long the stager may take to be gone from the session's cgroup, which has long said its last word.
const STRAGGLER: Duration = Duration::from_millis(500);

/// Between two looks for that.
const PAUSE: Duration = Duration::from_micros(200);

/// What is to be looked at.
#[derive(Debug)]
pub(super) struct Inspection<'a> {
    /// Of the session.
    pub(super) cgroup: &'a SessionCgroup,
    /// Of the template, where the agent was born.
    pub(super) birthplace: &'a SessionCgroup,
    /// The process.
    pub(super) agent: BorrowedFd<'a>,
    /// PID 1 of its session and of its template.
    pub(super) shim: Pid,
    pub(super) template: Pid,
    /// Its uid.
    pub(super) uid: u32,
}

/// What the inspector answers, once.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Report {
    Passed,
    /// What was found, in words.
    Found(String),
    Failed {
        detail: String,
        errno: i32,
    },
}

/// The launcher's end.
#[derive(Debug)]
pub(super) struct Inspector {
    pub(super) socket: Seqpacket,
    pidfd: OwnedFd,
}

impl Inspector {
    pub(super) fn fork(inspection: &Inspection<'_>) -> io::Result<Self> {
        let (socket, theirs) = Seqpacket::pair()?;
        let launcher = nix::unistd::getpid();
        let cloned = Clone3::default().spawn(|| run(inspection, &theirs, launcher))?;
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
    pub(super) fn outcome(&self) -> Result<(), OrderFault> {
        let mut buffer = [0; MAX_PACKET];
        let failed = |detail: &str, errno| OrderFault::Host {
            detail: detail.to_owned(),
            errno,
        };
        let received = self
            .socket
            .recv(&mut buffer)
            .map_err(|error| failed("cannot hear the inspector", errno_of(&error)))?;
        match postcard::from_bytes(&buffer[..received.len]) {
            Ok(Report::Passed) => Ok(()),
            Ok(Report::Found(text)) => Err(OrderFault::Refused(text)),
            Ok(Report::Failed { detail, errno }) => Err(failed(&detail, errno)),
            Err(_) => Err(failed(
                "the inspector was killed",
                nix::errno::Errno::ECHILD as i32,
            )),
        }
    }
}

/// Forks one that enters the session's cgroup and ends at once. A move waits for an RCU grace period unless another was made
/// shortly before: so this one waits, while the session is made, and the agent's does not.
pub(super) fn go_ahead(cgroup: &SessionCgroup) -> io::Result<()> {
    let launcher = nix::unistd::getpid();
    Clone3::default().spawn(|| {
        let bound = prctl::set_pdeathsig(Signal::SIGKILL).is_ok() && getppid() == launcher;
        i32::from(!bound || cgroup.enter_self().is_err())
    })?;
    Ok(())
}

/// The inspector's whole life.
fn run(inspection: &Inspection<'_>, link: &Seqpacket, launcher: Pid) -> i32 {
    let report = match look(inspection, link, launcher) {
        Ok(()) => Report::Passed,
        Err(report) => report,
    };
    let told = postcard::to_stdvec(&report).is_ok_and(|bytes| link.send(&bytes, &[]).is_ok());
    i32::from(!told)
}

fn look(inspection: &Inspection<'_>, link: &Seqpacket, launcher: Pid) -> Result<(), Report> {
    let failed = |detail: &'static str| {
        move |error: io::Error| Report::Failed {
            detail: detail.to_owned(),
            errno: errno_of(&error),
        }
    };
    let begin = failed("cannot begin to look at the forked agent");
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|errno| begin(errno.into()))?;
    // The launcher may have died before that took effect.
    if getppid() != launcher {
        return Ok(());
    }
    title::set("agentcored: inspector").map_err(begin)?;
    let mut keep = vec![link.as_fd(), inspection.agent];
    keep.extend(inspection.cgroup.descriptors());
    keep.extend(inspection.birthplace.descriptors());
    close_range::close_all_except(&keep).map_err(begin)?;
    let agent = pidfd::number(inspection.agent).map_err(failed("the forked agent has ended"))?;
    own_namespace(agent, inspection.shim)?;
    inspection
        .cgroup
        .take_in(agent)
        .map_err(|error| Report::Failed {
            detail: format!("cannot take the forked agent into its cgroup: {error}"),
            errno: error.errno(),
        })?;
    alone(inspection, agent)?;
    no_strays(inspection)?;
    let fork = Fork {
        agent,
        shim: inspection.shim,
        template: inspection.template,
        uid: inspection.uid,
    };
    template::inspect(&fork).map_err(|finding| Report::Found(finding.to_string()))?;
    // All of this was seen of whoever has that number; it is the same one as long as it has not ended.
    match pidfd::has_ended(inspection.agent) {
        false => Ok(()),
        true => Err(Report::Found("the forked agent has ended".to_owned())),
    }
}

/// Before anything is done to it: it is a process of that session.
fn own_namespace(agent: Pid, shim: Pid) -> Result<(), Report> {
    let of = |pid: Pid| fs::read_link(format!("/proc/{pid}/ns/pid"));
    match (of(agent), of(shim)) {
        (Ok(found), Ok(expected)) if found == expected => Ok(()),
        _ => Err(Report::Found(
            "that process is not in the session's pid namespace".to_owned(),
        )),
    }
}

/// Nobody stayed behind in the template's cgroup, where this session's limits do not count, who is in one of its namespaces or
/// may make processes there.
fn no_strays(inspection: &Inspection<'_>) -> Result<(), Report> {
    let of = |pid: i32, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).ok();
    let shim = inspection.shim.as_raw();
    let members = inspection
        .birthplace
        .processes()
        .map_err(|error| Report::Failed {
            detail: format!("cannot list the template's processes: {error}"),
            errno: error.errno(),
        })?;
    for pid in members {
        for (theirs, own) in [
            ("user", "user"),
            ("pid", "pid"),
            ("pid_for_children", "pid"),
        ] {
            let found = of(pid, theirs);
            // Who has ended has none.
            if found.is_some() && found == of(shim, own) {
                return Err(Report::Found(
                    "another process of the template has joined the session".to_owned(),
                ));
            }
        }
    }
    Ok(())
}

/// Nobody is in the session but the two. The stager, which has made it, may need a moment to be gone.
fn alone(inspection: &Inspection<'_>, agent: Pid) -> Result<(), Report> {
    let until = Instant::now() + STRAGGLER;
    let mut expected = [inspection.shim.as_raw(), agent.as_raw()];
    expected.sort_unstable();
    loop {
        let mut found = inspection
            .cgroup
            .processes()
            .map_err(|error| Report::Failed {
                detail: format!("cannot list the session's processes: {error}"),
                errno: error.errno(),
            })?;
        found.sort_unstable();
        if found == expected {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Report::Found(format!(
                "{} processes are in the session, not its shim and its agent alone",
                found.len()
            )));
        }
        std::thread::sleep(PAUSE);
    }
}
