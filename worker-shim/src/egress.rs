//! The session's way out: a loopback port whose connections are handed to the broker, which resolves, judges and dials.
//!
//! The shim reads none of their bytes. It accepts only while a broker is attached and the link is idle, so what waits does
//! so in the kernel's backlog, bounded, and an agent that floods its proxy port delays nothing but itself.

use crate::link::Link;
use crate::poller::{Poller, Token, Watch};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
};
use proto::shim::Egress as Passed;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};

/// Most connections passed on in one turn.
const PER_TURN: usize = 8;

/// Where it is in a template and in sessions below it: what an import has read of it must be true in every fork. Nobody can have taken
/// it there, for a shim binds it before there is an agent.
pub(crate) const SAME: u16 = 3128;

/// See the module.
pub(crate) struct Egress {
    listener: TcpListener,
    port: u16,
    passed: u64,
    watched: bool,
}

impl Egress {
    /// Binds this port of 127.0.0.1; 0 is a free one.
    pub(crate) fn bind(port: u16, backlog: u32, poller: &Poller) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd: OwnedFd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        bind(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port))?;
        let most = i32::try_from(backlog.min(4096)).unwrap_or(4096);
        listen(&fd, Backlog::new(most)?)?;
        let port = getsockname::<SockaddrIn>(fd.as_raw_fd())?.port();
        poller.add(&fd, Token::Egress, Watch::Nothing)?;
        Ok(Self {
            listener: TcpListener::from(fd),
            port,
            passed: 0,
            watched: false,
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Watches the port exactly while a connection could be passed on.
    pub(crate) fn settle(&mut self, link: &Link, poller: &Poller) {
        let wanted = link.is_idle();
        if wanted != self.watched {
            let watch = if wanted {
                Watch::Reading
            } else {
                Watch::Nothing
            };
            // It is registered and open, so this cannot fail; if it did, the next turn would try again.
            if poller.change(&self.listener, Token::Egress, watch).is_ok() {
                self.watched = wanted;
            }
        }
    }

    /// Passes waiting connections on.
    pub(crate) fn ready(&mut self, link: &mut Link) {
        for _ in 0..PER_TURN {
            if !link.is_idle() {
                return;
            }
            // WouldBlock, or a connection that was gone before we took it.
            let Ok((connection, _)) = self.listener.accept() else {
                return;
            };
            self.passed += 1;
            let params = Passed {
                connection: self.passed,
            };
            link.notify_with("egress", &params, OwnedFd::from(connection));
        }
    }
}
