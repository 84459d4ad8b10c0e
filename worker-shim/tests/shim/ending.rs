//! How sessions end.

use crate::harness::{Session, boot, free_port, shell};
use proto::shim::{AgentExited, ExitCause, ExitStatus};
use std::time::{Duration, Instant};

#[test]
fn an_agent_that_ignores_term_is_killed_after_the_grace() {
    let mut boot = boot(free_port());
    shell(
        &mut boot,
        "trap '' TERM; echo up; while :; do sleep 1; done",
    );
    let mut session = Session::start(&boot);
    let mut broker = session.attach();
    assert_eq!(broker.log().lines[0].text, "up");
    let before = Instant::now();
    broker.shutdown(400);
    let record = session.record();
    assert!(before.elapsed() >= Duration::from_millis(400));
    assert!(before.elapsed() < Duration::from_secs(3));
    assert_eq!(record.cause, ExitCause::Shutdown);
    assert_eq!(
        record.agent,
        Some(AgentExited {
            status: Ok(ExitStatus::Signal(9))
        })
    );
}

#[test]
fn an_agent_that_takes_term_ends_the_grace_early() {
    let mut boot = boot(free_port());
    shell(
        &mut boot,
        "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done",
    );
    let mut session = Session::start(&boot);
    let mut broker = session.attach();
    assert_eq!(broker.log().lines[0].text, "up");
    let before = Instant::now();
    broker.shutdown(60_000);
    // The shell also says that its `sleep` was terminated, before or after.
    while !broker.log().lines.iter().any(|line| line.text == "bye") {}
    let record = session.record();
    assert!(before.elapsed() < Duration::from_secs(10));
    assert_eq!(record.cause, ExitCause::Shutdown);
    assert_eq!(
        record.agent,
        Some(AgentExited {
            status: Ok(ExitStatus::Code(3))
        })
    );
}
