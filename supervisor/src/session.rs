//! A session from the broker's side: one task owns it ([`driver`]), everyone else holds a [`handle`] to send it commands
//! or watch its phase.

pub mod boot;
pub mod driver;
pub mod handle;
pub mod journal;
pub mod log;
pub mod log_retention;
pub mod memo;
mod notes;
pub mod origin;
mod storage;
