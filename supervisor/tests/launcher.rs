//! Tier 4 (root): the real launcher, real sessions. PID 1 of a session is this very test program.
//!
//! `main` runs as the test, and again, started by a stager without environment, as PID 1 of each session, where it does
//! what its boot file says.

#[path = "../../sandbox/tests/session/base.rs"]
mod base;
#[path = "../../sandbox/tests/session/forker.rs"]
mod forker;
#[path = "launcher/forks.rs"]
mod forks;
#[path = "launcher/ground.rs"]
mod ground;
#[path = "launcher/inside.rs"]
mod inside;
#[path = "launcher/life.rs"]
mod life;
#[path = "launcher/storage.rs"]
mod storage;
#[path = "launcher/times.rs"]
mod times;

use libtest_mimic::{Arguments, Trial};

fn main() {
    if std::process::id() == 1 {
        inside::main();
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED launcher: needs root");
        return;
    }
    let mut arguments = Arguments::from_args();
    // One after the other on this thread: a launcher is forked only by a process that has no other.
    arguments.test_threads = Some(1);
    let measured = Trial::test("launch_times", || {
        life::run("ti", times::launches);
        Ok(())
    })
    .with_ignored_flag(true);
    let trials = life::TESTS
        .iter()
        .chain(storage::TESTS)
        .chain(forks::TESTS)
        .map(|(name, test)| {
            Trial::test(*name, || {
                test();
                Ok(())
            })
        })
        .chain([measured])
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
