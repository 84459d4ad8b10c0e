//! `agentcore completion SHELL`: a script for the shell, made from the same definition that parses the arguments.

use super::Desk;
use crate::args::CommandLine;
use crate::failure::Failure;
use clap::CommandFactory;
use clap_complete::Shell;

/// Prints the script.
pub(super) fn run(desk: &Desk, shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "agentcore", &mut script);
    desk.screen.bytes(&script)
}
