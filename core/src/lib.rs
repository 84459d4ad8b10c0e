//! Decisions of the daemon, apart from everything that touches the world: no I/O, no clock, no async (architecture §3).
#![forbid(unsafe_code)]

pub mod spec;
