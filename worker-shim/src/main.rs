//! The program; see the library of the same folder.

#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Err(fault) = worker_shim::run() else {
        return ExitCode::SUCCESS;
    };
    // In a session this is /dev/null; run by hand it is the only way to be heard.
    eprint!("agentcore-shim: {fault}");
    let mut source = fault.source();
    while let Some(error) = source {
        eprint!(": {error}");
        source = error.source();
    }
    eprintln!();
    ExitCode::FAILURE
}
