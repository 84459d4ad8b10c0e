//! A session that has waited in a pool becomes somebody's.

use crate::harness::{Session, boot, free_port, shell, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::code::ErrorCode;
use proto::shim::{Claim, ExitCause};
use serde_json::Value;
use std::time::{Duration, Instant};

const HOUR: Claim = Claim {
    max_lifetime_ms: 3_600_000,
};

#[test]
fn its_lifetime_begins_with_the_claim() {
    let mut boot = boot(free_port());
    boot.limits.max_lifetime_ms = 1500;
    let mut session = Session::start(&boot);
    let mut broker = session.attach();
    std::thread::sleep(Duration::from_millis(700));
    let claimed = Instant::now();
    let own = Claim {
        max_lifetime_ms: 1500,
    };
    let _: Value = broker.call("claim", &own).expect("claimed");
    assert_eq!(session.record().cause, ExitCause::MaxLifetime);
    assert!(claimed.elapsed() >= Duration::from_millis(1500));
}

#[test]
fn it_is_claimed_once() {
    let session = Session::start(&boot(free_port()));
    let mut broker = session.attach();
    let _: Value = broker.call("claim", &HOUR).expect("claimed");
    let again: Result<Value, ErrorCode> = broker.call("claim", &HOUR);
    assert_eq!(again, Err(ErrorCode::Conflict));
}

#[test]
fn one_whose_agent_has_ended_is_not_to_be_had() {
    let mut boot = boot(free_port());
    shell(&mut boot, "echo up; exec sleep 1000");
    let session = Session::start(&boot);
    let mut broker = session.attach();
    assert_eq!(broker.log().lines[0].text, "up");
    let shim = session.shim;
    let children = format!("/proc/{shim}/task/{shim}/children");
    let children = std::fs::read_to_string(children).expect("there");
    let agent = children.split_whitespace().next().expect("an agent");
    let agent = Pid::from_raw(agent.parse().expect("a pid"));
    kill(agent, Signal::SIGKILL).expect("killed");
    wait_for("its end", || {
        let stat = std::fs::read_to_string(format!("/proc/{agent}/stat"));
        stat.map_or(Some(()), |stat| stat.contains(") Z ").then_some(()))
    });
    // There is no moment in which it could still be had.
    let refused: Result<Value, ErrorCode> = broker.call("claim", &HOUR);
    assert_eq!(refused, Err(ErrorCode::AgentUnreachable));
}
