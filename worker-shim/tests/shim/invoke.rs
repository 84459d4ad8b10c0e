//! Invocations that go well.

use crate::broker::post;
use crate::fake_agent::FakeAgent;
use crate::harness::{Session, boot};
use std::io::{Read, Write};

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
