//! `cargo xtask test`: everything that CI runs, cheapest first, so that what is wrong shows early.

use crate::command::{cargo, has, root};
use crate::stage::{Counts, Stages, check, skipped_themselves, tests};
use crate::{build, chaos, deny, package, setup};
use anyhow::Context as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

mod vm;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only what needs no daemon: format, lints, dependencies, unit and Python tests.
    #[arg(long)]
    quick: bool,
    /// Go on after a stage that failed.
    #[arg(long)]
    keep_going: bool,
    /// Without the virtual machine.
    #[arg(long)]
    no_vm: bool,
    /// Only this stage, as the table at the end names it (repeatable). What it needs must be built already.
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
    /// Only Rust tests whose name contains this, and only the stages that have such.
    filter: Option<String>,
}

/// After so much of a run the virtual machine is not begun: it takes half an hour where it is emulated by slow processors, and CI ends after 90
/// minutes, with nothing to show.
const LATEST_VM: Duration = Duration::from_secs(40 * 60);

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let skips = root().join("target/skips");
    fs::create_dir_all(root().join("target"))?;
    fs::write(&skips, "")?;
    let mut stages = Stages::new(args.keep_going, args.only.clone());
    let filter = args.filter.as_deref();
    let all = filter.is_none();

    stages.stage("setup", || setup::for_tests().map(|()| Counts::default()));
    if all {
        stages.stage("format", || {
            check(cargo().args(["fmt", "--all", "--check"]))
        });
        stages.stage("dependencies", || {
            if let Some(why) = deny::run()? {
                fs::write(&skips, format!("advisories\t{why}\n"))?;
            }
            Ok(Counts {
                passed: 1,
                ..Counts::default()
            })
        });
        stages.stage("lint", || {
            check(cargo().args([
                "clippy",
                "--quiet",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ]))
        });
    }
    stages.stage("unit", || {
        let packages = ["--workspace", "--exclude", "e2e"];
        rust_tests(&packages, "2", filter, &skips)
    });
    if all {
        stages.stage("python", || tests(&mut script("python/tests/run.sh")?));
        stages.stage("agents", || {
            tests(
                Command::new("/usr/bin/python3")
                    .args(["-m", "unittest", "discover", "-s", "tests/agents/selftest"])
                    .current_dir(root()),
            )
        });
    }
    if !args.quick {
        stages.stage("build", || {
            build::all(false, true).map(|()| Counts::default())
        });
        // Half of their time these wait: for a session's idle time, a deadline, a retry.
        stages.stage("end to end", || {
            rust_tests(&["-p", "e2e"], "3", filter, &skips)
        });
        if all {
            stages.stage("chaos", || {
                chaos::run(&chaos::Args::short()).map(|()| Counts {
                    passed: 1,
                    ..Counts::default()
                })
            });
            stages.stage("fuzz", || check(&mut script("fuzz/run.sh")?));
        }
        stages.stage("package", || {
            if !has("apt-get") {
                return skip(&skips, "package", "Debian's tools are not here");
            }
            package::for_tests().map(|()| Counts {
                passed: 1,
                ..Counts::default()
            })
        });
        if !args.no_vm {
            let before = stages.took();
            stages.stage("vm", || {
                if before > LATEST_VM {
                    let minutes = before.as_secs() / 60;
                    let why = format!("the rest took {minutes} min: cargo xtask test --only vm");
                    return skip(&skips, "vm", &why);
                }
                vm::run(filter, &skips)
            });
        }
    }
    let skipped = fs::read_to_string(&skips)?;
    anyhow::ensure!(stages.conclude(&skipped), "not all is well");
    Ok(())
}

/// A whole stage that is left out, told among what is.
fn skip(skips: &Path, stage: &str, why: &str) -> anyhow::Result<Counts> {
    let before = fs::read_to_string(skips)?;
    fs::write(skips, format!("{before}{stage}\t{why}\n"))?;
    Ok(Counts {
        skipped: 1,
        ..Counts::default()
    })
}

/// Rust tests of some packages, so many at a time, by nextest where it is installed (a process per test), else by cargo.
fn rust_tests(
    packages: &[&str],
    at_once: &str,
    filter: Option<&str>,
    skips: &Path,
) -> anyhow::Result<Counts> {
    let mut command = cargo();
    if has("cargo-nextest") {
        command.args([
            "nextest",
            "run",
            "--locked",
            "--no-fail-fast",
            "--no-tests=pass",
        ]);
        command.args(["--status-level=slow", "--final-status-level=flaky"]);
        command.args(["--test-threads", at_once]);
    } else {
        command.args(["test", "--quiet", "--locked", "--no-fail-fast"]);
    }
    command.args(packages).args(filter);
    command
        .env("CARGO_TERM_COLOR", "never")
        .env("AGENTCORE_SKIPS", skips)
        // cargo test runs a binary's tests in threads: as many as nextest has processes.
        .env("RUST_TEST_THREADS", at_once);
    // On a machine that others use too, one of a thousand tests of real processes may miss its moment. It is told as flaky, with
    // what it said, and is a defect to look into; it does not hold up the work of a day.
    command.env("NEXTEST_RETRIES", "1");
    let before = skipped_themselves(&fs::read_to_string(skips)?);
    let counts = match tests(&mut command) {
        // A filter may leave a stage with nothing.
        Err(_) if filter.is_some() => return Ok(Counts::default()),
        counts => counts?,
    };
    let counts = match filter {
        None => counts,
        // Whom the filter left out is no skip.
        Some(_) => Counts {
            skipped: 0,
            ..counts
        },
    };
    let after = skipped_themselves(&fs::read_to_string(skips)?);
    Ok(counts.honest(after.saturating_sub(before)))
}

fn script(path: &str) -> anyhow::Result<Command> {
    let file: PathBuf = root().join(path);
    anyhow::ensure!(file.exists(), "{path} is not there");
    let mut command = Command::new(&file);
    command.current_dir(file.parent().context("parent")?);
    Ok(command)
}
