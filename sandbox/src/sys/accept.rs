//! A connection from a listening socket: [accept4(2)](https://man7.org/linux/man-pages/man2/accept4.2.html). nix gives the
//! bare number; who owns it is said here.

use nix::sys::socket::{SockFlag, accept4};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Takes the next connection, close-on-exec.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let raw = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: accept4 has just made `raw` for us; nobody else knows the number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
