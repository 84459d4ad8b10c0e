//! A SEQPACKET link under tokio: the broker's ends of the launcher link and of every shim link.

use sandbox::seqpacket::Seqpacket;
use sandbox::sys::scm::Received;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use tokio::io::unix::AsyncFd;

/// A connected SEQPACKET socket, registered with the runtime. Sending and receiving take `&self`; packets are atomic, so
/// several tasks may send at once.
#[derive(Debug)]
pub struct AsyncSeqpacket(AsyncFd<Seqpacket>);

impl AsyncSeqpacket {
    /// Registers a connected socket; must be called inside the runtime.
    pub fn new(socket: Seqpacket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // `new` is deprecated for types whose descriptor may change or close under it, in favour of an `unsafe` one; a
        // `Seqpacket` owns one descriptor from beginning to end.
        #[expect(
            deprecated,
            reason = "the safe constructor is sound for an owned, constant descriptor"
        )]
        Ok(Self(AsyncFd::new(socket)?))
    }

    /// Sends one packet, waiting while the other end's queue is full.
    pub async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        // Tried first: the queue is nearly always free, and asking the reactor costs more than the call.
        match self.try_send(bytes, fds) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
        loop {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|socket| socket.get_ref().send(bytes, fds)) {
                Ok(done) => return done,
                Err(_would_block) => {}
            }
        }
    }

    /// Sends one packet or fails with `WouldBlock`.
    pub fn try_send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.get_ref().send(bytes, fds)
    }

    /// Receives one packet into `buffer`; length 0 means that the other end is closed.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|socket| socket.get_ref().recv(buffer)) {
                Ok(done) => return done,
                Err(_would_block) => {}
            }
        }
    }

    /// Receives what is there now, whatever the reactor knows; `WouldBlock` if that is nothing.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<Received> {
        self.0.get_ref().recv(buffer)
    }
}

impl AsFd for AsyncSeqpacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
