//! Descriptors at agreed numbers: putting them there before an exec, taking them over after it
//! ([dup(2)](https://man7.org/linux/man-pages/man2/dup.2.html)).

use super::check;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Copies of descriptors that are to be placed start here, so that placing one never overwrites another's source.
const FIRST_COPY: RawFd = 64;

/// Descriptor numbers already taken over, one bit each.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// A copy of `fd` under a number that [`place`] never overwrites.
pub fn out_of_the_way(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let raw = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(FIRST_COPY))?;
    // SAFETY: the kernel has just made `raw` for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Makes `fds[i]` available under number `first + i`, without close-on-exec. Numbers below [`FIRST_COPY`] only.
///
/// For a process that is about to exec: what was open under those numbers before is closed, whoever owned it.
pub fn place(first: RawFd, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let end = first + RawFd::try_from(fds.len()).map_err(|_| Errno::EINVAL)?;
    if first < 0 || end > FIRST_COPY {
        return Err(Errno::EINVAL.into());
    }
    // First out of the way, all of them; then into place.
    let mut copies = [-1; FIRST_COPY as usize];
    for (copy, fd) in copies.iter_mut().zip(fds) {
        *copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(FIRST_COPY))?;
    }
    for (to, from) in (first..end).zip(copies) {
        // SAFETY: the caller is about to exec, and reads nothing through the numbers that are overwritten here.
        check(libc::c_long::from(unsafe { libc::dup2(from, to) }))?;
    }
    Ok(())
}

/// Takes over the descriptor that this process was started with under number `fd`, and makes it close-on-exec.
///
/// `EBADF` if nothing is open there, `EBUSY` if it was taken before: a number has one owner.
pub fn take_over(fd: RawFd) -> io::Result<OwnedFd> {
    if !(3..FIRST_COPY).contains(&fd) {
        return Err(Errno::EINVAL.into());
    }
    if TAKEN.fetch_or(1 << fd, Ordering::Relaxed) >> fd & 1 == 1 {
        return Err(Errno::EBUSY.into());
    }
    // SAFETY: the flags are read first, on a number that is only borrowed for the call.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: open (F_SETFD succeeded), inherited by agreement under this number, and handed out once.
    Ok(unsafe { OwnedFd::from_raw_fd(borrowed.as_raw_fd()) })
}
