//! Collecting children that have ended: [waitpid(2)](https://man7.org/linux/man-pages/man2/waitpid.2.html).
//!
//! Not nix's: it answers an error for a child that a real-time signal killed, after the kernel has let go of it, and who
//! it was is lost.

use nix::errno::Errno;
use nix::unistd::Pid;

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It called exit with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Status {
    /// As a shell says it: the code, or 128 + signal.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Collects every child that has ended by now, without waiting. In a PID 1 that includes adopted orphans.
#[must_use]
pub fn reap_all() -> Vec<(Pid, Status)> {
    let mut reaped = Vec::new();
    loop {
        let mut status = 0;
        // SAFETY: `status` is a place for one int, as waitpid wants.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        match pid {
            -1 if Errno::last() == Errno::EINTR => {}
            // Nobody has ended, or there is no child at all.
            -1 | 0 => return reaped,
            pid if libc::WIFEXITED(status) => {
                reaped.push((Pid::from_raw(pid), Status::Code(libc::WEXITSTATUS(status))));
            }
            // Stops are not asked for (no WUNTRACED), so a signal has killed it.
            pid => reaped.push((Pid::from_raw(pid), Status::Signal(libc::WTERMSIG(status)))),
        }
    }
}
