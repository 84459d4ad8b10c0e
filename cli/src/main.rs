//! `agentcore`: the user's command. It configures, launches and invokes agents through the daemon's HTTP interface.
//!
//! For: the one path from the command line to an exit code. Each verb is a file below `verb/`.
#![forbid(unsafe_code)]

mod args;
mod bundle;
mod daemon;
mod endpoint;
mod events;
mod failure;
mod project;
mod prompt;
mod screen;
mod signer;
mod table;
mod target;
mod vendor;
mod verb;

use args::CommandLine;
use clap::Parser;
use failure::{Exit, Failure};
use screen::Screen;
use std::process::ExitCode;

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let screen = Screen::new(line.json, line.quiet);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            screen.failure(&Failure::new(
                Exit::Failed,
                format!("cannot start: {error}"),
            ));
            return Exit::Failed.into();
        }
    };
    let outcome = runtime.block_on(verb::run(screen, line));
    // A thread that still waits for standard input must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            screen.failure(&failure);
            failure.exit.into()
        }
    }
}
