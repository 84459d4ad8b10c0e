//! How the agent of a forked session comes: from the channel that the broker gives, to the "go" that lets it serve.
//!
//! ```text
//!  Awaited ─channel─▶ Asked ─it says its number─▶ Here ─go─▶ Serving ─its process ends─▶ Over
//!                       └─it says why not, or nothing─▶ Over
//! ```
//!
//! This process gives away its own namespaces, by descriptors that nobody else in the session could open. What comes back is
//! hostile: a number, which is looked up in this pid namespace, and no descriptor.

use crate::poller::{Poller, Token, Watch};
use nix::unistd::Pid;
use proto::shim::{AgentExited, ExitStatus};
use sandbox::seccomp;
use sandbox::seqpacket::Seqpacket;
use sandbox::sys::pidfd;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// In the order in which they are joined: the first gives the right to the others; behind the last, nothing of the template
/// is found any more. Five go with the first packet, the rest with the second.
const NAMESPACES: [&str; 7] = ["user", "pid", "net", "ipc", "uts", "cgroup", "mnt"];

/// How many descriptors go with the first packet.
const FIRST: usize = 6;

/// Largest message of a fork.
const MAX_MESSAGE: usize = 8 * 1024;

/// What a fork needs to become the agent.
#[derive(Debug, Serialize)]
struct Start {
    uid: u32,
    gid: u32,
    /// The last seccomp filter, in hexadecimal digits.
    filter: String,
}

/// What an agent knows of its session.
#[derive(Debug, Serialize)]
struct Session<'a> {
    env: &'a BTreeMap<String, String>,
    cwd: &'a str,
}

/// What a fork says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Pid(i32),
    Error(String),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) enum Arrival {
    #[default]
    Awaited,
    Asked {
        channel: Seqpacket,
    },
    Here {
        channel: Seqpacket,
        pid: Pid,
        life: OwnedFd,
    },
    Serving {
        life: OwnedFd,
    },
    Over,
}

/// What came of an event.
#[derive(Debug)]
pub(crate) enum News {
    Nothing,
    /// It waits to be looked at.
    Here,
    /// It has ended, or never came.
    Ended(AgentExited),
}

impl Arrival {
    /// Gives everything that a fork needs into the channel.
    pub(crate) fn ask(
        &mut self,
        channel: OwnedFd,
        stdio: [BorrowedFd<'_>; 3],
        (uid, gid): (u32, u32),
        poller: &Poller,
    ) -> io::Result<()> {
        if !matches!(self, Self::Awaited) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let channel = Seqpacket::from_fd(channel);
        channel.set_nonblocking(true)?;
        let namespaces = NAMESPACES
            .iter()
            .map(|name| File::open(format!("/proc/self/ns/{name}")))
            .collect::<io::Result<Vec<_>>>()?;
        let mut fds: Vec<BorrowedFd<'_>> = namespaces.iter().map(AsFd::as_fd).collect();
        fds.extend(stdio);
        let (first, rest) = fds.split_at(FIRST);
        let filter = seccomp::to_bytes(&seccomp::without_setns());
        let start = Start {
            uid,
            gid,
            filter: filter.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        channel.send(b"namespaces", first)?;
        channel.send(&serde_json::to_vec(&start)?, rest)?;
        poller.add(&channel, Token::Fork, Watch::Reading)?;
        *self = Self::Asked { channel };
        Ok(())
    }

    /// The channel has something to say.
    pub(crate) fn channel_ready(&mut self, poller: &Poller) -> News {
        let (channel, was_here) = match self {
            Self::Asked { channel } => (channel, false),
            Self::Here { channel, .. } => (channel, true),
            Self::Awaited | Self::Serving { .. } | Self::Over => return News::Nothing,
        };
        let mut buffer = [0; MAX_MESSAGE];
        let heard = match channel.recv(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return News::Nothing,
            Ok(received) if received.len > 0 && !received.truncated => {
                serde_json::from_slice(&buffer[..received.len]).ok()
            }
            Ok(_) | Err(_) => None,
        };
        let arrived = match heard {
            Some(Said::Pid(pid)) if pid > 1 && !was_here => {
                self.arrived(Pid::from_raw(pid), poller)
            }
            Some(Said::Error(text)) => Err(text),
            Some(Said::Pid(_)) | None => Err("the fork ended on its way".to_owned()),
        };
        match arrived {
            Ok(()) => News::Here,
            Err(text) => self.failed(&text),
        }
    }

    fn arrived(&mut self, pid: Pid, poller: &Poller) -> Result<(), String> {
        let life = pidfd::open(pid).map_err(|error| format!("process {pid}: {error}"))?;
        poller
            .add(&life, Token::Life, Watch::Edges)
            .map_err(|error| format!("process {pid}: {error}"))?;
        if let Self::Asked { channel } = std::mem::take(self) {
            *self = Self::Here { channel, pid, life };
        }
        Ok(())
    }

    fn failed(&mut self, text: &str) -> News {
        *self = Self::Over;
        let text: String = text.chars().take(1000).collect();
        News::Ended(AgentExited {
            status: Err(format!("cannot fork the agent from its template: {text}")),
        })
    }

    /// The process that waits to be looked at, and a descriptor of it.
    pub(crate) fn here(&self) -> Option<(Pid, io::Result<OwnedFd>)> {
        match self {
            Self::Here { pid, life, .. } => Some((*pid, life.try_clone())),
            Self::Awaited | Self::Asked { .. } | Self::Serving { .. } | Self::Over => None,
        }
    }

    /// Lets it go. Its process and a descriptor of it, if it was there.
    pub(crate) fn go(
        &mut self,
        env: &BTreeMap<String, String>,
        cwd: &str,
    ) -> io::Result<(Pid, OwnedFd)> {
        match std::mem::take(self) {
            Self::Here { channel, pid, life } => {
                let session = serde_json::to_vec(&Session { env, cwd })?;
                channel.send(&session, &[])?;
                let copy = life.try_clone()?;
                *self = Self::Serving { life };
                Ok((pid, copy))
            }
            other => {
                *self = other;
                Err(io::ErrorKind::NotConnected.into())
            }
        }
    }

    /// Its process has ended, or is reaped now. It is another's child, so how it ended is told only where the kernel keeps that.
    pub(crate) fn life_ready(&mut self) -> News {
        let (Self::Here { life, .. } | Self::Serving { life }) = self else {
            return News::Nothing;
        };
        let status = match pidfd::exit_status(life.as_fd()) {
            Ok(None) => return News::Nothing,
            Ok(Some(status)) => Ok(crate::agent::exit_status(status)),
            Err(_) => Err("it has ended; this kernel does not tell how".to_owned()),
        };
        *self = Self::Over;
        let status: Result<ExitStatus, String> = status;
        News::Ended(AgentExited { status })
    }

    /// Whether a process of its may be alive.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(self, Self::Here { .. } | Self::Serving { .. })
    }
}
