//! Closing whatever is open: [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html).

use super::check;
use crate::faults;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// Marks every descriptor from `first` up close-on-exec, so that the coming exec closes it, known or not.
///
/// Marking instead of closing keeps the descriptors that report a failed exec alive until the exec has succeeded.
pub fn cloexec_from(first: u32) -> io::Result<()> {
    // SAFETY: only sets a flag; no descriptor that Rust owns is closed while this process image lives.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })?;
    Ok(())
}

/// Closes every descriptor from 3 up but these.
///
/// For a fresh fork that goes on with `keep` alone and ends without returning into the code that it was forked from: what
/// that code owned is closed here, and must be neither used nor dropped in this process.
pub fn close_all_except(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    if faults::is_off("close_range") {
        return Ok(());
    }
    let mut keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    keep.retain(|fd| *fd >= 3);
    keep.sort_unstable();
    let mut first: u32 = 3;
    for fd in keep {
        let fd = fd.cast_unsigned();
        if first < fd {
            close(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close(first, libc::c_uint::MAX)
}

fn close(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: whoever owned these descriptors does not run in this process any more (see the caller's contract).
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
    Ok(())
}
