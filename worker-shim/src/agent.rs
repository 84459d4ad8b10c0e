//! The agent's process: started at once, from [`proto::shim::Boot`]; how it ended, once it has.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, pipe2};
use proto::shim::{AgentExited, AgentStart, ExitStatus};
use sandbox::agent::{AgentSpawn, SpawnError, spawn_agent};
use sandbox::sys::reap::Status;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

/// What an `exec` shares with the agent.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// See the module.
pub(crate) struct Agent {
    pid: Option<Pid>,
    identity: Identity,
    exited: Option<AgentExited>,
}

impl Agent {
    /// Starts it. A program that cannot be started is an agent that has ended, with the reason.
    /// Returns the reading ends of its output as well.
    pub(crate) fn start(
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
        let spawned = spawn_agent(&AgentSpawn {
            argv: &argv,
            env: &env,
            cwd: &cwd,
            uid,
            gid,
            stdin: stdin.as_fd(),
            stdout: stdout.as_fd(),
            stderr: stderr.as_fd(),
            controlling_tty: None,
            new_session: true,
        });
        let (pid, exited) = match spawned {
            Ok(pid) => (Some(pid), None),
            Err(error) => {
                let status = Err(describe(&argv, &cwd, error));
                (None, Some(AgentExited { status }))
            }
        };
        let identity = Identity { env, cwd, uid, gid };
        Ok((
            Self {
                pid,
                identity,
                exited,
            },
            [out, err],
        ))
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn exited(&self) -> Option<&AgentExited> {
        self.exited.as_ref()
    }

    /// A child has ended; whether it was the agent.
    pub(crate) fn note_reaped(&mut self, pid: Pid, status: Status) -> bool {
        if self.pid != Some(pid) {
            return false;
        }
        self.pid = None;
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

    /// Its process; the number is ours as long as it has not been reaped.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// Signals it.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        match self.pid {
            Some(pid) => nix::sys::signal::kill(pid, signal),
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
