//! Who may attach: connections that have not spoken yet, the token, and the epoch that fences older daemons.
//!
//! Across user namespaces peer credentials prove nothing (architecture §2), so whoever reaches the socket must show the
//! session's token, first thing and within [`PATIENCE`]. An epoch older than the last accepted one is refused: a daemon
//! that was replaced, but does not know it yet, cannot take a session back.

use crate::poller::{Poller, Token, Watch};
use proto::code::ErrorCode;
use proto::jsonrpc::{self, ErrorObject, Message};
use proto::shim::{Attach, Boot};
use sandbox::seqpacket::{Seqpacket, SeqpacketListener};
use sandbox::sys::scm::Received;
use std::io;
use std::time::{Duration, Instant};

/// How long a connection may stay silent.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most connections that have not attached yet; one more pushes the oldest out, so that silent ones cannot lock a daemon
/// out.
const MOST_PENDING: usize = 4;

struct Pending {
    serial: u64,
    socket: Seqpacket,
    until: Instant,
}

/// The listener and who stands before it.
pub(crate) struct Door {
    listener: SeqpacketListener,
    token: String,
    epoch: u64,
    pending: Vec<Pending>,
    next_serial: u64,
}

/// A connection that may become the link once its `attach` is answered.
pub(crate) struct Admitted {
    pub(crate) serial: u64,
    pub(crate) socket: Seqpacket,
    /// The `attach` request to answer.
    pub(crate) rpc: u64,
}

impl Door {
    pub(crate) fn new(
        listener: SeqpacketListener,
        boot: &Boot,
        poller: &Poller,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        poller.add(&listener, Token::Listener, Watch::Reading)?;
        Ok(Self {
            listener,
            token: boot.token.clone(),
            epoch: boot.epoch,
            pending: Vec::new(),
            next_serial: 0,
        })
    }

    /// Takes one connection in.
    pub(crate) fn accept(&mut self, poller: &Poller, now: Instant) {
        // A failed accept is the caller's loss only (it went away, or we are out of descriptors for the moment).
        let Ok(socket) = self.listener.accept() else {
            return;
        };
        let serial = self.next_serial;
        self.next_serial += 1;
        let watched = socket
            .set_nonblocking(true)
            .and_then(|()| poller.add(&socket, Token::Pending(serial), Watch::Reading));
        if watched.is_err() {
            return;
        }
        if self.pending.len() == MOST_PENDING {
            self.pending.remove(0);
        }
        self.pending.push(Pending {
            serial,
            socket,
            until: now + PATIENCE,
        });
    }

    /// Reads what a pending connection says; it either becomes admitted or is closed.
    pub(crate) fn hear(&mut self, serial: u64, buffer: &mut [u8]) -> Option<Admitted> {
        let at = self.pending.iter().position(|p| p.serial == serial)?;
        let received = match self.pending[at].socket.recv(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            other => other,
        };
        // Whatever it said, it is pending no longer.
        let socket = self.pending.remove(at).socket;
        let received = received.ok().filter(|r| r.len > 0)?;
        let (rpc, verdict) = self.judge(&buffer[..received.len], &received)?;
        match verdict {
            Ok(()) => Some(Admitted {
                serial,
                socket,
                rpc,
            }),
            Err(error) => {
                // If even this does not fit its empty socket, closing it says the same.
                let _ = socket.send(&jsonrpc::error(rpc, &error), &[]);
                None
            }
        }
    }

    /// Closes who was silent for too long; says when to come again.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Instant> {
        self.pending.retain(|p| p.until > now);
        self.pending.iter().map(|p| p.until).min()
    }

    /// `None`: not even a request that could be answered.
    fn judge(
        &mut self,
        packet: &[u8],
        received: &Received,
    ) -> Option<(u64, Result<(), ErrorObject>)> {
        if received.truncated || !received.fds.is_empty() {
            return None;
        }
        let Ok(Message::Request { id, method, params }) = jsonrpc::parse(packet) else {
            return None;
        };
        let refuse = |code: ErrorCode, message: String| {
            Some((
                id,
                Err(ErrorObject {
                    code: code.row().rpc,
                    message,
                }),
            ))
        };
        if method != "attach" {
            return refuse(ErrorCode::BadOrder, "attach must come first".to_owned());
        }
        let attach: Attach = match jsonrpc::typed(params) {
            Ok(attach) => attach,
            Err(error) => return refuse(ErrorCode::BadOrder, format!("attach: {error}")),
        };
        if !equal_in_constant_time(attach.token.as_bytes(), self.token.as_bytes()) {
            return refuse(ErrorCode::Unauthorized, "wrong token".to_owned());
        }
        if attach.epoch < self.epoch {
            let text = format!("epoch {} is fenced by {}", attach.epoch, self.epoch);
            return refuse(ErrorCode::Conflict, text);
        }
        self.epoch = attach.epoch;
        Some((id, Ok(())))
    }
}

/// Takes equally long for every wrong token of the right length.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    let difference = a
        .iter()
        .zip(b)
        .fold(0, |sum, (x, y)| std::hint::black_box(sum | (x ^ y)));
    a.len() == b.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_equal_only_if_equal() {
        assert!(equal_in_constant_time(b"abc", b"abc"));
        for wrong in [&b"abd"[..], b"ab", b"abcd", b""] {
            assert!(!equal_in_constant_time(wrong, b"abc"), "{wrong:?}");
        }
    }
}
