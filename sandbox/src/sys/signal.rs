//! Signals: dispositions and mask ([signal(7)](https://man7.org/linux/man-pages/man7/signal.7.html)) and
//! [signalfd(2)](https://man7.org/linux/man-pages/man2/signalfd.2.html).

use super::check;
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

/// What the kernel's `rt_sigaction` takes: all zeroes is the default action with no flags.
#[repr(C)]
#[derive(Default)]
struct KernelAction {
    handler: usize,
    flags: libc::c_ulong,
    restorer: usize,
    mask: u64,
}

/// Gives every signal its default action and unblocks all, as a program expects at its start: an ignored signal (Rust
/// ignores SIGPIPE) and the mask would survive exec.
///
/// Past the C library, which refuses to touch its own two signals, even where a parent has left them ignored.
pub fn reset_all() -> io::Result<()> {
    const SIGNALS: libc::c_int = 64;
    for number in 1..=SIGNALS {
        if number == libc::SIGKILL || number == libc::SIGSTOP {
            continue;
        }
        let action = KernelAction::default();
        // SAFETY: the default action runs no code of ours; the size is that of the kernel's signal mask.
        check(unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                &raw const action,
                std::ptr::null_mut::<KernelAction>(),
                std::mem::size_of::<u64>(),
            )
        })?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}
