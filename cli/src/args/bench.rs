//! `bench`.

use super::Target;
use clap::{Args, value_parser};

/// `bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// What the agent is sent: JSON text, @FILE, or - for standard input
    #[arg(default_value = r#"{"prompt": "Hello"}"#)]
    pub(crate) payload: String,
    /// Which runtime.
    #[command(flatten)]
    pub(crate) target: Target,
    /// Calls of new sessions, one after the other
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = value_parser!(u32).range(1..=10_000))]
    pub(crate) new: u32,
    /// Calls of a session that is ready, one after the other
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = value_parser!(u32).range(0..=1_000_000))]
    pub(crate) calls: u32,
}
