//! Closing whatever is open: [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html).

use super::check;
use std::io;

/// Marks every descriptor from `first` up close-on-exec, so that the coming exec closes it, known or not.
///
/// Marking instead of closing keeps the descriptors that report a failed exec alive until the exec has succeeded.
pub fn cloexec_from(first: u32) -> io::Result<()> {
    // SAFETY: only sets a flag; no descriptor that Rust owns is closed while this process image lives.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })?;
    Ok(())
}
