//! The agent's process: started at once, from [`proto::shim::Boot`], or forked from a template ([`crate::arrival`]); how it
//! ended, once it has.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, pipe2};
use proto::shim::{AgentExited, AgentStart, ExitStatus};
use sandbox::agent::{AgentSpawn, SpawnError, spawn_agent};
use sandbox::sys::reap::Status;
use sandbox::sys::{errno_of, pidfd};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What an `exec` shares with the agent.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Whose child it is decides how it is signalled.
enum Process {
    /// Ours: its number is its own as long as we have not reaped it.
    Child(Pid),
    /// Another's, who reaps it.
    Fork { pid: Pid, life: OwnedFd },
}

/// See the module.
pub(crate) struct Agent {
    process: Option<Process>,
    identity: Identity,
    exited: Option<AgentExited>,
    argv: Vec<String>,
    /// What it will read and write, until it is there.
    stdio: Option<[OwnedFd; 3]>,
}

impl Agent {
    /// Everything but the process. Returns the reading ends of its output as well.
    pub(crate) fn prepare(
        start: AgentStart,
        egress_port: Option<u16>,
    ) -> Result<(Self, [OwnedFd; 2]), Errno> {
        let AgentStart {
            argv,
            mut env,
            cwd,
            uid,
            gid,
        } = start;
        if let Some(port) = egress_port {
            add_proxy(&mut env, port);
        }
        let stdin = open(
            "/dev/null",
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let (out, stdout) = pipe2(OFlag::O_CLOEXEC)?;
        let (err, stderr) = pipe2(OFlag::O_CLOEXEC)?;
        for reader in [&out, &err] {
            // Only our end: the flag belongs to the open file, and the agent's end is another one.
            fcntl(reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        let agent = Self {
            process: None,
            identity: Identity { env, cwd, uid, gid },
            exited: None,
            argv,
            stdio: Some([stdin, stdout, stderr]),
        };
        Ok((agent, [out, err]))
    }

    /// Starts it, with another standard input if one is given. A program that cannot be started is an agent that has ended,
    /// with the reason.
    pub(crate) fn start(&mut self, stdin: Option<OwnedFd>) {
        let Some([null, stdout, stderr]) = self.stdio.take() else {
            return;
        };
        let Identity { env, cwd, uid, gid } = &self.identity;
        let spawned = spawn_agent(&AgentSpawn {
            argv: &self.argv,
            env,
            cwd,
            uid: *uid,
            gid: *gid,
            stdin: stdin.as_ref().unwrap_or(&null).as_fd(),
            stdout: stdout.as_fd(),
            stderr: stderr.as_fd(),
            controlling_tty: None,
            new_session: true,
        });
        match spawned {
            Ok(pid) => self.process = Some(Process::Child(pid)),
            Err(error) => {
                let status = Err(describe(&self.argv, cwd, error));
                self.exited = Some(AgentExited { status });
            }
        }
    }

    /// What a fork is to read and write.
    pub(crate) fn stdio(&self) -> Option<[BorrowedFd<'_>; 3]> {
        self.stdio
            .as_ref()
            .map(|stdio| stdio.each_ref().map(AsFd::as_fd))
    }

    /// A fork has all of it now: without our copies, the end of its output can be seen.
    pub(crate) fn hand_over_stdio(&mut self) {
        self.stdio = None;
    }

    /// A fork serves.
    pub(crate) fn arrived(&mut self, pid: Pid, life: OwnedFd) {
        self.process = Some(Process::Fork { pid, life });
    }

    /// A fork has ended, or never came.
    pub(crate) fn departed(&mut self, exited: AgentExited) {
        self.process = None;
        self.stdio = None;
        self.exited = Some(exited);
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn exited(&self) -> Option<&AgentExited> {
        self.exited.as_ref()
    }

    /// A child has ended; whether it was the agent.
    pub(crate) fn note_reaped(&mut self, pid: Pid, status: Status) -> bool {
        match self.process {
            Some(Process::Child(own)) if own == pid => {}
            Some(Process::Child(_) | Process::Fork { .. }) | None => return false,
        }
        self.process = None;
        self.exited = Some(AgentExited {
            status: Ok(exit_status(status)),
        });
        true
    }

    /// Whether it ended in another way than by finishing.
    pub(crate) fn died(&self) -> bool {
        self.exited
            .as_ref()
            .is_some_and(|exited| exited.status != Ok(ExitStatus::Code(0)))
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Option<Pid> {
        match &self.process {
            Some(Process::Child(pid) | Process::Fork { pid, .. }) => Some(*pid),
            None => None,
        }
    }

    /// Signals it.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        match &self.process {
            Some(Process::Child(pid)) => nix::sys::signal::kill(*pid, signal),
            Some(Process::Fork { life, .. }) => pidfd::send_signal(life.as_fd(), signal)
                .map_err(|error| Errno::from_raw(errno_of(&error))),
            None => Err(Errno::ESRCH),
        }
    }
}

/// How a child ended, as the protocol says it.
pub(crate) fn exit_status(status: Status) -> ExitStatus {
    match status {
        Status::Code(code) => ExitStatus::Code(code),
        Status::Signal(signal) => ExitStatus::Signal(signal),
    }
}

/// A failed start, for the person who wrote the command.
pub(crate) fn describe(argv: &[String], cwd: &str, error: SpawnError) -> String {
    let program = argv.first().map_or("", String::as_str);
    match error.stage {
        "exec" if error.errno == Errno::ENOENT as i32 => {
            format!("cannot start {program:?}: no such program (or its interpreter)")
        }
        "exec" => format!(
            "cannot start {program:?}: {}",
            Errno::from_raw(error.errno).desc()
        ),
        "cwd" => format!(
            "cannot start {program:?} in {cwd:?}: {}",
            Errno::from_raw(error.errno).desc()
        ),
        stage => format!("cannot start {program:?}: step {stage} failed: {error}"),
    }
}

/// Points the usual proxy variables at the egress port (curl reads only lower-case `http_proxy`, others only upper case).
/// A variable that the runtime's version sets itself stays.
fn add_proxy(env: &mut BTreeMap<String, String>, port: u16) {
    let url = format!("http://127.0.0.1:{port}");
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        env.entry(name.to_owned()).or_insert_with(|| url.clone());
    }
    for name in ["NO_PROXY", "no_proxy"] {
        env.entry(name.to_owned())
            .or_insert_with(|| "localhost,127.0.0.1,::1".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_variables_do_not_override() {
        let mut env = BTreeMap::from([("HTTP_PROXY".to_owned(), "http://mine".to_owned())]);
        add_proxy(&mut env, 3128);
        assert_eq!(env["HTTP_PROXY"], "http://mine");
        assert_eq!(env["https_proxy"], "http://127.0.0.1:3128");
        assert_eq!(env["NO_PROXY"], "localhost,127.0.0.1,::1");
    }
}
