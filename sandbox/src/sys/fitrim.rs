//! Discarding what is free in a mounted file system: `FITRIM`,
//! [ioctl_fitrim(2)](https://man7.org/linux/man-pages/man2/ioctl_fitrim.2.html), as fstrim(8) does.

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `_IOWR('X', 121, struct fstrim_range)`.
const FITRIM: libc::c_ulong = 0xC018_5879;

/// `struct fstrim_range`.
#[repr(C)]
struct Range {
    start: u64,
    len: u64,
    minlen: u64,
}

/// Discards what is free from `start` on, `len` bytes long, in stretches of at least `shortest` bytes. `file` is any of the
/// file system's; needs `CAP_SYS_ADMIN`.
pub fn fitrim(file: BorrowedFd<'_>, start: u64, len: u64, shortest: u64) -> io::Result<()> {
    let mut range = Range {
        start,
        len,
        minlen: shortest,
    };
    // SAFETY: FITRIM reads one fstrim_range and writes how much it has discarded to it; `range` is one.
    check(libc::c_long::from(unsafe {
        libc::ioctl(file.as_raw_fd(), FITRIM, &raw mut range)
    }))?;
    Ok(())
}
