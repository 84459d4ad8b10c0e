//! The door to `unsafe`: one small file per system call family, each with its man page.

pub mod accept;
pub mod capability;
pub mod close_range;
pub mod device_filter;
pub mod exec;
pub mod fitrim;
pub mod fork;
pub mod heap;
pub mod keyring;
pub mod loop_device;
pub mod loopback;
pub mod mount;
pub mod pidfd;
pub mod reap;
pub mod scm;
pub mod seccomp;
pub mod signal;
pub mod standard_fds;
pub mod terminal;
pub mod title;

use nix::errno::Errno;
use std::io;

/// Turns the `-1` of a raw call into its errno, right after the call.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The errno inside `error`; `EIO` for an error that did not come from the kernel.
#[must_use]
pub fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(Errno::EIO as i32)
}
