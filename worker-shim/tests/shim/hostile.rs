//! Agents that break the rules: their callers get an error with the reason, and never half an answer that looks whole.

use crate::broker::{Broker, post};
use crate::fake_agent::FakeAgent;
use crate::harness::{Session, boot, free_port, wait_for};
use proto::code::ErrorCode;
use proto::jsonrpc::ErrorObject;
use proto::shim::{Cancel, MAX_HEAD, MAX_HEADERS};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An agent that says `answer` and closes.
fn saying(answer: Vec<u8>) -> (FakeAgent, Session, Broker) {
    let agent = FakeAgent::start(move |asked| {
        asked.body().expect("body");
        asked.say(&answer);
        false
    });
    let session = Session::start(&boot(agent.port));
    let broker = session.attach();
    (agent, session, broker)
}

fn refused(answer: impl Into<Vec<u8>>) -> (ErrorCode, String) {
    let (_agent, _session, mut broker) = saying(answer.into());
    let answer = broker.invoke(b"{}").map(|answer| answer.head.status);
    let ErrorObject { code, message } = answer.expect_err("refused");
    (ErrorCode::from_rpc(code), message)
}

#[test]
fn what_is_not_an_http_answer_is_refused() {
    let many = "a: b\r\n".repeat(MAX_HEADERS + 1);
    let huge = "x".repeat(MAX_HEAD);
    for (answer, seen) in [
        ("SSH-2.0-OpenSSH_9\r\n".to_owned(), "SSH-2.0"),
        ("\0\0\0".to_owned(), "not HTTP/1"),
        ("HTTP/1.1 200 OK\r\nbad\r\n\r\n".to_owned(), "not HTTP/1"),
        (
            format!("HTTP/1.1 200 OK\r\n{many}\r\n"),
            "more than 100 headers",
        ),
        (
            format!("HTTP/1.1 200 OK\r\na: {huge}\r\n\r\n"),
            "over 32768 bytes",
        ),
        (
            format!("HTTP/1.1 200 OK\r\na: {huge}{huge}"),
            "over 32768 bytes",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
            "ambiguous",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx".to_owned(),
            "ambiguous",
        ),
        (
            "HTTP/1.1 101 Go\r\nupgrade: x\r\n\r\n".to_owned(),
            "no upgrade was offered",
        ),
        ("HTTP/1.1 100 Go\r\n\r\n".repeat(17), "too many interim"),
    ] {
        let (code, message) = refused(answer);
        assert_eq!(code, ErrorCode::AgentProtocol, "{message}");
        assert!(message.contains(seen), "{message}");
    }
}

#[test]
fn a_head_that_would_not_fit_a_packet_is_refused() {
    // Within every bound of HTTP, but each byte takes two in JSON.
    let quotes = "\"".repeat(MAX_HEAD - 30);
    let (code, message) = refused(format!("HTTP/1.1 200 OK\r\na: {quotes}\r\n\r\n"));
    assert_eq!(code, ErrorCode::AgentProtocol, "{message}");
}

#[test]
fn closing_without_a_whole_head_is_named() {
    for answer in ["", "HTTP/1.1 200 OK\r\ncontent-le"] {
        let (code, message) = refused(answer);
        assert_eq!(code, ErrorCode::AgentClosed, "{message}");
    }
}

#[test]
fn a_cut_answer_never_looks_complete() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\n12345",
    ] {
        let (_agent, _session, mut broker) = saying(answer.into());
        let answer = broker.invoke(b"{}").expect("the head came");
        assert_eq!((&answer.body[..], answer.end), (&b"12345"[..], None));
    }
}

#[test]
fn malformed_chunks_end_the_answer_as_incomplete() {
    let (_agent, _session, mut broker) = saying(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\nzz\r\nmore\r\n0\r\n\r\n"
            .to_vec(),
    );
    // The head and the fault came together, so the head is not worth passing on.
    let error = broker.invoke(b"{}").expect_err("refused");
    assert_eq!(ErrorCode::from_rpc(error.code), ErrorCode::AgentProtocol);
    let agent = FakeAgent::start(|asked| {
        asked.body().expect("body");
        asked.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n");
        std::thread::sleep(std::time::Duration::from_millis(100));
        asked.say("zz\r\nmore\r\n0\r\n\r\n");
        true
    });
    let session = Session::start(&boot(agent.port));
    let answer = session
        .attach()
        .invoke(b"{}")
        .expect("the head came before");
    assert_eq!((&answer.body[..], answer.end), (&b"12345"[..], None));
}

#[test]
fn an_answer_that_ends_with_its_connection_is_complete() {
    let (_agent, _session, mut broker) = saying(b"HTTP/1.0 200 OK\r\n\r\nall of it".to_vec());
    assert_eq!(broker.invoke(b"{}").expect("answer").text(), "all of it");
}

#[test]
fn unless_its_process_died() {
    for (end, complete) in [
        ("os._exit(1)", false),
        ("os.kill(os.getpid(), 9)", false),
        ("", true),
    ] {
        let port = free_port();
        let mut boot = boot(port);
        let script = format!(
            r#"
import http.server, os
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        b = b'{{"status":"Healthy"}}'
        self.send_response(200); self.send_header("content-length", str(len(b))); self.end_headers()
        self.wfile.write(b)
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200); self.end_headers(); self.wfile.write(b"half"); self.wfile.flush()
        {end}
http.server.HTTPServer(("127.0.0.1", {port}), H).serve_forever()
"#
        );
        boot.agent.argv = ["/usr/bin/python3", "-c", &script]
            .map(str::to_owned)
            .to_vec();
        let session = Session::start(&boot);
        let mut broker = session.attach();
        broker.healthy();
        let answer = broker.invoke(b"{}").expect("the head came");
        assert_eq!(answer.body, b"half");
        assert_eq!(answer.end.is_some(), complete, "{end}");
    }
}

#[test]
fn a_head_that_comes_byte_by_byte_is_a_head() {
    let agent = FakeAgent::start(|asked| {
        asked.body().expect("body");
        for byte in b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" {
            asked.say([*byte]);
        }
        true
    });
    let session = Session::start(&boot(agent.port));
    assert_eq!(session.attach().invoke(b"{}").expect("answer").text(), "ok");
}

#[test]
fn nobody_on_the_port_is_named() {
    let session = Session::start(&boot(free_port()));
    let error = session.attach().invoke(b"{}").expect_err("refused");
    assert_eq!(ErrorCode::from_rpc(error.code), ErrorCode::AgentUnreachable);
    assert!(error.message.contains("refused"), "{}", error.message);
}

/// An agent that counts the connections that its other side has closed.
fn waiting_agent() -> (FakeAgent, Arc<AtomicUsize>) {
    let closed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&closed);
    let agent = FakeAgent::start(move |asked| {
        asked.say("HTTP/1.1 100 Continue\r\n\r\n");
        asked.wait_closed();
        counter.fetch_add(1, Ordering::Relaxed);
        false
    });
    (agent, closed)
}

fn wait_count(counter: &AtomicUsize, wanted: usize) {
    wait_for("closed connections", || {
        (counter.load(Ordering::Relaxed) == wanted).then_some(())
    });
}

#[test]
fn cancel_closes_the_agents_connection() {
    let (agent, closed) = waiting_agent();
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    let call = broker.begin(post(Some(0)));
    broker.notify("cancel", &Cancel { id: call.id });
    let error = broker.finish(call).expect_err("cancelled");
    assert_eq!(ErrorCode::from_rpc(error.code), ErrorCode::Cancelled);
    wait_count(&closed, 1);
    // Late and unknown ones mean nothing.
    broker.notify(
        "cancel",
        &Cancel {
            id: proto::ids::InvocationId(1),
        },
    );
    broker.notify(
        "cancel",
        &Cancel {
            id: proto::ids::InvocationId(999),
        },
    );
    let call = broker.begin(post(Some(0)));
    broker.notify("cancel", &Cancel { id: call.id });
    assert!(broker.finish(call).is_err());
}

#[test]
fn a_caller_that_closes_its_stream_cancels() {
    let (agent, closed) = waiting_agent();
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    let call = broker.begin(post(Some(0)));
    drop(call.stream);
    let error = broker
        .answer_or_error::<serde_json::Value>(call.rpc)
        .expect_err("cancelled");
    assert_eq!(ErrorCode::from_rpc(error.code), ErrorCode::Cancelled);
    wait_count(&closed, 1);
}

#[test]
fn a_request_cut_short_reaches_the_agent_as_cut_short() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let agent = FakeAgent::start(move |asked| {
        let whole = asked.body().is_ok();
        sink.lock().expect("lock").push(whole);
        false
    });
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    for (length, end) in [
        (None, None),
        (Some(10), None),
        (None, Some(9)),
        (None, Some(2)),
        (Some(10), Some(5)),
    ] {
        let mut call = broker.begin(post(length));
        call.stream.write_all(b"12345").expect("write");
        match end {
            Some(bytes) => broker.end(&call, bytes),
            None => call
                .stream
                .shutdown(std::net::Shutdown::Write)
                .expect("shutdown"),
        }
        let error = broker.finish(call).expect_err("cut short");
        // Which of its faults is seen first is chance where there are two.
        let code = ErrorCode::from_rpc(error.code);
        let contradicted = end.is_some_and(|bytes| bytes < 9) && code == ErrorCode::BadOrder;
        assert!(
            contradicted || code == ErrorCode::Cancelled,
            "{length:?} {end:?} {code:?}"
        );
    }
    wait_for("the agent's view", || {
        (seen.lock().expect("lock").len() == 5).then_some(())
    });
    assert_eq!(*seen.lock().expect("lock"), [false; 5]);
}

#[test]
fn an_agent_that_resets_its_connection_is_named() {
    let agent = FakeAgent::start(|asked| {
        let mut first = [0];
        asked.connection.read_exact(&mut first).expect("some of it");
        // Closing with unread data resets.
        false
    });
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    const SIZE: usize = 1 << 20;
    let mut call = broker.begin(post(Some(SIZE as u64)));
    let _ = call.stream.write_all(&vec![0; SIZE]);
    let error = broker.finish(call).expect_err("reset");
    assert_eq!(ErrorCode::from_rpc(error.code), ErrorCode::AgentClosed);
}
