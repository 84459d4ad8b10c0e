//! Installing a filter: [seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html).
//!
//! Not through `seccompiler::apply_filter`: that sets no_new_privs on the way, which here is a step of its own, so that
//! leaving it out fails instead of going unnoticed.

use super::check;
use nix::errno::Errno;
use seccompiler::sock_filter;
use std::io;

#[repr(C)]
struct Program {
    len: libc::c_ushort,
    filter: *const sock_filter,
}

/// Installs `program` for the calling thread, for good. Needs no_new_privs.
pub fn install(program: &[sock_filter]) -> io::Result<()> {
    let program = Program {
        len: program.len().try_into().map_err(|_| Errno::E2BIG)?,
        filter: program.as_ptr(),
    };
    // SAFETY: `program` points to `len` instructions in the layout of the kernel's sock_filter; the kernel copies them
    // and refuses what is no valid program.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    })?;
    Ok(())
}
