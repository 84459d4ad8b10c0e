//! Starting the agent (or one more process beside it) from the shim: another uid, no capability, nothing inherited but
//! three descriptors.
//!
//! All that allocates happens before the fork; between fork and exec there are system calls only. The child stays
//! non-dumpable until its exec, so that a process of the agent's uid cannot read the shim's memory out of the copy.

use crate::faults;
use crate::sys::capability::{self, CapMask, CapSets};
use crate::sys::exec::{CStringArray, execve};
use crate::sys::{close_range, errno_of, fork, signal, standard_fds, terminal};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Pid, Uid, chdir, geteuid, pipe2, setpgid, setresgid, setresuid, setsid};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Where a program is looked for when the environment names no `PATH`.
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// How long the way from fork to exec may take. From its change of uid on the child is within reach of the agent's other
/// processes, which may stop it (`kill(-1, SIGSTOP)`); whoever starts it must not wait for ever.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most entries of `PATH` that are tried.
const MAX_PATH_ENTRIES: usize = 64;

/// One process to start.
#[derive(Debug)]
pub struct AgentSpawn<'a> {
    /// Program (with a slash: a path; without: looked up in the `PATH` of `env`) and arguments.
    pub argv: &'a [String],
    /// The whole environment.
    pub env: &'a BTreeMap<String, String>,
    /// Working directory.
    pub cwd: &'a str,
    /// User, in the session's namespace. Never 0, which is the shim's.
    pub uid: u32,
    /// Group, likewise.
    pub gid: u32,
    /// Becomes descriptor 0.
    pub stdin: BorrowedFd<'a>,
    /// Becomes descriptor 1.
    pub stdout: BorrowedFd<'a>,
    /// Becomes descriptor 2.
    pub stderr: BorrowedFd<'a>,
    /// Terminal to make the controlling one; implies `new_session`.
    pub controlling_tty: Option<BorrowedFd<'a>>,
    /// Lead a session (and process group) of its own; otherwise only a process group of its own.
    pub new_session: bool,
}

/// Why a process could not be started: the step, and its errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{stage}: {}", Errno::from_raw(*.errno).desc())]
pub struct SpawnError {
    /// What was being done; `exec` if all went well up to the program itself.
    pub stage: &'static str,
    /// Its errno.
    pub errno: i32,
}

impl From<SpawnError> for io::Error {
    fn from(error: SpawnError) -> Self {
        Self::from_raw_os_error(error.errno)
    }
}

/// The steps between fork and exec, in order; a test build can leave them out by these names. A fault travels home as its
/// index here, and is told without the prefix.
pub(crate) const STAGES: [&str; 13] = [
    "agent.fork",
    "agent.session",
    "agent.terminal",
    "agent.signals",
    "agent.umask",
    "agent.gid",
    "agent.uid",
    "agent.capabilities",
    "agent.deathsig",
    "agent.cwd",
    "agent.stdio",
    "agent.descriptors",
    "agent.exec",
];

fn told(stage: u8) -> &'static str {
    STAGES
        .get(usize::from(stage))
        .and_then(|name| name.strip_prefix("agent."))
        .unwrap_or("exec")
}

/// Everything that the child needs, made before the fork.
struct Prepared {
    candidates: Vec<CString>,
    argv: CStringArray,
    env: CStringArray,
    cwd: CString,
}

impl Prepared {
    fn new(spec: &AgentSpawn<'_>) -> Result<Self, SpawnError> {
        let invalid = |_| SpawnError {
            stage: "exec",
            errno: Errno::EINVAL as i32,
        };
        let program = spec.argv.first().ok_or(SpawnError {
            stage: "exec",
            errno: Errno::ENOENT as i32,
        })?;
        let candidates = if program.contains('/') {
            vec![CString::new(program.as_str()).map_err(invalid)?]
        } else {
            let path = spec.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
            path.split(':')
                // A relative entry would make the working directory part of the search.
                .filter(|entry| entry.starts_with('/'))
                .take(MAX_PATH_ENTRIES)
                .map(|entry| CString::new(format!("{entry}/{program}")).map_err(invalid))
                .collect::<Result<_, _>>()?
        };
        let strings = |iter: &mut dyn Iterator<Item = String>| {
            iter.map(CString::new)
                .collect::<Result<Vec<_>, _>>()
                .map(CStringArray::new)
                .map_err(invalid)
        };
        Ok(Self {
            candidates,
            argv: strings(&mut spec.argv.iter().cloned())?,
            env: strings(
                &mut spec
                    .env
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .chain(faults::inherited()),
            )?,
            cwd: CString::new(spec.cwd).map_err(invalid)?,
        })
    }
}

/// Starts the process and returns when its program runs, or says which step failed (nothing is left then but a child to
/// reap). The process is not reaped here: its end shows in [`crate::sys::reap::reap_all`].
pub fn spawn_agent(spec: &AgentSpawn<'_>) -> Result<Pid, SpawnError> {
    let before_fork = |errno: i32| SpawnError {
        stage: told(0),
        errno,
    };
    if spec.uid == 0 || spec.gid == 0 {
        return Err(before_fork(Errno::EPERM as i32));
    }
    let prepared = Prepared::new(spec)?;
    faults::strike(STAGES[0]).map_err(|error| before_fork(errno_of(&error)))?;
    let (reader, writer) =
        pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|errno| before_fork(errno as i32))?;
    let mut report = File::from(writer);
    let pid = fork::fork_single(|| {
        let mut stage = 0;
        let Err(error) = become_agent(spec, &prepared, &mut stage);
        let [b0, b1, b2, b3] = errno_of(&error).to_le_bytes();
        // A failed write leaves the parent with a short report, which it takes as EPIPE.
        let _ = report.write_all(&[stage, b0, b1, b2, b3]);
        127
    })
    .map_err(|error| before_fork(errno_of(&error)))?;
    drop(report);
    let answer = match report_of_child(reader, PATIENCE) {
        Ok(answer) => answer,
        Err(error) => {
            // It is our own child and has not been reaped, so its number is still its own.
            let _ = kill(pid, Signal::SIGKILL);
            return Err(before_fork(errno_of(&error)));
        }
    };
    match answer[..] {
        // End of file without a word: exec closed the pipe, the program runs.
        [] => Ok(pid),
        [stage, b0, b1, b2, b3] => Err(SpawnError {
            stage: told(stage),
            errno: i32::from_le_bytes([b0, b1, b2, b3]),
        }),
        _ => Err(before_fork(Errno::EPIPE as i32)),
    }
}

/// What the child says of a step that failed; empty if its program runs; `ETIMEDOUT` if it does not get there.
fn report_of_child(reader: OwnedFd, patience: Duration) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + patience;
    let mut reader = File::from(reader);
    let mut answer = Vec::new();
    let mut piece = [0; 8];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], left) {
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
            Ok(0) => return Err(Errno::ETIMEDOUT.into()),
            Ok(_) => {}
        }
        match reader.read(&mut piece)? {
            0 => return Ok(answer),
            n => answer.extend_from_slice(&piece[..n]),
        }
    }
}

/// One step in the child.
fn step(stage: &mut u8, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    *stage += 1;
    let name = STAGES.get(usize::from(*stage)).copied().unwrap_or_default();
    if faults::is_off(name) {
        return Ok(());
    }
    faults::strike(name)?;
    act()
}

/// The child's way from the shim's identity to the agent's program.
fn become_agent(
    spec: &AgentSpawn<'_>,
    prepared: &Prepared,
    stage: &mut u8,
) -> Result<std::convert::Infallible, io::Error> {
    let myself = Pid::from_raw(0);
    let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.gid));
    step(stage, || {
        if spec.new_session || spec.controlling_tty.is_some() {
            setsid()?;
        } else {
            setpgid(myself, myself)?;
        }
        Ok(())
    })?;
    step(stage, || match spec.controlling_tty {
        Some(tty) => terminal::make_controlling(tty),
        None => Ok(()),
    })?;
    step(stage, signal::reset_all)?;
    step(stage, || {
        umask(Mode::S_IWGRP | Mode::S_IWOTH);
        Ok(())
    })?;
    step(stage, || Ok(setresgid(gid, gid, gid)?))?;
    step(stage, || change_uid(uid))?;
    step(stage, give_up_capabilities)?;
    // After the change of uid, which clears it.
    step(stage, || Ok(prctl::set_pdeathsig(Signal::SIGKILL)?))?;
    // As the agent: it must be able to enter it itself.
    step(stage, || Ok(chdir(prepared.cwd.as_c_str())?))?;
    step(stage, || {
        standard_fds::place(0, &[spec.stdin, spec.stdout, spec.stderr])
    })?;
    step(stage, || close_range::cloexec_from(3))?;
    step(stage, || Err(exec(prepared)))?;
    Err(Errno::ENOEXEC.into())
}

/// A change of the effective uid makes the process as dumpable as `fs.suid_dumpable` says; where that is 1, the agent's
/// other processes could open the memory of this copy of the shim. So the saved uid, which they would have to share as well
/// (ptrace(2), access mode checking), stays the shim's until the process is non-dumpable again. Its own change alters
/// nothing about that.
fn change_uid(uid: Uid) -> io::Result<()> {
    let shims = geteuid();
    setresuid(uid, uid, shims)?;
    prctl::set_dumpable(false)?;
    Ok(setresuid(uid, uid, uid)?)
}

/// All five sets empty, and looked at.
fn give_up_capabilities() -> io::Result<()> {
    capability::clear_ambient()?;
    capability::set(CapSets {
        effective: CapMask::EMPTY,
        permitted: CapMask::EMPTY,
        inheritable: CapMask::EMPTY,
    })?;
    if capability::all_empty()? && prctl::get_no_new_privs()? {
        Ok(())
    } else {
        Err(Errno::EPERM.into())
    }
}

/// As execvp: goes on past what is not there, and remembers that something was, but not for us.
fn exec(prepared: &Prepared) -> io::Error {
    let mut error = io::Error::from(Errno::ENOENT);
    for candidate in &prepared.candidates {
        let found = execve(candidate, &prepared.argv, &prepared.env);
        match found.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => error = found,
            _ => return found,
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_is_held_before_its_exec_is_given_up() {
        let (reader, mut writer) = std::io::pipe().expect("pipe");
        let wait = |reader: &std::io::PipeReader| {
            let copy = reader.try_clone().expect("dup").into();
            report_of_child(copy, Duration::from_millis(20))
        };
        let error = wait(&reader).expect_err("nothing is said and nothing ends");
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
        writer.write_all(&[12, 2, 0, 0, 0]).expect("write");
        drop(writer);
        assert_eq!(wait(&reader).expect("report"), [12, 2, 0, 0, 0]);
    }
}
