//! Tier 4 (root): real sessions, all namespaces and measures, without cgroups (those are the launcher's tests).
//!
//! `main` runs in three places: as the test; started by the stager as PID 1 of a session ([`inside`]); and started by that
//! PID 1 as an agent ([`agent`]). The latter two write what they find into the pipe of the session's exit record.

#[path = "session/agent.rs"]
mod agent;
#[path = "session/base.rs"]
mod base;
#[path = "session/forker.rs"]
mod forker;
#[path = "session/ground.rs"]
mod ground;
#[path = "session/hostile.rs"]
mod hostile;
#[path = "session/inside.rs"]
mod inside;
#[path = "session/look.rs"]
mod look;
#[path = "session/template.rs"]
mod template;

use libtest_mimic::{Arguments, Trial};
use sandbox::exit_mark::Mark;

/// What PID 1 leaves as its exit record.
const MARK: Mark = Mark {
    seconds: 2,
    nanoseconds: 71,
};

/// Name of this program in the session's base.
const AGENT: &str = "probe";

fn main() {
    if std::env::args().next().as_deref() == Some(AGENT) {
        return agent::main();
    }
    if std::process::id() == 1 {
        return inside::main();
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED session: needs root");
        return;
    }
    let mut arguments = Arguments::from_args();
    // One after the other on this thread: a stager is forked only by a process that has no other.
    arguments.test_threads = Some(1);
    let tests: [(&str, fn()); 7] = [
        ("a_session_with_every_measure", look::every_measure),
        ("an_agent_is_another_user_with_nothing", look::agents),
        ("the_kernel_refuses_what_the_filters_refuse", look::calls),
        ("a_hostile_base_is_a_named_fault", hostile::trees),
        (
            "a_place_without_a_network_becomes_no_session",
            hostile::a_place_without_a_network_becomes_no_session,
        ),
        ("a_fork_of_a_template_is_a_session", template::fork),
        (
            "a_fork_that_keeps_something_is_seen",
            template::careless_forks,
        ),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.into()).exit();
}
