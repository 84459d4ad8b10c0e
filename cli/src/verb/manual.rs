//! `agentcore manual FOLDER`: a manual page for the command and one for each verb, made from the same definition that parses
//! the arguments.

use crate::args::CommandLine;
use crate::failure::{Exit, Failure};
use clap::CommandFactory;
use std::path::Path;

/// Writes `agentcore.1`, `agentcore-launch.1`, ….
pub(super) fn run(directory: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(CommandLine::command(), directory).map_err(|error| {
        let what = format!(
            "cannot write manual pages to {}: {error}",
            directory.display()
        );
        Failure::new(Exit::Failed, what)
    })
}
