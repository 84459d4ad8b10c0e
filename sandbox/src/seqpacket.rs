//! A Unix SEQPACKET socket: one message per packet, descriptors on the message that names them.
//!
//! Both links of the runtime are this type: broker ⇄ launcher, broker ⇄ shim. Whether calls block is the descriptor's
//! own flag ([`Seqpacket::set_nonblocking`]); the broker wraps it for tokio, launcher and shim poll it.

use crate::sys::accept;
use crate::sys::scm::{self, Received};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket, socketpair,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

/// One end of a SEQPACKET connection.
#[derive(Debug)]
pub struct Seqpacket(OwnedFd);

/// A listening SEQPACKET socket.
#[derive(Debug)]
pub struct SeqpacketListener(OwnedFd);

impl Seqpacket {
    /// Two connected ends, blocking.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        Ok((Self(a), Self(b)))
    }

    /// Connects to the listener at `path`. Never waits: a listener whose queue is full (and whose owner may be nobody's
    /// friend) is `WouldBlock`. The connection is blocking.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        let connected = Self(fd);
        connected.set_nonblocking(false)?;
        Ok(connected)
    }

    /// Takes a descriptor that is known to be a connected SEQPACKET socket.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Makes later calls return `WouldBlock` instead of waiting (or wait again).
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        set_nonblocking(self.as_fd(), on)
    }

    /// Sends one packet.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        retry(|| scm::send(self.as_fd(), bytes, fds)).map(|_| ())
    }

    /// Receives one packet into `buffer`.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<Received> {
        retry(|| scm::recv(self.0.as_fd(), buffer))
    }

    /// Gives the descriptor back.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl SeqpacketListener {
    /// Binds and listens at `path`, which must not exist. The file's mode follows the process's umask.
    pub fn bind(path: &Path, backlog: i32) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        listen(&fd, Backlog::new(backlog)?)?;
        Ok(Self(fd))
    }

    /// Takes an inherited descriptor that is known to be a listening SEQPACKET socket.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Takes the next connection.
    pub fn accept(&self) -> io::Result<Seqpacket> {
        retry(|| accept::accept(self.as_fd())).map(Seqpacket)
    }

    /// Makes `accept` return `WouldBlock` instead of waiting.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        set_nonblocking(self.as_fd(), on)
    }

    /// Gives the descriptor back.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(
        fd,
        FcntlArg::F_SETFL(if on {
            flags | OFlag::O_NONBLOCK
        } else {
            flags - OFlag::O_NONBLOCK
        }),
    )?;
    Ok(())
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

impl AsFd for Seqpacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Seqpacket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for SeqpacketListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_packet_keeps_its_boundaries_and_its_descriptor() {
        let (a, b) = Seqpacket::pair().expect("pair");
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        a.send(b"one", &[writer.as_fd()]).expect("send");
        a.send(b"two", &[]).expect("send");
        drop(writer);
        let mut buffer = [0; 64];
        let mut first = b.recv(&mut buffer).expect("recv");
        assert_eq!((&buffer[..first.len], first.fds.len()), (&b"one"[..], 1));
        let mut passed = std::io::PipeWriter::from(first.fds.remove(0));
        passed.write_all(b"through").expect("write");
        drop(passed);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "through");
        let second = b.recv(&mut buffer).expect("recv");
        assert_eq!((&buffer[..second.len], second.fds.len()), (&b"two"[..], 0));
    }

    #[test]
    fn what_does_not_fit_is_reported() {
        let (a, b) = Seqpacket::pair().expect("pair");
        a.send(&[7; 100], &[]).expect("send");
        let received = b.recv(&mut [0; 10]).expect("recv");
        assert!(received.truncated);
        let (reader, _writer) = std::io::pipe().expect("pipe");
        let many = [reader.as_fd(); scm::MAX_FDS + 6];
        a.send(b"x", &many).expect("send");
        let received = b.recv(&mut [0; 10]).expect("recv");
        assert!(received.truncated && received.fds.len() <= scm::MAX_FDS);
    }

    /// A pipe's write end that was dropped everywhere is felt at its read end: no copy of it is left in this process.
    #[test]
    fn descriptors_that_come_along_uninvited_are_closed() {
        let (a, b) = Seqpacket::pair().expect("pair");
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let many = [writer.as_fd(); 100];
        a.send(b"x", &many).expect("send");
        drop(writer);
        let received = b.recv(&mut [0; 10]).expect("recv");
        assert!(received.truncated);
        drop(received);
        set_nonblocking(reader.as_fd(), true).expect("fcntl");
        let end = reader.read(&mut [0; 1]).expect("end of file, not EAGAIN");
        assert_eq!(end, 0);
    }

    #[test]
    fn a_closed_peer_is_length_zero_and_no_signal() {
        let (a, b) = Seqpacket::pair().expect("pair");
        drop(b);
        assert!(a.send(b"x", &[]).is_err());
        assert_eq!(a.recv(&mut [0; 4]).map(|r| r.len).unwrap_or(0), 0);
    }
}
