//! Between the broker and one session's shim: the link (JSON-RPC) and the exchanges on it (one HTTP request each).
//!
//! Everything that comes from a shim is attacker-influenced: typed, bounded, and a packet that breaks the protocol ends
//! the link.

pub mod exchange;
pub mod kept;
pub mod link;
mod near_end;
pub mod upgrade;
