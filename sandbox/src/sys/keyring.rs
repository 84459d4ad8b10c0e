//! Session keyrings: [keyctl(2)](https://man7.org/linux/man-pages/man2/keyctl.2.html).

use super::check;
use std::io;

/// Replaces the inherited session keyring by a new, anonymous, empty one. A kernel without keyrings has none to inherit.
pub fn join_new_session() -> io::Result<()> {
    // SAFETY: a null name asks for an anonymous keyring; no memory is touched.
    let joined = check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    });
    match joined {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other.map(|_| ()),
    }
}
