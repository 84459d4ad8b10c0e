//! What the launcher is started with, and the fork itself.

use super::ground::Ground;
use super::message::{Limits, MAX_PACKET};
use super::service::Launcher;
use crate::daemon_log;
use crate::fault::chain;
use proto::ids::InstanceId;
use sandbox::privileges;
use sandbox::seqpacket::Seqpacket;
use sandbox::sys::{close_range, errno_of, fork, title};
use serde::{Deserialize, Serialize};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// Name in the process list.
const TITLE: &str = "agentcored: launcher";

/// Everything that the launcher will ever know besides its orders.
#[derive(Debug, Clone)]
pub struct LauncherSetup {
    /// This daemon.
    pub instance: InstanceId,
    /// For sockets and exit records. Made if missing; must belong to root, and to be writable for root only.
    pub runtime_dir: PathBuf,
    /// Bundles must be on its file system.
    pub state_dir: PathBuf,
    /// The base root file system. Must belong to root.
    pub base_root: PathBuf,
    /// The worker shim's executable.
    pub shim: PathBuf,
    /// Who the broker becomes.
    pub broker_uid: u32,
    /// Its group.
    pub broker_gid: u32,
    /// Host uids of this instance's sessions.
    pub uid_block: Range<u32>,
    /// Path of the cgroup to make the instance's own in; see `CgroupRoot::open`.
    pub cgroup_parent: Option<String>,
    /// No session gets more than this.
    pub ceilings: Limits,
    /// Bytes per second that each session may read from the disk that the base is on.
    pub session_read_bps: Option<u64>,
    /// Session storage; absent where this host or its operator grants none.
    pub storage: Option<StorageSetup>,
    /// Most sessions at once, foreign ones and those on their way out included; prepared places come on top.
    pub max_sessions: usize,
    /// Most stagers parked at once.
    pub max_prepared: usize,
}

/// What there is for session storage.
#[derive(Debug, Clone)]
pub struct StorageSetup {
    /// Where images are. Made if missing; must belong to root.
    pub directory: PathBuf,
    /// The largest one.
    pub max_bytes: u64,
    /// All of them together, in bytes.
    pub total_bytes: u64,
    /// All of one caller's.
    pub caller_bytes: u64,
    /// One that no session has had for so long is removed.
    pub keep: std::time::Duration,
}

/// A running launcher.
#[derive(Debug)]
pub struct LauncherHandle {
    /// For [`super::client::LauncherClient::new`].
    pub link: Seqpacket,
    /// Its process, a child of the caller.
    pub pid: i32,
}

/// Waits until a launcher has ended, which it does when its link is closed; at most a few seconds, since a launcher that
/// cannot end must not keep its broker from ending.
pub fn wait_for_end(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    let deadline = std::time::Instant::now() + END_PATIENCE;
    // Polled: the caller is `main` at its very end, single-threaded again and without a loop to wait in.
    while let Ok(nix::sys::wait::WaitStatus::StillAlive) =
        nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG))
        && std::time::Instant::now() < deadline
    {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// See [`wait_for_end`].
const END_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Why there is no launcher.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It could not be forked, or did not answer.
    #[error("cannot {verb} the launcher")]
    Process {
        /// What was tried.
        verb: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It could not open what it needs; the text says what.
    #[error("the launcher cannot start: {detail}")]
    Ground {
        /// The whole chain, as the launcher saw it.
        detail: String,
        /// Its errno.
        errno: i32,
    },
}

impl From<StartError> for io::Error {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Process { source, .. } => source,
            StartError::Ground { errno, .. } => Self::from_raw_os_error(errno),
        }
    }
}

/// First packet of a launcher.
#[derive(Debug, Serialize, Deserialize)]
enum Started {
    /// It takes orders.
    Ready,
    /// It ends.
    Failed { detail: String, errno: i32 },
}

/// Forks the launcher and waits until it takes orders. The calling process must be root and have one thread.
///
/// The launcher closes every descriptor but the link and the standard three first, so it keeps no lock, listener or
/// database of its parent.
pub fn start(setup: LauncherSetup) -> Result<LauncherHandle, StartError> {
    let process = |verb| move |source| StartError::Process { verb, source };
    let (link, theirs) = Seqpacket::pair().map_err(process("make a socket pair for"))?;
    let pid = fork::fork_single(|| run(&setup, theirs)).map_err(process("fork"))?;
    // Our copy of its end was moved into the closure, which the child alone has run.
    let mut buffer = vec![0; MAX_PACKET];
    let received = link.recv(&mut buffer).map_err(process("hear from"))?;
    match postcard::from_bytes(&buffer[..received.len]) {
        Ok(Started::Ready) => Ok(LauncherHandle {
            link,
            pid: pid.as_raw(),
        }),
        Ok(Started::Failed { detail, errno }) => Err(StartError::Ground { detail, errno }),
        Err(_) => Err(process("hear from")(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// The launcher's whole life. Returns its exit status.
fn run(setup: &LauncherSetup, link: Seqpacket) -> i32 {
    let ready = prepare(setup, &link);
    let (started, ground) = match ready {
        Ok(ground) => (Started::Ready, Some(ground)),
        Err(fault) => (
            Started::Failed {
                errno: errno_of(&fault.source),
                detail: chain(&fault),
            },
            None,
        ),
    };
    let told = postcard::to_stdvec(&started).is_ok_and(|bytes| link.send(&bytes, &[]).is_ok());
    let Some(ground) = ground.filter(|_| told) else {
        return 1;
    };
    match Launcher::new(ground, link).and_then(|mut launcher| launcher.serve()) {
        // The broker is gone. Sessions live on.
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(error = %error, "launcher ends");
            1
        }
    }
}

fn prepare(setup: &LauncherSetup, link: &Seqpacket) -> Result<Ground, super::ground::GroundError> {
    use super::ground::GroundError;
    let step = |verb: &'static str, outcome: io::Result<()>| {
        outcome.map_err(|source| GroundError::new(verb, &setup.runtime_dir, source))
    };
    step(
        "close inherited descriptors for",
        daemon_log::away_from(|| close_range::close_all_except(&[link.as_fd()])),
    )?;
    // A session's setgroups is denied, so groups that it does not inherit are the only ones it does not have.
    step(
        "drop groups for",
        nix::unistd::setgroups(&[]).map_err(Into::into),
    )?;
    step("name the launcher of", title::set(TITLE))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let ground = Ground::open(setup)?;
    // Only now: planting cgroups and setting a device filter may take more.
    privileges::become_launcher().map_err(|error| {
        GroundError::new(
            "limit the launcher of",
            &setup.runtime_dir,
            io::Error::other(error),
        )
    })?;
    Ok(ground)
}
