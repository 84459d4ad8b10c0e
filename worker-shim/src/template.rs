//! A template's side of forking: the link to the interpreter that forks, and what it said of itself.
//!
//! The interpreter is hostile like every agent: one short message is taken from it, and nothing but the broker's channels
//! is given to it.

use crate::poller::{Poller, Token, Watch};
use nix::sys::wait::waitpid;
use proto::shim::TemplateState;
use proto::shim::template::MAX_REASON;
use sandbox::seqpacket::Seqpacket;
use sandbox::sys::fork::fork_single;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Process numbers that are spent before the interpreter starts. Libraries (OpenSSL's random numbers) notice a fork by its
/// number being another, and that of a fork in its session's namespace is a low one.
const SPENT: usize = 8;

/// Largest message of an interpreter.
const MAX_MESSAGE: usize = 8 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Template {
    interpreter: Option<Seqpacket>,
    state: Option<TemplateState>,
}

impl Template {
    /// Also gives what becomes the interpreter's standard input.
    pub(crate) fn new(poller: &Poller) -> io::Result<(Self, OwnedFd)> {
        for _ in 0..SPENT {
            waitpid(fork_single(|| 0)?, None)?;
        }
        let (ours, theirs) = Seqpacket::pair()?;
        ours.set_nonblocking(true)?;
        poller.add(&ours, Token::Template, Watch::Reading)?;
        let template = Self {
            interpreter: Some(ours),
            state: None,
        };
        Ok((template, theirs.into_fd()))
    }

    /// What it has said, once it has.
    pub(crate) fn state(&self) -> Option<&TemplateState> {
        self.state.as_ref()
    }

    /// The interpreter speaks, or is gone. Whether there is something to tell.
    pub(crate) fn ready(&mut self) -> bool {
        let Some(interpreter) = &self.interpreter else {
            return false;
        };
        let mut buffer = [0; MAX_MESSAGE];
        let heard = match interpreter.recv(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Ok(received) if received.len > 0 && !received.truncated => {
                serde_json::from_slice(&buffer[..received.len]).ok()
            }
            Ok(_) | Err(_) => None,
        };
        // One that was ready can still be lost; nothing else is heard twice.
        match (heard, &self.state) {
            (Some(TemplateState::Ready), None) => self.state = Some(TemplateState::Ready),
            (Some(TemplateState::Refused { reason }), None) => {
                self.state = Some(refused(&reason));
                self.interpreter = None;
            }
            (Some(_) | None, Some(TemplateState::Refused { .. })) => {
                self.interpreter = None;
                return false;
            }
            (Some(_) | None, Some(TemplateState::Ready)) | (None, None) => self.ended(),
        }
        true
    }

    /// Its process has ended; a fork of it that waits for an order may still hold the other end.
    pub(crate) fn ended(&mut self) {
        self.interpreter = None;
        self.state = Some(match self.state.take() {
            Some(TemplateState::Ready) => refused("its process has ended"),
            Some(before @ TemplateState::Refused { .. }) => before,
            None => refused("its process ended before it was ready"),
        });
    }

    /// Hands one end of a channel to the next fork.
    pub(crate) fn fork(&self, channel: &OwnedFd) -> Result<(), &'static str> {
        match (&self.state, &self.interpreter) {
            (Some(TemplateState::Ready), Some(interpreter)) => interpreter
                .send(b"fork", &[channel.as_fd()])
                .map_err(|_| "the template takes no more orders"),
            _ => Err("the template is not ready"),
        }
    }
}

fn refused(reason: &str) -> TemplateState {
    TemplateState::Refused {
        reason: reason.chars().take(MAX_REASON).collect(),
    }
}
