//! `exec`: one more process beside the agent, with its identity.
//!
//! Without a terminal the broker's three descriptors become the process's own, and the shim is not in the way of a byte.
//! With one, the shim keeps the terminal's master side and pumps between it and the broker's stream ([`terminal`]).
//! `exec.exited` is said when the process has been reaped and, with a terminal, its output has been passed on.

mod terminal;

use crate::agent::{Identity, describe, exit_status};
use crate::link::Link;
use crate::link::order::ExecFds;
use crate::poller::{Poller, Ready};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::code::ErrorCode;
use proto::ids::ExecId;
use proto::shim::{Exec, ExecExited, Execed, ExitStatus, MAX_EXECS, Resize};
use sandbox::agent::{AgentSpawn, spawn_agent};
use sandbox::sys::reap::Status;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use terminal::Terminal;

struct Running {
    /// `None` once its daemon is gone: ids are a link's.
    id: Option<ExecId>,
    /// Ours to signal as long as it has not been reaped.
    pid: Pid,
    status: Option<ExitStatus>,
    terminal: Option<Terminal>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Execs {
    next_serial: u64,
    running: BTreeMap<u64, Running>,
}

impl Execs {
    /// Starts one and answers.
    pub(crate) fn start(
        &mut self,
        rpc: u64,
        exec: &Exec,
        stdio: ExecFds,
        identity: &Identity,
        link: &mut Link,
        poller: &Poller,
    ) {
        match self.try_start(exec, stdio, identity, poller) {
            Ok(pid) => link.answer(rpc, &Execed { pid: pid.as_raw() }),
            Err((code, text)) => link.refuse(rpc, code, text),
        }
    }

    fn try_start(
        &mut self,
        exec: &Exec,
        stdio: ExecFds,
        identity: &Identity,
        poller: &Poller,
    ) -> Result<Pid, (ErrorCode, String)> {
        if self.running.len() >= MAX_EXECS {
            let text = format!("{MAX_EXECS} processes were started beside the agent already");
            return Err((ErrorCode::TooManyInvocations, text));
        }
        if self
            .running
            .values()
            .any(|running| running.id == Some(exec.id))
        {
            let text = format!("exec {} is running already", exec.id.0);
            return Err((ErrorCode::BadOrder, text));
        }
        let mut env = identity.env.clone();
        if exec.tty.is_some() {
            env.insert("TERM".to_owned(), "xterm".to_owned());
        }
        env.extend(exec.env.clone());
        let cwd = exec.cwd.as_deref().unwrap_or(&identity.cwd);
        let spawn = |[stdin, stdout, stderr]: [_; 3], controlling_tty| {
            spawn_agent(&AgentSpawn {
                argv: &exec.argv,
                env: &env,
                cwd,
                uid: identity.uid,
                gid: identity.gid,
                stdin,
                stdout,
                stderr,
                controlling_tty,
                new_session: true,
            })
            .map_err(|error| {
                // As a shell tells them apart (127, 126); the rest is the session's trouble.
                let code = match Errno::from_raw(error.errno) {
                    Errno::ENOENT | Errno::ENOTDIR => ErrorCode::NotFound,
                    Errno::EACCES | Errno::ENOEXEC | Errno::EPERM => ErrorCode::AccessDenied,
                    _ => ErrorCode::AgentFailed,
                };
                (code, describe(&exec.argv, cwd, error))
            })
        };
        let serial = self.next_serial;
        let (pid, terminal) = match stdio {
            ExecFds::Straight(fds) => {
                let [stdin, stdout, stderr] = &fds;
                let stdio = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
                (spawn(stdio, None)?, None)
            }
            ExecFds::Terminal(stream) => {
                let size = exec
                    .tty
                    .unwrap_or(proto::shim::TtySize { rows: 24, cols: 80 });
                let failed = |error: std::io::Error| {
                    let text = format!("cannot make a terminal: {error}");
                    (ErrorCode::AgentFailed, text)
                };
                let (mut terminal, slave) =
                    Terminal::open(size, identity.uid, stream).map_err(failed)?;
                terminal.watch(poller, serial).map_err(failed)?;
                let slave = slave.as_fd();
                (spawn([slave; 3], Some(slave))?, Some(terminal))
            }
        };
        self.next_serial += 1;
        let running = Running {
            id: Some(exec.id),
            pid,
            status: None,
            terminal,
        };
        self.running.insert(serial, running);
        Ok(pid)
    }

    /// The broker's stream of a terminal became ready.
    pub(crate) fn stream_ready(&mut self, serial: u64, ready: Ready) {
        if let Some(terminal) = self.terminal(serial) {
            terminal.note_stream(ready);
        }
    }

    /// A terminal became ready.
    pub(crate) fn terminal_ready(&mut self, serial: u64, ready: Ready) {
        if let Some(terminal) = self.terminal(serial) {
            terminal.note_master(ready);
        }
    }

    /// Moves what can be moved, and tells of those that are over. Whether there is more to do at once.
    pub(crate) fn run(&mut self, scratch: &mut [u8], link: &mut Link) -> bool {
        let mut more = false;
        self.running.retain(|_, running| {
            let ended = running.status.is_some();
            if let Some(terminal) = &mut running.terminal {
                match terminal.pump(scratch, ended) {
                    terminal::Pumped::Waits => return true,
                    terminal::Pumped::More => {
                        more = true;
                        return true;
                    }
                    // The stream is closed when the terminal is dropped: after its last byte, before `exec.exited`.
                    terminal::Pumped::Over => running.terminal = None,
                }
            }
            if let (Some(status), Some(id)) = (running.status, running.id) {
                link.notify("exec.exited", &ExecExited { id, status });
            }
            !ended
        });
        more
    }

    /// `resize`. One for an exec that is over, or has no terminal, means nothing.
    pub(crate) fn resize(&self, resize: Resize) {
        let terminal = self
            .running
            .values()
            .find(|running| running.id == Some(resize.id))
            .and_then(|running| running.terminal.as_ref());
        if let Some(terminal) = terminal {
            terminal.resize(resize.size);
        }
    }

    /// Signals the process group of one.
    pub(crate) fn signal(&self, id: ExecId, signal: Signal) -> Result<(), Errno> {
        let alive = |running: &&Running| running.id == Some(id) && running.status.is_none();
        match self.running.values().find(alive) {
            Some(running) => kill(Pid::from_raw(-running.pid.as_raw()), signal),
            None => Err(Errno::ESRCH),
        }
    }

    /// The daemon is gone that asked for them: nobody hears them any more, and the next one counts its own.
    pub(crate) fn abandon(&mut self) {
        for running in self.running.values_mut() {
            running.id = None;
            if running.status.is_none() {
                // One that ends in this moment needs no signal.
                let _ = kill(Pid::from_raw(-running.pid.as_raw()), Signal::SIGKILL);
            }
        }
    }

    /// Process groups of those that have not been reaped.
    pub(crate) fn groups(&self) -> impl Iterator<Item = Pid> {
        self.running
            .values()
            .filter(|running| running.status.is_none())
            .map(|running| running.pid)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// A child has ended; whether it was one of these.
    pub(crate) fn note_reaped(&mut self, pid: Pid, status: Status) -> bool {
        let alive = |running: &&mut Running| running.pid == pid && running.status.is_none();
        match self.running.values_mut().find(alive) {
            Some(running) => {
                running.status = Some(exit_status(status));
                true
            }
            None => false,
        }
    }

    fn terminal(&mut self, serial: u64) -> Option<&mut Terminal> {
        self.running.get_mut(&serial)?.terminal.as_mut()
    }
}
