//! The privileged half of the daemon: one thread, synchronous, a closed set of orders (architecture §2).
//!
//! Forked from `main` before the first tokio thread exists. The broker talks to it over a SEQPACKET socketpair with
//! [`message::Order`]; every field is checked again here, because the broker parses strangers' bytes and is not believed.

pub mod client;
pub mod message;
