//! `agentcore` as its users see it: the built binary against a daemon that the test serves.
//!
//! Tier: files in a temporary directory; no root, no network but a Unix socket and loopback. The stand-in (`fake`) keeps
//! the state that the real daemon keeps (artifacts by content, versions, sessions, logs), so that a verb that does the
//! wrong thing fails here by what it leaves behind, not by how it asked. The real daemon is for `tests/`.

mod configure;
mod dev;
mod doctor;
mod exec;
mod fake;
mod golden;
mod invoke;
mod launch;
mod logs;
mod manage;
mod ran;
mod task;
mod terminal;
