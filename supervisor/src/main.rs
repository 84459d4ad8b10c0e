//! `agentcored`: see `supervisor::start` for the order of start-up.

#![forbid(unsafe_code)]

use clap::Parser;
use std::process::ExitCode;
use supervisor::config::Args;

fn main() -> ExitCode {
    supervisor::start::main(Args::parse())
}
