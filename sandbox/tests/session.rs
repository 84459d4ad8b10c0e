//! Tier 4 (root): a real session, all namespaces and measures, whose PID 1 is this very test program.
//!
//! `main` runs twice: as the test, and, started by the stager with no environment as PID 1 of the session, as the program
//! that looks around in there and writes what it finds to its exit record.

#[path = "session/base.rs"]
mod base;
#[path = "session/inside.rs"]
mod inside;
#[path = "session/outside.rs"]
mod outside;

fn main() {
    if std::process::id() == 1 {
        return inside::main();
    }
    // What cargo nextest asks of a test program without a harness: to list its tests, then to run them by name.
    let asked = |what: &str| std::env::args().any(|a| a == what);
    if asked("--list") {
        if !asked("--ignored") {
            println!("a_session_with_every_measure: test");
        }
        return;
    }
    outside::main();
    println!("test result: ok. 1 passed; 0 failed; 0 ignored");
}
