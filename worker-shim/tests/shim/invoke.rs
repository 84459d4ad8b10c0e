//! Invocations that go well.

use crate::broker::post;
use crate::fake_agent::{FakeAgent, HEALTHY};
use crate::harness::{Session, boot};
use proto::code::ErrorCode;
use proto::ports::Ports;
use proto::shim::Invoke;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn echo() -> FakeAgent {
    FakeAgent::start(|asked| {
        let body = asked.body().expect("body");
        asked.answer(&body);
        true
    })
}

#[test]
fn a_small_body_goes_there_and_back() {
    let agent = echo();
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    broker.healthy();
    for n in 0..50 {
        let body = format!("{{\"n\":{n}}}");
        let answer = broker.invoke(body.as_bytes()).expect("answer");
        assert_eq!(answer.head.status, 200);
        assert_eq!(answer.head.content_length, Some(body.len() as u64));
        assert_eq!(
            answer.head.headers,
            [("content-type".to_owned(), "text/plain".to_owned())]
        );
        assert_eq!(answer.text(), body);
    }
}

#[test]
fn a_body_of_unknown_length_is_chunked() {
    let agent = FakeAgent::start(|asked| {
        assert_eq!(asked.header("content-length"), None);
        let body = asked.body().expect("body");
        asked.answer(&body);
        true
    });
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    let mut call = broker.begin(post(None));
    for piece in ["one", "two", "three"] {
        call.stream.write_all(piece.as_bytes()).expect("write");
    }
    broker.end(&call, 11);
    assert_eq!(broker.finish(call).expect("answer").text(), "onetwothree");
}

#[test]
fn pieces_of_a_stream_come_as_they_are_said() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let agent = FakeAgent::start(move |asked| {
        asked.body().expect("body");
        asked.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        for n in 0..3 {
            asked.say(format!("9\r\ndata: {n}\n\n\r\n"));
            wait.lock().expect("lock").recv().expect("go on");
        }
        asked.say("0\r\n\r\n");
        true
    });
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    let mut call = broker.begin(post(Some(0)));
    for n in 0..3 {
        // The next piece is said only once this one has been read: nothing is held back.
        let mut event = [0; 9];
        call.stream.read_exact(&mut event).expect("event");
        assert_eq!(&event, format!("data: {n}\n\n").as_bytes());
        go.send(()).expect("go");
    }
    let answer = broker.finish(call).expect("answer");
    assert_eq!((answer.body.len(), answer.end), (0, Some(27)));
}

#[test]
fn large_bodies_flow_both_ways_in_flat_memory() {
    const SIZE: usize = 64 << 20;
    let agent = echo();
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    broker.invoke(b"warm").expect("answer");
    for length in [Some(SIZE as u64), None] {
        let mut call = broker.begin(post(length));
        let mut writer = call.stream.try_clone().expect("clone");
        let block: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
        let expected = block.clone();
        let sent = std::thread::spawn(move || {
            for _ in 0..SIZE >> 20 {
                writer.write_all(&block).expect("write");
            }
        });
        if length.is_none() {
            sent.join().expect("writer");
            broker.end(&call, SIZE as u64);
        }
        let mut piece = vec![0; 1 << 20];
        let mut private = 0;
        for _ in 0..SIZE >> 20 {
            call.stream.read_exact(&mut piece).expect("read");
            assert!(piece == expected, "bytes arrive as they were sent");
            private = private.max(session.memory("Anonymous"));
        }
        assert!(
            private < 1024,
            "{private} KiB while {SIZE} bytes went through"
        );
        let answer = broker.finish(call).expect("answer");
        assert_eq!((answer.body.len(), answer.end), (0, Some(SIZE as u64)));
    }
}

#[test]
fn connections_are_reused_while_the_agent_keeps_them() {
    let agent = FakeAgent::start(|asked| {
        asked.body().expect("body");
        let nth = asked.nth.to_string();
        asked.answer(nth.as_bytes());
        true
    });
    let mut boot = boot(agent.port);
    boot.limits.ping_interval_ms = 60_000;
    let session = Session::start(&boot);
    let mut broker = session.attach();
    broker.healthy();
    for n in 0..5 {
        assert_eq!(broker.invoke(b"{}").expect("answer").text(), n.to_string());
    }
    // Kept for a second, and no longer.
    std::thread::sleep(std::time::Duration::from_millis(1200));
    assert_eq!(broker.invoke(b"{}").expect("answer").text(), "0");
}

#[test]
fn a_kept_connection_that_closes_under_a_request_is_tried_again_only_where_twice_is_as_good_as_once()
 {
    let agent = FakeAgent::start(|asked| {
        asked.body().expect("body");
        if asked.nth > 0 {
            return false;
        }
        asked.answer(b"first");
        true
    });
    let mut boot = boot(agent.port);
    boot.limits.ping_interval_ms = 60_000;
    let session = Session::start(&boot);
    let mut broker = session.attach();
    broker.healthy();
    let get = || Invoke {
        method: "GET".to_owned(),
        ..post(Some(0))
    };
    for answered in ["first", "said again"] {
        let call = broker.begin(get());
        assert_eq!(broker.finish(call).expect(answered).text(), "first");
    }
    for body in [b"{}".as_slice(), b""] {
        let error = broker
            .invoke(body)
            .expect_err("the agent may have acted on it");
        assert_eq!(ErrorCode::from_rpc(error.code), ErrorCode::AgentClosed);
        assert_eq!(broker.invoke(body).expect("answer").text(), "first");
    }
}

#[test]
fn an_agent_on_ipv6_only_is_found() {
    let agent = FakeAgent::start_at("[::1]:0", |asked| {
        asked.body().expect("body");
        if asked.line.starts_with("GET /ping ") {
            asked.say(HEALTHY);
            return false;
        }
        asked.answer(b"six");
        true
    });
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    assert_eq!(broker.invoke(b"{}").expect("before any ping").text(), "six");
    broker.healthy();
    assert_eq!(broker.invoke(b"{}").expect("answer").text(), "six");
}

#[test]
fn an_answer_before_the_request_was_read_is_complete() {
    let agent = FakeAgent::start(|asked| {
        asked.say("HTTP/1.1 413 No\r\nconnection: close\r\ncontent-length: 7\r\n\r\ntoo big");
        false
    });
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    const SIZE: usize = 8 << 20;
    let call = broker.begin(post(Some(SIZE as u64)));
    let mut writer = call.stream.try_clone().expect("clone");
    let writing = std::thread::spawn(move || writer.write_all(&vec![0; SIZE]).is_ok());
    let answer = broker.finish(call).expect("answer");
    assert_eq!((answer.head.status, answer.text()), (413, "too big"));
    // However far the writer came, it was not left hanging.
    writing.join().expect("writer");
}

#[test]
fn both_directions_run_at_once() {
    let agent = FakeAgent::start(|asked| {
        asked.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        let mut piece = [0; 9];
        for _ in 0..3 {
            // "4\r\nping\r\n", as the shim frames what it is given.
            asked.connection.read_exact(&mut piece).expect("piece");
            assert_eq!(&piece, b"4\r\nping\r\n");
            asked.say("4\r\npong\r\n");
        }
        asked.say("0\r\n\r\n");
        false
    });
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    let mut call = broker.begin(post(None));
    for _ in 0..3 {
        call.stream.write_all(b"ping").expect("write");
        let mut pong = [0; 4];
        call.stream.read_exact(&mut pong).expect("read");
        assert_eq!(&pong, b"pong");
    }
    let answer = broker.finish(call).expect("answer");
    assert_eq!((answer.body.len(), answer.end), (0, Some(12)));
}

#[test]
fn an_upgrade_is_raw_both_ways() {
    let agent = FakeAgent::start(|asked| {
        assert_eq!(asked.header("upgrade"), Some("websocket"));
        assert_eq!(asked.header("connection"), Some("Upgrade"));
        assert_eq!(asked.header("transfer-encoding"), None);
        asked.say("HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello");
        let mut text = [0; 4];
        asked.connection.read_exact(&mut text).expect("read");
        asked.say(text);
        asked.wait_closed();
        asked.say("bye");
        false
    });
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    let mut invoke = post(None);
    invoke.method = "GET".to_owned();
    invoke.headers = vec![("upgrade".to_owned(), "websocket".to_owned())];
    let mut call = broker.begin(invoke);
    let mut hello = [0; 5];
    call.stream.read_exact(&mut hello).expect("read");
    assert_eq!(&hello, b"hello");
    call.stream.write_all(b"raw!").expect("write");
    let mut raw = [0; 4];
    call.stream.read_exact(&mut raw).expect("read");
    assert_eq!(&raw, b"raw!");
    broker.end(&call, 4);
    let answer = broker.finish(call).expect("answer");
    assert_eq!(answer.head.status, 101);
    assert_eq!(
        answer.head.headers,
        [("upgrade".to_owned(), "websocket".to_owned())]
    );
    assert_eq!((&answer.body[..], answer.end), (&b"bye"[..], Some(12)));
}

#[test]
fn an_upgrade_that_is_declined_is_an_ordinary_answer() {
    let agent = FakeAgent::start(|asked| {
        asked.say("HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\nno");
        true
    });
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    let mut invoke = post(None);
    invoke.headers = vec![("upgrade".to_owned(), "websocket".to_owned())];
    let call = broker.begin(invoke);
    let answer = broker.finish(call).expect("answer");
    assert_eq!((answer.head.status, answer.text()), (404, "no"));
}

#[test]
fn interim_answers_and_head_requests() {
    let agent = FakeAgent::start(|asked| {
        asked.say("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: a\r\n\r\n");
        asked.say("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n");
        true
    });
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    let mut invoke = post(Some(0));
    invoke.method = "HEAD".to_owned();
    let call = broker.begin(invoke);
    let answer = broker.finish(call).expect("answer");
    assert_eq!((answer.head.status, answer.text()), (200, ""));
    assert_eq!(answer.head.content_length, Some(99));
}

#[test]
fn one_that_waits_does_not_hold_up_the_others() {
    let agent = FakeAgent::start(|asked| {
        let body = asked.body().expect("body");
        if body == b"wait" {
            asked.wait_closed();
            return false;
        }
        asked.answer(&body);
        true
    });
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    let waiting: Vec<_> = (0..30)
        .map(|_| {
            let mut call = broker.begin(post(Some(4)));
            call.stream.write_all(b"wait").expect("write");
            call
        })
        .collect();
    for n in 0..20 {
        let body = n.to_string();
        assert_eq!(broker.invoke(body.as_bytes()).expect("answer").text(), body);
    }
    drop(waiting);
}

#[test]
fn a_reader_that_waits_holds_the_agent_back_and_loses_nothing() {
    const SIZE: usize = 32 << 20;
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    let agent = FakeAgent::start(move |asked| {
        asked.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n"));
        let block = [7; 1 << 16];
        for _ in 0..SIZE >> 16 {
            asked.say(block);
            counter.fetch_add(block.len(), Ordering::Relaxed);
        }
        true
    });
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    let call = broker.begin(post(Some(0)));
    // The agent stops writing: what it wrote is in the kernel's buffers, which are bounded.
    let mut last = usize::MAX;
    crate::harness::wait_for("the agent to be held back", || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let now = written.load(Ordering::Relaxed);
        let steady = now == last && now > 0;
        last = now;
        steady.then_some(())
    });
    assert!(last < SIZE / 2, "{last} bytes were taken without a reader");
    let private = session.memory("Anonymous");
    assert!(private < 1024, "{private} KiB");
    let answer = broker.finish(call).expect("answer");
    assert!(answer.is_complete() && answer.body.len() == SIZE);
    assert!(answer.body.iter().all(|b| *b == 7));
}

/// Two servers of one session: the agent, and another one on a port of its own.
#[test]
fn another_port_is_reached_only_if_the_session_offers_it() {
    let agent = echo();
    let other = FakeAgent::start(|asked| {
        let said = format!("{} {:?}", asked.line, asked.header("host"));
        asked.body().expect("body");
        asked.answer(said.as_bytes());
        true
    });
    let hidden = echo();
    let mut boot = boot(agent.port);
    boot.wire.ports = vec![Ports::one(other.port)];
    let session = Session::start(&boot);
    let mut broker = session.attach();
    broker.healthy();
    let at = |port: u16| Invoke {
        method: "DELETE".to_owned(),
        target: "/a/b?c=d".to_owned(),
        port: Some(port),
        ..post(Some(0))
    };
    // Again and again, between requests of the agent's: a kept connection leads where it led.
    for _ in 0..3 {
        let call = broker.begin(at(other.port));
        let answer = broker.finish(call).expect("answer");
        let host = format!("127.0.0.1:{}", other.port);
        assert_eq!(
            answer.text(),
            format!("DELETE /a/b?c=d HTTP/1.1 {:?}", Some(host))
        );
        assert_eq!(broker.invoke(b"own").expect("answer").text(), "own");
    }
    // The agent's own is asked for by saying nothing.
    for port in [hidden.port, agent.port, 0, 1] {
        let call = broker.begin(at(port));
        let error = broker.finish(call).expect_err("not offered");
        assert_eq!(ErrorCode::from_rpc(error.code), ErrorCode::BadOrder);
    }
    assert_eq!(broker.invoke(b"own").expect("answer").text(), "own");
}

#[test]
fn nobody_listening_on_an_offered_port_is_told_and_harms_nothing() {
    let agent = echo();
    // Bound and given back: nobody's.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = free.local_addr().expect("address").port();
    drop(free);
    let mut boot = boot(agent.port);
    boot.wire.ports = vec![Ports::one(port)];
    let session = Session::start(&boot);
    let mut broker = session.attach();
    broker.healthy();
    let call = broker.begin(Invoke {
        port: Some(port),
        ..post(Some(0))
    });
    let error = broker.finish(call).expect_err("nobody listens");
    assert_eq!(ErrorCode::from_rpc(error.code), ErrorCode::AgentUnreachable);
    assert_eq!(broker.invoke(b"own").expect("answer").text(), "own");
}
