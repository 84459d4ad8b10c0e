//! Closing whatever is open: [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html).

use super::check;
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
/// that code owned is closed here, and must be neither used nor dropped in this process. Or for the very beginning of a
/// program, which owns nothing yet but what it inherited.
pub fn close_all_except(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    #[cfg(feature = "fault-injection")]
    if crate::faults::is_off("close_range") {
        return close_what_exec_would(keep);
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

/// With the measure left out: what was opened carelessly, without close-on-exec, stays open, and nothing else (locks of the
/// daemon, above all).
#[cfg(feature = "fault-injection")]
fn close_what_exec_would(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open {
        // SAFETY: only asks for a flag, and fails on a number that is not open (the directory's own).
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        let kept = keep.iter().any(|keep| keep.as_raw_fd() == fd);
        if fd >= 3 && !kept && flags != -1 && flags & libc::FD_CLOEXEC != 0 {
            close(fd.cast_unsigned(), fd.cast_unsigned())?;
        }
    }
    Ok(())
}
