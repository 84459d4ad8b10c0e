//! The built shim, as root and as PID 1 of a pid namespace of its own, spoken to over its link (tier: root).
//!
//! Agents are either real processes started by the shim, or a listener of the test itself, which then decides every byte
//! that the "agent" says while the process beside it only sleeps.

mod broker;
mod exact;
mod fake_agent;
mod harness;

mod claim;
mod egress;
mod ending;
mod exec;
mod figures;
mod health;
mod hostile;
mod invoke;
mod kept;
mod link;
mod logs;
