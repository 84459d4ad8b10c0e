//! Placeholder header, replaced by its first module.
