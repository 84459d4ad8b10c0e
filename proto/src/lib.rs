//! Wire types that more than one process of AgentCore Runtime shares.
//!
//! For: names and units ([`ids`], [`units`], [`ports`]), what a user configures ([`config`]), the `/v1` bodies ([`api`]), the session
//! protocol between broker and worker shim ([`jsonrpc`], [`shim`]), and the one table of errors ([`code`]).
//! Not for: sockets, files, clocks, decisions. Nothing here does I/O, so every type can be fuzzed and property-tested.
#![forbid(unsafe_code)]

pub mod api;
pub mod code;
pub mod config;
pub mod ids;
pub mod jsonrpc;
pub mod object;
pub mod ports;
pub mod shim;
pub mod units;
