//! `agentcore-shim`, PID 1 of every session: starts the agent, watches its health, relays invocations to it, passes its
//! output on, and ends the session.
//!
//! One thread and one epoll loop ([`shim`]), no async runtime: a hundred idle sessions must cost next to nothing. It has no
//! `unsafe` and makes no decision about the session but the limits it was started with; those are the broker's.
//! Everything the agent sends is hostile: parsers are strict, every buffer and queue has a bound, and no part can keep the
//! others waiting. What the broker sends is checked once more ([`link::order`]).

#![forbid(unsafe_code)]

mod agent;
mod arrival;
pub mod boot;
mod egress;
mod exec;
pub mod invocation;
mod link;
mod logs;
mod ping;
mod poller;
mod record;
mod shim;
mod shutdown;
mod socket;
mod template;

pub use link::order;

use sandbox::shim_entry;
use sandbox::sys::title;
use std::io;

/// Why a shim could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Its first acts failed.
    #[error("cannot take over from the launcher: {what}")]
    Entry {
        /// Which act.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What it was told makes no sense.
    #[error(transparent)]
    Boot(#[from] boot::BootError),
    /// The loop failed.
    #[error("cannot go on")]
    Loop(#[source] io::Error),
    /// The exit record could not be left.
    #[error("cannot leave the exit record")]
    Record(#[source] io::Error),
}

/// Runs a session from first to last.
pub fn run() -> Result<(), Fault> {
    let entry = |what| move |source| Fault::Entry { what, source };
    // Before anything is read: from here on the agent's uid can neither trace nor inspect this process.
    shim_entry::harden().map_err(entry("harden"))?;
    let boot = shim_entry::claim_boot().map_err(entry("boot file"))?;
    let listener = shim_entry::claim_listener().map_err(entry("listener"))?;
    let exit_record = shim_entry::claim_exit_record().map_err(entry("exit record"))?;
    let boot = boot::read(boot)?;
    title::set(&format!("shim: {}", boot.session)).map_err(entry("process name"))?;
    let record = shim::Shim::start(boot, listener)
        .and_then(shim::Shim::run)
        .map_err(Fault::Loop)?;
    record::leave(exit_record, &record).map_err(Fault::Record)
}
