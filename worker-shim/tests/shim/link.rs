//! Who may attach, and what breaks the protocol.

use crate::broker::{Broker, post};
use crate::fake_agent::FakeAgent;
use crate::harness::{Session, TOKEN, boot, free_port, wait_for};
use nix::sys::signal::{Signal, kill};
use proto::code::ErrorCode;
use proto::jsonrpc::MAX_PACKET;
use proto::shim::{Attach, Attached, GENERATION, Shutdown};
use serde_json::json;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

#[test]
fn only_the_token_and_no_older_epoch_may_attach() {
    let session = Session::start(&boot(free_port()));
    let attach = |token: &str, epoch| Broker::connect(&session.socket()).attach(token, epoch);
    let wrong = TOKEN.replace('0', "1");
    assert_eq!(attach(&wrong, 7).err(), Some(ErrorCode::Unauthorized));
    assert_eq!(attach("", 7).err(), Some(ErrorCode::Unauthorized));
    assert_eq!(attach(TOKEN, 6).err(), Some(ErrorCode::Conflict));
    assert!(attach(TOKEN, 7).is_ok());
    assert!(attach(TOKEN, 9).is_ok());
    assert_eq!(attach(TOKEN, 8).err(), Some(ErrorCode::Conflict));
    assert!(attach(TOKEN, 9).is_ok());
}

#[test]
fn a_newer_broker_replaces_the_older_and_its_invocations() {
    let agent = FakeAgent::start(|asked| {
        asked.wait_closed();
        false
    });
    let session = Session::start(&boot(agent.port));
    let mut old = session.attach();
    let mut call = old.begin(post(Some(0)));
    let mut new = Broker::connect(&session.socket());
    let attached = new.attach(TOKEN, 8).expect("attach");
    assert_eq!(attached.session.as_str(), "stest1");
    assert!(old.is_closed_by_peer());
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut call.stream, &mut rest).expect("the stream is closed");
    // The session itself goes on.
    let call = new.begin(post(Some(0)));
    new.notify("cancel", &proto::shim::Cancel { id: call.id });
    let error = new.finish(call).expect_err("cancelled");
    assert_eq!(ErrorCode::from_rpc(error.code), ErrorCode::Cancelled);
}

#[test]
fn what_a_dead_broker_said_is_heard_before_its_successor() {
    let agent = FakeAgent::start(|asked| {
        asked.wait_closed();
        false
    });
    let session = Session::start(&boot(agent.port));
    let mut old = session.attach();
    // All of it lies there when the shim looks again.
    kill(session.shim, Signal::SIGSTOP).expect("stop");
    for unknown in 90..95 {
        let id = proto::ids::InvocationId(unknown);
        old.notify("cancel", &proto::shim::Cancel { id });
    }
    old.notify("shutdown", &Shutdown { grace_ms: 20_000 });
    drop(old);
    let mut new = Broker::connect(&session.socket());
    let attach = Attach {
        token: TOKEN.to_owned(),
        epoch: 8,
        generation: GENERATION,
    };
    let rpc = new.request("attach", &attach, &[]);
    kill(session.shim, Signal::SIGCONT).expect("continue");
    let attached: Attached = new.answer(rpc).expect("attached");
    assert!(attached.ending, "the order to end is lost");
}

#[test]
fn attach_comes_first_and_soon() {
    let session = Session::start(&boot(free_port()));
    let mut hasty = Broker::connect(&session.socket());
    let rpc = hasty.request("signal", &json!({"id": null, "signal": 9}), &[]);
    assert_eq!(hasty.answer::<()>(rpc), Err(ErrorCode::BadOrder));
    assert!(hasty.is_closed_by_peer());
    let before = Instant::now();
    let mut silent = Broker::connect(&session.socket());
    assert!(silent.is_closed_by_peer());
    assert!(before.elapsed() >= Duration::from_secs(4));
    session.attach();
}

#[test]
fn silent_connections_do_not_lock_a_broker_out() {
    let session = Session::start(&boot(free_port()));
    let silent: Vec<_> = (0..20)
        .map(|_| Broker::connect(&session.socket()))
        .collect();
    session.attach();
    drop(silent);
}

#[test]
fn what_breaks_the_protocol_closes_the_link_and_not_the_session() {
    let session = Session::start(&boot(free_port()));
    let (passed, _other) = UnixStream::pair().expect("pair");
    let raw = |bytes: &[u8], with: bool| {
        let mut broker = session.attach();
        let fds = [passed.as_fd()];
        let fds = if with { &fds[..] } else { &[] };
        broker.socket.send(bytes, fds).expect("send");
        assert!(broker.is_closed_by_peer(), "{}", bytes.escape_ascii());
        assert_eq!(broker.queued("fault"), 1, "the reason is told");
    };
    raw(b"{", false);
    raw(b"[]", false);
    raw(
        br#"{"jsonrpc":"1.0","method":"cancel","params":{"id":1}}"#,
        false,
    );
    raw(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#, false);
    raw(
        br#"{"jsonrpc":"2.0","method":"cancel","params":{"id":"x"}}"#,
        false,
    );
    raw(
        br#"{"jsonrpc":"2.0","method":"cancel","params":{"id":1}}"#,
        true,
    );
    raw(
        br#"{"jsonrpc":"2.0","id":1,"method":"signal","params":{"id":null,"signal":1}}"#,
        true,
    );
    raw(&vec![b' '; MAX_PACKET + 1], false);
    session.attach();
}

#[test]
fn wrong_requests_are_answered() {
    let agent = FakeAgent::start(|asked| {
        asked.wait_closed();
        false
    });
    let mut boot = boot(agent.port);
    boot.limits.max_invocations = 2;
    let session = Session::start(&boot);
    let mut broker = session.attach();
    let mut code = |method: &str, params: serde_json::Value| {
        let rpc = broker.request(method, &params, &[]);
        broker
            .answer::<serde_json::Value>(rpc)
            .expect_err("refused")
    };
    assert_eq!(code("freeze", json!({})), ErrorCode::NoSuchMethod);
    assert_eq!(code("attach", json!({})), ErrorCode::BadOrder);
    assert_eq!(code("invoke", json!({})), ErrorCode::BadOrder);
    let no_stream = serde_json::to_value(post(None)).expect("json");
    assert_eq!(code("invoke", no_stream), ErrorCode::BadOrder);
    assert_eq!(
        code("signal", json!({"id": null, "signal": 99})),
        ErrorCode::BadOrder
    );
    assert_eq!(
        code("signal", json!({"id": 5, "signal": 9})),
        ErrorCode::NotFound
    );
    let mut bad = post(Some(0));
    bad.headers.push(("x".to_owned(), "a\r\nb: c".to_owned()));
    let call = broker.begin(bad);
    let error = broker.finish(call).expect_err("refused");
    assert_eq!(ErrorCode::from_rpc(error.code), ErrorCode::BadOrder);
    // An unknown notification is a newer daemon's.
    broker.notify("sparkle", &json!({}));
    let first = broker.begin(post(Some(0)));
    let mut twin = post(Some(0));
    twin.id = first.id;
    let (_ours, theirs) = UnixStream::pair().expect("pair");
    let rpc = broker.request("invoke", &twin, &[theirs.as_fd()]);
    assert_eq!(broker.answer::<()>(rpc), Err(ErrorCode::BadOrder));
    let _second = broker.begin(post(Some(0)));
    let third = broker.begin(post(Some(0)));
    let error = broker.finish(third).expect_err("one too many");
    assert_eq!(
        ErrorCode::from_rpc(error.code),
        ErrorCode::TooManyInvocations
    );
}

#[test]
fn coming_and_going_leaves_nothing_behind() {
    let agent = FakeAgent::start(|asked| {
        let body = asked.body().unwrap_or_default();
        asked.answer(&body);
        true
    });
    let session = Session::start(&boot(agent.port));
    let round = |n: usize| {
        let mut broker = session.attach();
        if n.is_multiple_of(3) {
            broker.invoke(b"{}").expect("answer");
        } else {
            // Gone in the middle of everything.
            let _call = broker.begin(post(None));
        }
    };
    (0..100).for_each(round);
    session.attach().invoke(b"{}").expect("answer");
    let (fds, memory) = (session.descriptors(), session.memory("Anonymous"));
    (0..3000).for_each(round);
    session.attach().invoke(b"{}").expect("answer");
    wait_for("descriptors to be closed", || {
        (session.descriptors() <= fds + 2).then_some(())
    });
    let grown = session.memory("Anonymous").saturating_sub(memory);
    assert!(grown <= 64, "{grown} KiB more after 3000 brokers");
}

#[test]
fn a_broker_that_does_not_read_is_let_go() {
    let agent = FakeAgent::start(|asked| {
        asked.wait_closed();
        false
    });
    let mut boot = boot(agent.port);
    boot.limits.max_invocations = 1;
    let session = Session::start(&boot);
    let broker = session.attach();
    // Requests that are each answered at once; nobody takes the answers.
    broker.socket.set_nonblocking(true).expect("nonblocking");
    let packet = proto::jsonrpc::request(1, "signal", &json!({"id": 1, "signal": 1}));
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        if broker.socket.send(&packet, &[]).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    // It was slowed down, not believed: the shim is small, and serves the next one.
    assert!(session.memory("Anonymous") < 1024);
    let mut next = session.attach();
    let call = next.begin(post(Some(0)));
    drop(call.stream);
}
