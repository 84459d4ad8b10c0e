//! `agentcored`: see `supervisor::start` for the order of start-up.

use clap::Parser;
use std::process::ExitCode;
use supervisor::config::Args;

fn main() -> ExitCode {
    supervisor::start::main(Args::parse())
}
