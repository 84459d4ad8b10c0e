//! Signals: dispositions and mask ([signal(7)](https://man7.org/linux/man-pages/man7/signal.7.html)) and
//! [signalfd(2)](https://man7.org/linux/man-pages/man2/signalfd.2.html).

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;

/// Blocks `signals` and returns the descriptor to read them from: non-blocking, close-on-exec.
pub fn signalfd(signals: &[Signal]) -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in signals {
        set.add(*signal);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// Gives every signal its default action and unblocks all, as a program expects at its start: an ignored signal (Rust
/// ignores SIGPIPE) and the mask would survive exec.
pub fn reset_all() -> io::Result<()> {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL runs no code of ours. Numbers that cannot be changed (KILL, STOP, glibc's own two) answer an
        // error, which is what we want of them.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}
