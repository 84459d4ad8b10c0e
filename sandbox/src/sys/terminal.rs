//! Controlling terminals: [TIOCSCTTY(2const)](https://man7.org/linux/man-pages/man2/TIOCSCTTY.2const.html).

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Makes `terminal` the controlling terminal of the calling process, which must lead a session without one.
pub fn make_controlling(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a plain number; 0 means: do not steal it from another session.
    check(libc::c_long::from(unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0)
    }))?;
    Ok(())
}
