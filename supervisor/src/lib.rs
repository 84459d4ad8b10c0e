//! agentcored.
pub mod launcher;
