//! A non-blocking stream descriptor that remembers what is ready (edge-triggered epoll).
//!
//! Calls pass `MSG_DONTWAIT`, so a descriptor from somewhere else needs no `fcntl`, and its other holders keep theirs.

use crate::poller::{Poller, Ready, Token, Watch};
use nix::errno::Errno;
use nix::sys::socket::{
    MsgFlags, Shutdown, SockaddrStorage, getpeername, getsockopt, recv, send, shutdown, sockopt,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Outcome of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// That many bytes, at least one.
    Data(usize),
    /// The other end has finished writing.
    End,
    /// Nothing now.
    Blocked,
    /// Broken.
    Failed(Errno),
}

/// Outcome of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// That many bytes, at least one.
    Some(usize),
    /// No room now.
    Blocked,
    /// Broken.
    Failed(Errno),
}

/// A connected stream socket.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    watched: bool,
    readable: bool,
    writable: bool,
    ended: bool,
    hung_up: bool,
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            watched: false,
            readable: true,
            writable: true,
            ended: false,
            hung_up: false,
        }
    }

    /// Registers it, unless it is registered. The kernel reports the state as it is then, so no edge is lost.
    pub(crate) fn watch(&mut self, poller: &Poller, token: Token) -> io::Result<()> {
        if !self.watched {
            poller.add(&self.fd, token, Watch::Edges)?;
            self.watched = true;
        }
        Ok(())
    }

    /// Takes what epoll said.
    pub(crate) fn note(&mut self, ready: Ready) {
        self.readable |= ready.readable;
        self.writable |= ready.writable;
        self.ended |= ready.ended;
        self.hung_up |= ready.hung_up;
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.readable
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Nobody is at the other end any more.
    pub(crate) fn is_hung_up(&self) -> bool {
        self.hung_up
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Read {
        match again(|| recv(self.fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)) {
            Ok(0) => Read::End,
            Ok(n) => {
                // A watched stream socket that gave less than asked is empty, and what comes later is an edge of its own;
                // but an end of file that was announced together with these bytes is not announced again.
                self.readable = n == buffer.len() || !self.watched || self.ended;
                Read::Data(n)
            }
            Err(Errno::EAGAIN) => {
                self.readable = false;
                Read::Blocked
            }
            Err(error) => Read::Failed(error),
        }
    }

    /// Whether there is neither a byte nor an end of file to read.
    pub(crate) fn is_quiet(&self) -> bool {
        let peek = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        again(|| recv(self.fd.as_raw_fd(), &mut [0], peek)) == Err(Errno::EAGAIN)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Written {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match again(|| send(self.fd.as_raw_fd(), bytes, flags)) {
            Ok(n) => {
                self.writable = n == bytes.len();
                Written::Some(n)
            }
            Err(Errno::EAGAIN) => {
                self.writable = false;
                Written::Blocked
            }
            Err(error) => Written::Failed(error),
        }
    }

    /// The pending error, if there is one.
    pub(crate) fn error(&self) -> Option<Errno> {
        match getsockopt(&self.fd, sockopt::SocketError) {
            Ok(0) => None,
            Ok(raw) => Some(Errno::from_raw(raw)),
            Err(error) => Some(error),
        }
    }

    /// Whether the connection is made.
    pub(crate) fn is_connected(&self) -> bool {
        getpeername::<SockaddrStorage>(self.fd.as_raw_fd()).is_ok()
    }

    /// Says that no more will be written.
    pub(crate) fn finish(&self) {
        // The only failure is that the other end is gone already, which the next read will say.
        let _ = shutdown(self.fd.as_raw_fd(), Shutdown::Write);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(crate) fn again<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}
