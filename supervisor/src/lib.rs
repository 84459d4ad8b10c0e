//! `agentcored`: the daemon. An unprivileged broker (tokio, HTTP, decisions performed) and a small privileged launcher.
//!
//! The shell around `session-core`: receive an event, ask the core, perform its effects. See `docs/design.md`.
#![forbid(unsafe_code)]

pub mod admission;
pub mod api;
pub mod artifacts;
mod ask;
pub mod audit;
pub mod base;
pub mod broker;
pub mod callback;
pub mod catalogue;
pub mod config;
pub mod daemon_log;
mod deployment;
pub mod egress;
pub mod exits;
pub mod fault;
pub mod gate;
pub mod host;
pub mod instance;
pub mod key_file;
pub mod keys;
pub mod launcher;
pub mod ledger;
pub mod manual;
pub mod meminfo;
pub mod metrics;
pub mod objects;
pub mod owner;
pub mod permit;
pub mod pool;
pub mod progress;
pub mod rates;
pub mod recovery;
pub mod registry;
pub mod relay;
pub mod room;
pub mod run;
pub mod seqpacket;
pub mod session;
pub mod signature;
pub mod slice;
pub mod slots;
pub mod spool;
pub mod start;
pub mod store;
pub mod systemd;
pub mod tasks;
pub mod time;
pub mod tokens;
mod trust;
pub mod usage;
pub mod websocket;
