//! The agent's port, and the session's other ports that callers may reach: dialing them, and keeping connections that they
//! leave open. There is one way to all of them; which port it is, a connection knows.
//!
//! Agents bind `127.0.0.1`, `0.0.0.0`, `[::]` or `[::1]`; the first three answer at 127.0.0.1 (the third unless it is
//! v6-only), so that is tried first, then [::1], and what worked is tried first from then on.
//!
//! A kept connection saves the handshake, at the price of a race: the agent may close it in the moment we use it. So it is
//! kept only [`KEEP`] long (the common servers wait 2–5 s), and peeked at before use.

use crate::poller::{Poller, Token};
use crate::socket::Socket;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, connect, setsockopt, socket,
    sockopt,
};
use proto::shim::AgentWire;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// How long an idle connection is kept.
pub(crate) const KEEP: Duration = Duration::from_secs(1);

/// Most idle connections kept: enough for a burst, few enough for an agent with a small backlog of workers.
const MOST_KEPT: usize = 4;

/// A loopback address of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loopback {
    V4,
    V6,
}

impl Loopback {
    fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// A connection to the agent.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Its token's serial.
    pub(crate) serial: u64,
    /// Where it leads.
    port: u16,
    pub(crate) socket: Socket,
    /// The agent has accepted it (or its kernel has).
    pub(crate) connected: bool,
    /// It has served a request before.
    pub(crate) reused: bool,
    address: Loopback,
    /// The other address was tried before this one.
    second: bool,
}

/// The ports and their idle connections.
#[derive(Debug)]
pub(crate) struct AgentPorts {
    wire: AgentWire,
    /// Where the agent's own was found last; the others are looked for each time.
    first: Loopback,
    next_serial: u64,
    idle: Vec<(Instant, Connection)>,
}

impl AgentPorts {
    pub(crate) fn new(wire: AgentWire) -> Self {
        Self {
            wire,
            first: Loopback::V4,
            next_serial: 0,
            idle: Vec::new(),
        }
    }

    /// The agent's own.
    pub(crate) fn own(&self) -> u16 {
        self.wire.port
    }

    /// The port that an `invoke` asks for; `None` if the session does not offer it.
    pub(crate) fn asked(&self, port: Option<u16>) -> Option<u16> {
        match port {
            None => Some(self.own()),
            Some(port) => self.wire.offers(port).then_some(port),
        }
    }

    /// A connection for one request: an idle one if there is a live one, otherwise a new one.
    pub(crate) fn take(&mut self, poller: &Poller, port: u16) -> Result<Connection, Errno> {
        while let Some(at) = self.idle.iter().rposition(|(_, c)| c.port == port) {
            let (_, mut connection) = self.idle.remove(at);
            if connection.socket.is_quiet() {
                connection.reused = true;
                return Ok(connection);
            }
        }
        self.dial(poller, port)
    }

    /// A new connection, perhaps still in the making.
    pub(crate) fn dial(&mut self, poller: &Poller, port: u16) -> Result<Connection, Errno> {
        let first = match port == self.own() {
            true => self.first,
            false => Loopback::V4,
        };
        match self.dial_address(poller, port, first, false) {
            Err(error) if says_nobody_listens(error) => {
                self.dial_address(poller, port, first.other(), true)
            }
            other => other,
        }
    }

    /// A new connection to where `before` led.
    pub(crate) fn dial_again(
        &mut self,
        poller: &Poller,
        before: &Connection,
    ) -> Result<Connection, Errno> {
        self.dial(poller, before.port)
    }

    /// The next address after `failed` was refused; `None` if there is none left.
    pub(crate) fn redial(
        &mut self,
        poller: &Poller,
        failed: &Connection,
        error: Errno,
    ) -> Option<Result<Connection, Errno>> {
        (!failed.second && says_nobody_listens(error))
            .then(|| self.dial_address(poller, failed.port, failed.address.other(), true))
    }

    /// Remembers where the agent listens.
    pub(crate) fn note_connected(&mut self, connection: &mut Connection) {
        connection.connected = true;
        if connection.port == self.own() {
            self.first = connection.address;
        }
    }

    /// Keeps a connection whose exchange is complete and whose agent keeps it alive.
    pub(crate) fn keep(&mut self, connection: Connection, now: Instant) {
        if self.idle.len() < MOST_KEPT {
            self.idle.push((now + KEEP, connection));
        }
    }

    /// An idle connection became readable: it has ended, or says something that nobody asked for. Either way it goes.
    pub(crate) fn drop_idle(&mut self, serial: u64) {
        self.idle.retain(|(_, c)| c.serial != serial);
    }

    /// Drops what was idle for too long; says when to come again.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Instant> {
        self.idle.retain(|(until, _)| *until > now);
        self.idle.iter().map(|(until, _)| *until).min()
    }

    fn dial_address(
        &mut self,
        poller: &Poller,
        port: u16,
        address: Loopback,
        second: bool,
    ) -> Result<Connection, Errno> {
        let family = match address {
            Loopback::V4 => AddressFamily::Inet,
            Loopback::V6 => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(family, SockType::Stream, flags, None)?;
        // Bodies are written as they come; waiting for acknowledgements (Nagle) would hold events of a stream back.
        setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
        let dialed = match address {
            Loopback::V4 => connect(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)),
            Loopback::V6 => {
                let to = SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0);
                connect(fd.as_raw_fd(), &SockaddrIn6::from(to))
            }
        };
        match dialed {
            Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let mut connection = Connection {
            serial: self.next_serial,
            port,
            socket: Socket::new(fd),
            connected: false,
            reused: false,
            address,
            second,
        };
        self.next_serial += 1;
        let watched = connection
            .socket
            .watch(poller, Token::Agent(connection.serial));
        match watched {
            Ok(()) => Ok(connection),
            Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(0))),
        }
    }
}

/// Errors that another loopback address may not have.
pub(crate) fn says_nobody_listens(error: Errno) -> bool {
    matches!(
        error,
        Errno::ECONNREFUSED | Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT | Errno::ENETUNREACH
    )
}
