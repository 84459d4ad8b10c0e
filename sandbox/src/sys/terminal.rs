//! Controlling terminals and their size: [TIOCSCTTY(2const)](https://man7.org/linux/man-pages/man2/TIOCSCTTY.2const.html),
//! [TIOCSWINSZ(2const)](https://man7.org/linux/man-pages/man2/TIOCSWINSZ.2const.html).

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

/// Sets the size of `terminal` in character cells; its foreground processes get SIGWINCH.
pub fn set_size(terminal: BorrowedFd<'_>, rows: u16, cols: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize, which lives across the call.
    check(libc::c_long::from(unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size)
    }))?;
    Ok(())
}
