//! WebSockets (RFC 6455) between a caller and its agent.
//!
//! They are passed on as they are: the handshake is the agent's to answer, and afterwards frames go through as bytes. In
//! between stand the contract's bounds (§6): [`frames`] reads nothing but frame heads, [`tunnel`] carries the bytes both ways
//! and says goodbye to both sides when one is over a bound, gone, or late.

pub mod close;
pub mod frames;
pub mod handshake;
pub(crate) mod pace;
pub mod tunnel;
