//! `cargo xtask …`: everything that a developer and CI do with this repository, on a machine with only Rust and root.

#![forbid(unsafe_code)]

mod bench;
mod build;
mod chaos;
mod chart;
mod command;
mod demo;
mod deny;
mod flame;
mod loc;
mod package;
mod setup;
mod stage;
mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what tests, demonstration and benchmarks need and this machine lacks (Debian packages).
    Setup,
    /// Build daemon, shim and command.
    Build(build::Args),
    /// Everything that CI runs, cheapest first; ends with `N passed, N failed, N skipped`.
    Test(test::Args),
    /// Build, start a daemon of its own, deploy an agent, invoke it three ways, prove two sessions isolated, stop.
    Demo(demo::Args),
    /// Every promise of speed and size beside its peer, in one table.
    Bench(bench::Args),
    /// Draw a benchmark's result for the README.
    Chart(chart::Args),
    /// Where the time of a launch or of a relayed call goes: a flame graph, and shares.
    Flame(flame::Args),
    /// Random work while random things break; then the books are balanced.
    Chaos(chaos::Args),
    /// A Debian package of everything, in target/package.
    Package(package::Args),
    /// Licences, bans and sources of every dependency, against deny.toml; offline.
    Deny,
    /// Lines of code per crate, tests apart.
    Loc,
}

fn main() -> ExitCode {
    let done = match Args::parse().verb {
        Verb::Setup => setup::everything(),
        Verb::Build(args) => build::build(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Chart(args) => chart::run(&args),
        Verb::Flame(args) => flame::run(&args),
        Verb::Chaos(args) => chaos::run(&args),
        Verb::Package(args) => package::run(&args),
        Verb::Deny => deny::run().map(|unchecked| {
            if let Some(why) = unchecked {
                println!("advisories are not checked: {why}");
            }
        }),
        Verb::Loc => loc::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
