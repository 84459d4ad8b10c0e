//! Processes by descriptor: [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html),
//! [pidfd_send_signal(2)](https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html).

use super::check;
use super::reap::Status;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Opens a process. Check afterwards that it is still the one you mean: the number may have been reused before the call.
pub fn open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: takes plain numbers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made `fd` for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The process's number in this process's `/proc`; `ESRCH` if it has ended and was collected.
pub fn number(pidfd: BorrowedFd<'_>) -> io::Result<Pid> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    info.lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .and_then(|number| number.trim().parse().ok())
        // 0 in another pid namespace, -1 when it is no more.
        .filter(|number| *number > 0)
        .map(Pid::from_raw)
        .ok_or_else(|| Errno::ESRCH.into())
}

/// Whether the process has ended: its descriptor is readable then.
#[must_use]
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// How the process ended, once it has and its parent has collected it: the kernel (6.15) keeps that for descriptors of it
/// that were open before. Not yet is `None`; where nobody will ever know, it is an error.
pub fn exit_status(pidfd: BorrowedFd<'_>) -> io::Result<Option<Status>> {
    /// `struct pidfd_info`, as it was first.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const PIDFD_GET_INFO: u64 = 0xC040_FF0B;
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    if !has_ended(pidfd) {
        return Ok(None);
    }
    let mut info = Info {
        mask: PIDFD_INFO_EXIT,
        ..Info::default()
    };
    // SAFETY: the request's number has the size of `info` in it, which lives across the call.
    check(i64::from(unsafe {
        libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info)
    }))?;
    let code = info.exit_code;
    Ok(
        (info.mask & PIDFD_INFO_EXIT != 0).then(|| match libc::WIFEXITED(code) {
            true => Status::Code(libc::WEXITSTATUS(code)),
            false => Status::Signal(libc::WTERMSIG(code)),
        }),
    )
}

/// Sends a signal to exactly that process; `ESRCH` if it has ended.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    // SAFETY: a null siginfo asks for the kernel's own, as kill(2) sends it.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal as libc::c_int,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}
