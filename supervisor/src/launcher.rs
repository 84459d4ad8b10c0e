//! The privileged half of the daemon: one thread, synchronous, a closed set of orders (architecture §2).
//!
//! Forked from `main` before the first tokio thread exists. The broker talks to it over a SEQPACKET socketpair with
//! [`message::Order`]; every field is checked again here, because the broker parses strangers' bytes and is not believed.
//!
//! | module | |
//! |---|---|
//! | [`setup`] | what the launcher is started with; the fork |
//! | [`ground`] | the directories, files and filters that it opens once |
//! | [`service`] | the event loop: orders, stagers, exits, out-of-memory events |
//! | [`session`] | one session as the launcher knows it |
//! | [`stager`] | the one-shot process that makes a session |
//! | [`steward`] | the one-shot process that mounts, and clears away, session storage |
//! | [`endpoint`] | a session's socket and exit record |
//! | [`checks`] | what an order may say |
//! | [`client`] | the broker's end |

mod checks;
pub mod client;
mod endpoint;
mod ground;
mod inspector;
pub mod message;
mod service;
mod session;
mod setup;
mod stager;
mod steward;

pub use setup::{LauncherHandle, LauncherSetup, StartError, StorageSetup, start, wait_for_end};
