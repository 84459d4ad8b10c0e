//! How sessions end.

use crate::harness::{Session, boot, free_port, shell, wait_for};
use nix::sys::signal::kill;
use proto::code::ErrorCode;
use proto::shim::{AgentExited, ExitCause, ExitStatus, Signal};
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

#[test]
fn an_agent_that_ends_by_itself_is_told_and_then_recorded() {
    let mut boot = boot(free_port());
    boot.limits.stop_grace_ms = 500;
    shell(&mut boot, "echo last words; exit 42");
    let mut session = Session::start(&boot);
    let mut broker = session.attach();
    let heard = broker.notification("agent.exited");
    let told: AgentExited = serde_json::from_value(heard.params).expect("exited");
    assert_eq!(told.status, Ok(ExitStatus::Code(42)));
    assert_eq!(
        broker.queued_log().expect("before the exit").lines[0].text,
        "last words"
    );
    // Whoever attaches late hears it in the answer, too, and is refused work.
    let mut late = crate::broker::Broker::connect(&session.socket());
    let attached = late.attach(crate::harness::TOKEN, 7).expect("attach");
    assert_eq!(attached.exited, Some(told.clone()));
    let error = late.invoke(b"").expect_err("refused");
    assert_eq!(ErrorCode::from_rpc(error.code), ErrorCode::AgentUnreachable);
    let record = session.record();
    assert_eq!(record.cause, ExitCause::AgentExited);
    assert_eq!(record.agent, Some(told));
    assert!(session.started.elapsed() >= Duration::from_millis(500));
}

#[test]
fn an_agent_that_cannot_be_started_is_told_with_the_reason() {
    let mut boot = boot(free_port());
    boot.agent.argv = vec!["/no/such/agent".to_owned()];
    let mut session = Session::start(&boot);
    let mut broker = crate::broker::Broker::connect(&session.socket());
    let attached = broker.attach(crate::harness::TOKEN, 7).expect("attach");
    let reason = attached.exited.expect("ended").status.expect_err("reason");
    assert!(reason.contains("/no/such/agent"), "{reason}");
    broker.shutdown(1000);
    let record = session.record();
    assert_eq!(record.cause, ExitCause::AgentExited);
    assert!(record.agent.expect("agent").status.is_err());
}

#[test]
fn nobody_attached_and_the_agent_gone_ends_the_session() {
    let mut boot = boot(free_port());
    boot.limits.stop_grace_ms = 200;
    shell(&mut boot, "kill -SEGV $$");
    let mut session = Session::start(&boot);
    let record = session.record();
    assert_eq!(record.cause, ExitCause::AgentExited);
    assert_eq!(
        record.agent.expect("agent").status,
        Ok(ExitStatus::Signal(11))
    );
}

#[test]
fn lifetime_and_orphanhood_end_a_session() {
    let mut short = boot(free_port());
    short.limits.max_lifetime_ms = 300;
    let mut session = Session::start(&short);
    let _broker = session.attach();
    assert_eq!(session.record().cause, ExitCause::MaxLifetime);
    let mut lonely = boot(free_port());
    lonely.limits.orphan_timeout_ms = 500;
    let mut session = Session::start(&lonely);
    let broker = session.attach();
    // As long as someone is attached it goes on.
    std::thread::sleep(Duration::from_millis(800));
    assert!(session.is_alive());
    drop(broker);
    assert_eq!(session.record().cause, ExitCause::Orphaned);
}

#[test]
fn term_to_the_shim_is_a_shutdown() {
    let mut session = Session::start(&boot(free_port()));
    let mut broker = session.attach();
    let gone = Signal {
        id: None,
        signal: 0,
    };
    let _: Result<serde_json::Value, _> = broker.call("signal", &gone);
    kill(session.shim, nix::sys::signal::Signal::SIGTERM).expect("kill");
    let record = session.record();
    assert_eq!(record.cause, ExitCause::Shutdown);
    assert_eq!(
        record.agent.expect("agent").status,
        Ok(ExitStatus::Signal(15))
    );
}

#[test]
fn everyone_is_ended_not_only_the_agent() {
    let mut boot = boot(free_port());
    // Children of their own sessions, one of which ignores TERM and one of which is stopped.
    shell(
        &mut boot,
        "setsid sh -c 'trap \"\" TERM; echo deaf; while :; do sleep 1; done' & \
         setsid sh -c 'echo stopped; kill -STOP $$' & \
         exec sleep 1000",
    );
    let mut session = Session::start(&boot);
    let mut broker = session.attach();
    let mut said = 0;
    while said < 2 {
        said += broker.log().lines.len();
    }
    let before = Instant::now();
    broker.shutdown(500);
    let record = session.record();
    assert!(
        before.elapsed() >= Duration::from_millis(500),
        "the grace was waited for"
    );
    assert_eq!(record.cause, ExitCause::Shutdown);
    assert_eq!(
        record.agent.expect("agent").status,
        Ok(ExitStatus::Signal(15))
    );
}

#[test]
fn a_stopped_agent_hears_its_term() {
    let mut boot = boot(free_port());
    shell(
        &mut boot,
        "trap 'exit 9' TERM; echo up; kill -STOP $$; sleep 1000 & wait",
    );
    let mut session = Session::start(&boot);
    let mut broker = session.attach();
    assert_eq!(broker.log().lines[0].text, "up");
    broker.shutdown(20_000);
    assert_eq!(
        session.record().agent.expect("agent").status,
        Ok(ExitStatus::Code(9))
    );
    assert!(session.started.elapsed() < Duration::from_secs(10));
}

#[test]
fn orphans_are_reaped() {
    let mut boot = boot(free_port());
    shell(
        &mut boot,
        "i=0; while [ $i -lt 2000 ]; do (true &) ; i=$((i+1)); done; echo done; exec sleep 1000",
    );
    let session = Session::start(&boot);
    let mut broker = session.attach();
    assert_eq!(broker.log().lines[0].text, "done");
    wait_for("zombies to be gone", || {
        let children = format!("/proc/{0}/task/{0}/children", session.shim);
        let children = std::fs::read_to_string(children).expect("children");
        (children.split_whitespace().count() == 1).then_some(())
    });
    assert!(session.memory("Anonymous") < 1024);
}

#[test]
fn what_is_under_way_at_the_end_is_answered() {
    let agent = crate::fake_agent::FakeAgent::start(|asked| {
        asked.wait_closed();
        false
    });
    let mut session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    let call = broker.begin(crate::broker::post(Some(0)));
    broker.shutdown(5000);
    let error = broker.finish(call).expect_err("ended");
    assert_eq!(ErrorCode::from_rpc(error.code), ErrorCode::AgentClosed);
    session.record();
}

#[test]
fn work_is_refused_while_the_session_ends() {
    let mut boot = boot(free_port());
    shell(
        &mut boot,
        "trap '' TERM; echo up; while :; do sleep 1; done",
    );
    let mut session = Session::start(&boot);
    let mut broker = session.attach();
    assert_eq!(broker.log().lines[0].text, "up");
    broker.shutdown(600);
    let error = broker.invoke(b"").expect_err("refused");
    assert_eq!(
        ErrorCode::from_rpc(error.code),
        ErrorCode::RetryableConflict
    );
    session.record();
}

#[test]
fn a_shim_that_is_not_pid_1_spares_everyone_else() {
    let mut boot = boot(free_port());
    shell(&mut boot, "echo up; sleep 1000");
    let mut session = Session::start_beside_a_neighbour(&boot);
    let mut broker = session.attach();
    assert_eq!(broker.log().lines[0].text, "up");
    broker.shutdown(200);
    let record = session.record();
    assert_eq!(record.cause, ExitCause::Shutdown);
    assert_eq!(
        record.agent.expect("agent").status,
        Ok(ExitStatus::Signal(15))
    );
    assert!(
        session.spared(),
        "a process that was not the session's was killed"
    );
}
