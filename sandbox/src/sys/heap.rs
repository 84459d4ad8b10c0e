//! glibc's heap: [mallopt(3)](https://man7.org/linux/man-pages/man3/mallopt.3.html).

use nix::errno::Errno;
use std::io;

/// Lets at most so many arenas be made; those that are there stay. To be called before there are threads, each of which would
/// have one of its own.
pub fn limit_arenas(most: i32) -> io::Result<()> {
    // SAFETY: changes a number of the allocator's own, under its own lock.
    match unsafe { libc::mallopt(libc::M_ARENA_MAX, most) } {
        1 => Ok(()),
        // It sets no errno.
        _ => Err(Errno::EINVAL.into()),
    }
}
