//! Tier 4 (root): the real launcher, real sessions. PID 1 of a session is this very test program.
//!
//! `main` runs as the test, and again, started by a stager without environment, as PID 1 of each session, where it does
//! what its boot file says.

#[path = "../../sandbox/tests/session/base.rs"]
mod base;
#[path = "launcher/ground.rs"]
mod ground;
#[path = "launcher/inside.rs"]
mod inside;
#[path = "launcher/life.rs"]
mod life;

fn main() {
    if std::process::id() == 1 {
        inside::main();
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED launcher: needs root");
        return;
    }
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let mut ran = 0;
    for (name, test) in life::TESTS {
        if wanted
            .as_ref()
            .is_some_and(|wanted| !name.contains(wanted.as_str()))
        {
            continue;
        }
        let began = std::time::Instant::now();
        test();
        println!("test {name} ... ok ({:?})", began.elapsed());
        ran += 1;
    }
    println!("{ran} tests passed");
}
