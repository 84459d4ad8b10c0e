//! From what a user typed to what a session is made of.
//!
//! [`proto::config::RuntimeConfig`] is the typed half: optional everywhere, possibly absurd. [`HostPolicy`] is what the
//! operator of this host grants. Out comes a `RuntimeSpec` with nothing left open, or every fault at once. Not for:
//! looking at the bundle or the host; nothing here does I/O.

pub mod policy;

pub use policy::{HostPolicy, Interpreters, NetworkGrant, Settings};
