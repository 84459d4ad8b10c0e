//! Making processes: [fork(2)](https://man7.org/linux/man-pages/man2/fork.2.html) and
//! [clone3(2)](https://man7.org/linux/man-pages/man2/clone3.2.html), from a single thread only.
//!
//! A fork of a multi-threaded process copies locks that nobody will ever release, and `PR_SET_PDEATHSIG` follows the
//! forking *thread*: both are ruled out by counting the threads first, which makes these functions safe to call.

use super::check;
use nix::errno::Errno;
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Exit status of a child whose closure panicked.
pub const PANICKED: i32 = 134;

/// Links of `/proc/self/task` that are no threads: `.`, and its name in the directory above.
const OTHER_LINKS: u64 = 2;

/// Fails with `EDEADLK` unless the calling process has exactly one thread.
pub fn require_single_thread() -> io::Result<()> {
    // A directory with one more link for each thread: a look at it costs a tenth of `/proc/self/stat`, in which the kernel
    // adds up everything there is to know of a process.
    let links = nix::sys::stat::stat("/proc/self/task")?.st_nlink;
    match links.checked_sub(OTHER_LINKS) {
        Some(1) => Ok(()),
        Some(_) | None => Err(Errno::EDEADLK.into()),
    }
}

/// Forks. The child runs `child` and exits with the status that it returns; it never returns to the caller.
pub fn fork_single(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    require_single_thread()?;
    // SAFETY: this process has one thread (checked above), so the child may do all that the parent may.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        run_child(child);
    }
    check(pid.into())?;
    Ok(Pid::from_raw(pid))
}

/// What a cloned child shares, and where it starts.
#[derive(Debug, Default)]
pub struct Clone3<'a> {
    /// `CLONE_NEW*` flags of the namespaces to make.
    pub namespaces: u64,
    /// The child becomes the caller's sibling: its parent is the caller's parent (`CLONE_PARENT`).
    pub sibling: bool,
    /// Directory of the cgroup (v2) that the child starts in (`CLONE_INTO_CGROUP`); the caller's own if absent.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// A cloned child.
#[derive(Debug)]
pub struct Cloned {
    /// Its process id, as the caller sees it.
    pub pid: Pid,
    /// Its pidfd.
    pub pidfd: OwnedFd,
}

impl Clone3<'_> {
    /// Clones. The child runs `child` and exits with the status that it returns; it never returns to the caller.
    pub fn spawn(&self, child: impl FnOnce() -> i32) -> io::Result<Cloned> {
        require_single_thread()?;
        let mut raw_pidfd: RawFd = -1;
        // SAFETY: all zeroes is the documented "nothing" of every field.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = self.namespaces | libc::CLONE_PIDFD as u64;
        args.pidfd = (&raw mut raw_pidfd) as u64;
        if self.sibling {
            // With CLONE_PARENT the kernel takes the exit signal of the caller itself, and refuses one named here.
            args.flags |= libc::CLONE_PARENT as u64;
        } else {
            args.exit_signal = libc::SIGCHLD as u64;
        }
        if let Some(cgroup) = self.cgroup {
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(|_| Errno::EBADF)?;
        }
        // SAFETY: no CLONE_VM, so the child has a copy of the memory, as after fork; one thread (checked above), so no
        // lock is held by a thread that the copy lacks; `args` and `raw_pidfd` live across the call.
        let pid = check(unsafe {
            libc::syscall(
                libc::SYS_clone3,
                &raw mut args,
                std::mem::size_of::<libc::clone_args>(),
            )
        })?;
        if pid == 0 {
            run_child(child);
        }
        // SAFETY: the kernel has stored a new descriptor there, and nobody else knows its number.
        let pidfd = unsafe { OwnedFd::from_raw_fd(raw_pidfd) };
        let pid = Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?);
        Ok(Cloned { pid, pidfd })
    }
}

/// Not yet in libc for this target: `<linux/sched.h>`, since 5.7.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Ends the process when dropped: a panic must not unwind out of a child into the parent's stack frames.
struct ExitOnUnwind;

impl Drop for ExitOnUnwind {
    fn drop(&mut self) {
        exit_now(PANICKED);
    }
}

fn run_child(child: impl FnOnce() -> i32) -> ! {
    let guard = ExitOnUnwind;
    let status = child();
    std::mem::forget(guard);
    exit_now(status)
}

/// Ends the process without the exit handlers of the program that it was forked from.
fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}
