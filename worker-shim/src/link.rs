//! The link to the broker that is attached: packets out, in order, never blocking; packets in.
//!
//! Nobody attached is a normal state: answers and notifications to nobody are dropped here, so no caller needs to ask.
//! What must be in order with a stream ([`proto::shim::BodyEnd`] before the end of file) waits for its [`Ticket`].

pub(crate) mod door;
pub mod order;

use crate::poller::{Poller, Token, Watch};
use nix::errno::Errno;
use proto::code::ErrorCode;
use proto::jsonrpc::{self, ErrorObject, MAX_PACKET};
use proto::shim::Fault;
use sandbox::seqpacket::Seqpacket;
use sandbox::sys::scm::Received;
use serde::Serialize;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Most packets that wait for the broker. One that lets so many pile up is not reading: the connection is closed, and it
/// may attach again. Above half of it no more orders are read, so a live broker is only slowed down.
const MOST_QUEUED: usize = 256;

/// A packet's place in the order of all packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

impl Ticket {
    /// Of nothing: there is nothing to wait for.
    pub(crate) const NONE: Self = Self(0);
}

struct Packet {
    bytes: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

struct Attached {
    serial: u64,
    socket: Seqpacket,
    queue: VecDeque<Packet>,
    watch: Watch,
    /// Why it is to be closed.
    broken: Option<String>,
    /// Nobody reads any more. What was said before is still to be read: it may be an order to end, which was promised to somebody.
    gone: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Link {
    attached: Option<Attached>,
    /// Counts packets over all connections, so that a ticket of an earlier one counts as sent.
    pushed: u64,
}

impl Link {
    /// Takes a connection whose `attach` was accepted; the one before, if any, is closed.
    pub(crate) fn attach(
        &mut self,
        poller: &Poller,
        socket: Seqpacket,
        serial: u64,
    ) -> io::Result<()> {
        poller.change(&socket, Token::Link(serial), Watch::Reading)?;
        self.attached = Some(Attached {
            serial,
            socket,
            queue: VecDeque::new(),
            watch: Watch::Reading,
            broken: None,
            gone: false,
        });
        Ok(())
    }

    /// Closes the connection; if because of its other end, that is told why, as far as one more packet goes out.
    pub(crate) fn detach(&mut self) {
        let Some(attached) = self.attached.take() else {
            return;
        };
        if let Some(detail) = attached.broken {
            let packet = jsonrpc::notification("fault", &Fault { detail });
            let _ = attached.socket.send(&packet, &[]);
        }
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.attached.is_some()
    }

    pub(crate) fn is(&self, serial: u64) -> bool {
        self.attached.as_ref().is_some_and(|a| a.serial == serial)
    }

    /// Why the connection must be given up, if it must.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.attached.as_ref()?.broken.as_deref()
    }

    /// Marks the connection as to be closed: its other end broke the protocol.
    pub(crate) fn give_up(&mut self, why: String) {
        if let Some(attached) = &mut self.attached {
            attached.broken.get_or_insert(why);
        }
    }

    /// The next packet, if there is one. Length 0 means that the broker is gone.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Option<Received> {
        let attached = self.attached.as_mut()?;
        let mut received = attached.socket.recv(buffer);
        // Its other end was closed without having read all. That is told once, before what it has sent itself.
        if received
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
        {
            received = attached.socket.recv(buffer);
        }
        match received {
            Ok(received) => Some(received),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => {
                attached.broken = Some(format!("receive: {error}"));
                None
            }
        }
    }

    /// Sends or queues a notification.
    pub(crate) fn notify<P: Serialize>(&mut self, method: &str, params: &P) -> Ticket {
        self.push_with(None, || jsonrpc::notification(method, params))
    }

    /// Sends or queues a notification with a descriptor.
    pub(crate) fn notify_with<P: Serialize>(
        &mut self,
        method: &str,
        params: &P,
        descriptor: OwnedFd,
    ) -> Ticket {
        self.push_with(Some(descriptor), || jsonrpc::notification(method, params))
    }

    /// Answers a request.
    pub(crate) fn answer<R: Serialize>(&mut self, rpc: u64, result: &R) {
        let bytes = jsonrpc::result(rpc, result);
        if bytes.len() > MAX_PACKET {
            // Only a head full of characters that JSON escapes can do this.
            let text = "the answer's head does not fit a packet".to_owned();
            self.refuse(rpc, ErrorCode::AgentProtocol, text);
        } else {
            self.push_with(None, || bytes);
        }
    }

    /// Answers a request with an error.
    pub(crate) fn refuse(&mut self, rpc: u64, code: ErrorCode, message: String) {
        let error = ErrorObject {
            code: code.row().rpc,
            message,
        };
        self.push_with(None, || jsonrpc::error(rpc, &error));
    }

    /// Sends or queues an encoded packet.
    pub(crate) fn push(&mut self, bytes: Vec<u8>) -> Ticket {
        self.push_with(None, || bytes)
    }

    /// Everything up to this packet has left, or never will.
    pub(crate) fn is_sent(&self, ticket: Ticket) -> bool {
        let queued = self.attached.as_ref().map_or(0, |a| a.queue.len());
        ticket.0 + queued as u64 <= self.pushed
    }

    /// A packet now would go out at once: the time for what may wait (logs, egress).
    pub(crate) fn is_idle(&self) -> bool {
        self.attached
            .as_ref()
            .is_some_and(|a| a.queue.is_empty() && a.broken.is_none() && !a.gone)
    }

    /// Whether orders should be read now.
    pub(crate) fn has_room(&self) -> bool {
        self.attached
            .as_ref()
            .is_some_and(|a| a.queue.len() < MOST_QUEUED / 2 && a.broken.is_none())
    }

    /// Sends what is queued, as far as it goes, and watches for what is wanted next.
    pub(crate) fn flush(&mut self, poller: &Poller) {
        let has_room = self.has_room();
        let Some(attached) = &mut self.attached else {
            return;
        };
        attached.flush();
        let watch = match (has_room, attached.queue.is_empty()) {
            (true, true) => Watch::Reading,
            (true, false) => Watch::ReadingAndWriting,
            (false, false) => Watch::Writing,
            (false, true) => Watch::Nothing,
        };
        if watch != attached.watch {
            attached.watch = watch;
            let token = Token::Link(attached.serial);
            if let Err(error) = poller.change(&attached.socket, token, watch) {
                attached.broken = Some(format!("watch: {error}"));
            }
        }
    }

    fn push_with(
        &mut self,
        descriptor: Option<OwnedFd>,
        bytes: impl FnOnce() -> Vec<u8>,
    ) -> Ticket {
        self.pushed += 1;
        if let Some(attached) = self.attached.as_mut().filter(|a| !a.gone) {
            let direct = attached.queue.is_empty();
            attached.queue.push_back(Packet {
                bytes: bytes(),
                descriptor,
            });
            if direct {
                attached.flush();
            } else if attached.queue.len() > MOST_QUEUED {
                attached.broken = Some("the broker does not read".to_owned());
            }
        }
        Ticket(self.pushed)
    }
}

impl Attached {
    fn flush(&mut self) {
        while self.broken.is_none() {
            let Some(packet) = self.queue.front() else {
                return;
            };
            let descriptor = packet.descriptor.as_ref().map(AsFd::as_fd);
            match self.socket.send(&packet.bytes, descriptor.as_slice()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Too many descriptors are under way to a broker that does not take them: this one is not passed.
                Err(error)
                    if error.raw_os_error() == Some(Errno::ETOOMANYREFS as i32)
                        && descriptor.is_some() => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                    ) =>
                {
                    self.gone = true;
                    self.queue.clear();
                    return;
                }
                Err(error) => {
                    self.broken = Some(format!("send: {error}"));
                    return;
                }
            }
            self.queue.pop_front();
        }
    }
}
