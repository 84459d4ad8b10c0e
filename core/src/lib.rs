//! Decisions: when a session starts, idles, drains and ends; who is admitted; what a configuration means; which addresses an
//! agent may reach.
//!
//! No I/O, no clock, no async, no randomness: time is an argument ([`moment::Moment`]), so everything here is tested
//! against a model without waiting. The shell that performs the effects is `supervisor`.
#![forbid(unsafe_code)]

pub mod admission;
pub mod budget;
pub mod egress;
pub mod lifecycle;
pub mod meter;
pub mod moment;
pub mod pace;
pub mod pool;
pub mod prices;
pub mod reclaim;
pub mod shares;
pub mod spec;
pub mod task;
