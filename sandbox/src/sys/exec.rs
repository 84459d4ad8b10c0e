//! Becoming another program: [execve(2)](https://man7.org/linux/man-pages/man2/execve.2.html),
//! [execveat(2)](https://man7.org/linux/man-pages/man2/execveat.2.html). All arguments are made before the fork.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// A `char *const []` that lives as long as its strings.
#[derive(Debug)]
pub struct CStringArray {
    pointers: Vec<*const libc::c_char>,
    // Never touched again: `pointers` points into the strings' heap blocks, which do not move with the vector.
    _strings: Vec<CString>,
}

impl CStringArray {
    /// Takes the strings and appends the closing null.
    #[must_use]
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers = strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([ptr::null()])
            .collect();
        Self {
            pointers,
            _strings: strings,
        }
    }
}

/// Executes the file at `path`. Returns only if that failed.
pub fn execve(path: &CStr, argv: &CStringArray, env: &CStringArray) -> io::Error {
    // SAFETY: `path` and both arrays are null-terminated and alive.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Executes the file that `fd` is open on (`AT_EMPTY_PATH`). Returns only if that failed.
pub fn execve_fd(fd: BorrowedFd<'_>, argv: &CStringArray, env: &CStringArray) -> io::Error {
    // SAFETY: the empty path and both arrays are null-terminated and alive.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            argv.pointers.as_ptr(),
            env.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}
