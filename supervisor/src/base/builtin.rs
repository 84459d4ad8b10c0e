//! The built-in Python packages (the SDK, and the bootstrap of templates), carried in this executable (listed by `build.rs`).

/// Path below [`super::BUILTIN_PYTHON`] and content, sorted by path.
pub(super) const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/python_files.rs"));
