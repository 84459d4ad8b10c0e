//! agentcored.
pub mod config;
pub mod launcher;
