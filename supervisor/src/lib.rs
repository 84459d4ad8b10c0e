//! `agentcored`: the daemon. An unprivileged broker (tokio, HTTP, decisions performed) and a small privileged launcher.
//!
//! The shell around `session-core`: receive an event, ask the core, perform its effects. See `docs/design.md`.
#![forbid(unsafe_code)]

pub mod artifacts;
pub mod base;
pub mod config;
pub mod instance;
pub mod launcher;
pub mod seqpacket;
pub mod store;
