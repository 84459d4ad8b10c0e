//! Invocations that outlive the broker that began them.

use crate::broker::{Broker, Call, post};
use crate::exact::{self, answer_to, byte, pattern, sizes};
use crate::fake_agent::FakeAgent;
use crate::harness::{PATIENCE, Session, TOKEN, boot, free_port, shell, wait_for};
use proptest::prelude::*;
use proto::code::ErrorCode;
use proto::ids::InvocationId;
use proto::jsonrpc::ErrorObject;
use proto::shim::{
    Ack, Attached, BodyEnd, Cancel, Ended, ExitCause, Invoke, InvokeHead, KEPT_WINDOW, Keep, Kept,
    MAX_KEEP_MS, MAX_KEPT, Resume, Settle,
};
use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

const LONG: u64 = 600_000;

fn kept(content_length: Option<u64>, deadline_ms: u64) -> Invoke {
    Invoke {
        keep: Some(Keep { deadline_ms }),
        ..post(content_length)
    }
}

fn attach(session: &Session, epoch: u64) -> (Broker, Attached) {
    let mut broker = Broker::connect(&session.socket());
    let attached = broker.attach(TOKEN, epoch).expect("attach");
    (broker, attached)
}

/// Waits until everything that was ordered before is carried out: orders of an older link may not be.
fn heard(broker: &mut Broker) {
    let nobody = serde_json::json!({"id": 999, "signal": 1});
    let told = broker.call::<_, serde_json::Value>("signal", &nobody);
    assert_eq!(told, Err(ErrorCode::NotFound));
}

fn resume(broker: &mut Broker, id: InvocationId, from: u64, request_from: u64) -> Call {
    let (stream, theirs) = UnixStream::pair().expect("pair");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let order = Resume {
        id,
        from,
        request_from,
    };
    let rpc = broker.request("resume", &order, &[theirs.as_fd()]);
    Call { id, rpc, stream }
}

/// What is left of an answer, and its end.
fn rest(broker: &mut Broker, call: &mut Call) -> (Vec<u8>, Ended) {
    let mut body = Vec::new();
    call.stream.read_to_end(&mut body).expect("no stall");
    (body, ended(broker))
}

fn ended(broker: &mut Broker) -> Ended {
    serde_json::from_value(broker.notification("ended").params).expect("ended")
}

fn failure(ended: &Ended) -> Option<ErrorCode> {
    let failure = ended.failure.as_ref()?;
    Some(ErrorCode::from_rpc(failure.code))
}

fn code(error: &ErrorObject) -> ErrorCode {
    ErrorCode::from_rpc(error.code)
}

/// An agent that says a piece for each that the test sends, and ends its answer with the channel.
fn spoken() -> (FakeAgent, Sender<String>) {
    let (say, said): (_, Receiver<String>) = channel();
    let said = Mutex::new(said);
    let agent = FakeAgent::start(move |asked| {
        asked.body().expect("body");
        asked.say("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
        while let Ok(piece) = said.lock().expect("lock").recv() {
            asked.say(format!("{:x}\r\n{piece}\r\n", piece.len()));
        }
        asked.say("0\r\n\r\n");
        true
    });
    (agent, say)
}

#[test]
fn a_stream_goes_on_where_it_was_cut_off() {
    let (agent, say) = spoken();
    let session = Session::start(&boot(agent.port));
    let (mut first, none) = attach(&session, 7);
    assert_eq!(none.kept, []);
    let mut call = first.begin_with(kept(Some(2), LONG), b"{}");
    let head: InvokeHead = first.answer(call.rpc).expect("head");
    let id = call.id;
    let mut event = [0; 9];
    say.send("data: 1\n\n".to_owned()).expect("say");
    call.stream.read_exact(&mut event).expect("event");
    first.notify("ack", &Ack { id, bytes: 9 });
    say.send("data: 2\n\n".to_owned()).expect("say");
    call.stream.read_exact(&mut event).expect("event");
    heard(&mut first);
    // What it has read and not acknowledged, it has lost.
    drop((first, call));
    say.send("data: 3\n\n".to_owned()).expect("say");
    let (mut second, attached) = wait_for("the third event to be held", || {
        let (broker, attached) = attach(&session, 8);
        (attached.kept.first()?.produced == 27).then_some((broker, attached))
    });
    let [one] = attached.kept[..] else {
        panic!("{attached:?}")
    };
    assert!(one.left_ms > LONG - 60_000 && one.left_ms <= LONG);
    let expected = Kept {
        id,
        acked: 9,
        produced: 27,
        uploaded: 2,
        ended: false,
        left_ms: one.left_ms,
    };
    assert_eq!(one, expected);
    assert_eq!(attached.idle_ms, 0, "it works");
    let mut call = resume(&mut second, id, 9, 2);
    assert_eq!(second.answer::<InvokeHead>(call.rpc), Ok(head));
    let mut two = [0; 18];
    call.stream.read_exact(&mut two).expect("events");
    assert_eq!(&two, b"data: 2\n\ndata: 3\n\n");
    say.send("data: 4\n\n".to_owned()).expect("say");
    drop(say);
    let (body, end) = rest(&mut second, &mut call);
    assert_eq!(body, b"data: 4\n\n");
    let whole = Ended {
        id,
        bytes: 36,
        failure: None,
    };
    assert_eq!(end, whole);
    // Known until it is settled; then not any more.
    let (mut third, attached) = attach(&session, 9);
    assert!(attached.kept[0].ended, "{attached:?}");
    let mut again = resume(&mut third, id, 9, 2);
    assert!(third.answer::<InvokeHead>(again.rpc).is_ok());
    assert_eq!(rest(&mut third, &mut again).0.len(), 27);
    third.notify("settle", &Settle { id });
    let gone = resume(&mut third, id, 36, 2);
    assert_eq!(
        third.answer::<InvokeHead>(gone.rpc),
        Err(ErrorCode::NotFound)
    );
    assert_eq!(attach(&session, 9).1.kept, []);
}

#[test]
fn what_an_agent_wrote_before_its_end_is_told_before_it() {
    let output: &Mutex<Option<File>> = Box::leak(Box::default());
    let agent = FakeAgent::start(move |asked| {
        let body = asked.body().expect("body");
        let output = output.lock().expect("lock");
        let mut output = output.as_ref().expect("the agent's output");
        output.write_all(&body).expect("written");
        asked.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        true
    });
    let session = Session::start(&boot(agent.port));
    let (mut broker, _) = attach(&session, 7);
    let children = format!("/proc/{0}/task/{0}/children", session.shim);
    let agent = std::fs::read_to_string(children).expect("children");
    let stdout = format!("/proc/{}/fd/1", agent.trim());
    *output.lock().expect("lock") = Some(File::create(stdout).expect("its output"));
    for number in 0..100 {
        let line = format!("line {number:02}\n");
        let length = line.len() as u64;
        let mut call = broker.begin_with(kept(Some(length), LONG), line.as_bytes());
        let _: InvokeHead = broker.answer(call.rpc).expect("head");
        let (body, end) = rest(&mut broker, &mut call);
        assert_eq!((&body[..], end.failure), (&b"{}"[..], None));
        let logs = std::iter::from_fn(|| broker.queued_log());
        let told = logs
            .flat_map(|log| log.lines)
            .any(|l| l.text == line.trim());
        assert!(told, "{line} comes after the end");
        broker.notify("settle", &Settle { id: call.id });
    }
}

#[test]
fn an_answer_that_nobody_takes_holds_the_agent_back_and_is_whole_afterwards() {
    const SIZE: u64 = 20 << 20;
    let agent = FakeAgent::start(|asked| {
        asked.body().expect("body");
        let body = pattern(SIZE);
        asked.answer(&body);
        true
    });
    let session = Session::start(&boot(agent.port));
    let (mut first, _) = attach(&session, 7);
    let call = first.begin(kept(Some(0), LONG));
    let id = call.id;
    first.answer::<InvokeHead>(call.rpc).expect("head");
    drop((first, call));
    let (mut second, one) = wait_for("the window to be full", || {
        let (broker, attached) = attach(&session, 8);
        let one = attached.kept[0];
        (one.produced == KEPT_WINDOW).then_some((broker, one))
    });
    assert_eq!((one.acked, one.ended), (0, false));
    assert!(
        session.memory("Anonymous") < 1536,
        "it is a window's memory"
    );
    let mut call = resume(&mut second, id, 0, 0);
    second.answer::<InvokeHead>(call.rpc).expect("head");
    let (mut read, mut buffer) = (0, vec![0; 64 * 1024]);
    while read < SIZE {
        let count = call.stream.read(&mut buffer).expect("no stall");
        assert!(count > 0, "cut off at {read}");
        assert!((read..).zip(&buffer[..count]).all(|(at, b)| *b == byte(at)));
        read += count as u64;
        second.notify("ack", &Ack { id, bytes: read });
    }
    let (nothing, end) = rest(&mut second, &mut call);
    assert_eq!((nothing.len(), end.bytes, end.failure), (0, SIZE, None));
    assert!(session.memory("Anonymous") < 1536, "whatever its size");
}

#[test]
fn a_head_that_comes_while_nobody_is_there_is_told_to_who_comes() {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let agent = FakeAgent::start(move |asked| {
        asked.body().expect("body");
        wait.lock().expect("lock").recv().expect("go");
        asked.answer(b"late");
        true
    });
    let session = Session::start(&boot(agent.port));
    let (mut first, _) = attach(&session, 7);
    // One that asks for the head before it is there, and one after.
    let [early, late] = [(); 2].map(|()| first.begin_with(kept(Some(2), LONG), b"{}").id);
    heard(&mut first);
    wait_for("both to be with the agent", || {
        let (broker, attached) = attach(&session, 7);
        first = broker;
        assert_eq!(attached.kept.len(), 2);
        attached
            .kept
            .iter()
            .all(|one| one.uploaded == 2)
            .then_some(())
    });
    let mut asked_early = resume(&mut first, early, 0, 2);
    go.send(()).expect("go");
    go.send(()).expect("go");
    let head: InvokeHead = first.answer(asked_early.rpc).expect("head");
    assert_eq!((head.status, head.content_length), (200, Some(4)));
    assert_eq!(rest(&mut first, &mut asked_early).0, b"late");
    wait_for("the other to end", || {
        let (broker, attached) = attach(&session, 7);
        first = broker;
        attached.kept.iter().all(|one| one.ended).then_some(())
    });
    let mut asked_late = resume(&mut first, late, 0, 2);
    assert_eq!(first.answer::<InvokeHead>(asked_late.rpc), Ok(head));
    assert_eq!(rest(&mut first, &mut asked_late).0, b"late");
}

#[test]
fn failures_are_kept_as_answers_are() {
    let agent = FakeAgent::start(|asked| {
        asked.body().expect("body");
        if asked.line.contains("half") {
            asked.say("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf");
        } else if asked.line.contains("garbage") {
            asked.say("SSH-2.0\r\n");
        }
        // Anything else is closed without a word.
        false
    });
    let session = Session::start(&boot(agent.port));
    let (mut first, _) = attach(&session, 7);
    let begun = ["half", "garbage", "nothing"].map(|target| {
        let invoke = Invoke {
            target: format!("/{target}"),
            ..kept(Some(0), LONG)
        };
        first.begin(invoke).id
    });
    heard(&mut first);
    drop(first);
    let mut second = wait_for("all to have ended", || {
        let (broker, attached) = attach(&session, 8);
        let all = attached.kept.len() == 3 && attached.kept.iter().all(|one| one.ended);
        all.then_some(broker)
    });
    let [half, garbage, nothing] = begun;
    let mut call = resume(&mut second, half, 0, 0);
    second.answer::<InvokeHead>(call.rpc).expect("its head");
    let (body, end) = rest(&mut second, &mut call);
    assert_eq!((&body[..], end.bytes), (&b"half"[..], 4));
    assert_eq!(failure(&end), Some(ErrorCode::AgentClosed));
    for (id, expected) in [
        (garbage, ErrorCode::AgentProtocol),
        (nothing, ErrorCode::AgentClosed),
    ] {
        for _ in 0..2 {
            let call = resume(&mut second, id, 0, 0);
            assert_eq!(second.answer::<InvokeHead>(call.rpc), Err(expected));
        }
        second.notify("settle", &Settle { id });
    }
    heard(&mut second);
    assert_eq!(attach(&session, 8).1.kept.len(), 1);
}

#[test]
fn a_failure_in_the_middle_is_told_with_its_reason_to_who_is_there() {
    let agent = FakeAgent::start(|asked| {
        asked.say("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf");
        asked.wait_closed();
        false
    });
    let session = Session::start(&boot(agent.port));
    let (mut broker, _) = attach(&session, 7);
    let mut call = broker.begin(kept(Some(0), LONG));
    broker.answer::<InvokeHead>(call.rpc).expect("head");
    // That the reader goes away is no cancelling; `cancel` is.
    let id = call.id;
    drop(call.stream);
    call = resume(&mut broker, id, 0, 0);
    broker.answer::<InvokeHead>(call.rpc).expect("head");
    broker.notify("cancel", &Cancel { id });
    let (body, end) = rest(&mut broker, &mut call);
    assert_eq!((&body[..], end.bytes), (&b"half"[..], 4));
    assert_eq!(failure(&end), Some(ErrorCode::Cancelled));
    broker.notify("cancel", &Cancel { id });
    broker.notify("settle", &Settle { id });
    heard(&mut broker);
    assert_eq!(attach(&session, 7).1.kept, []);
}

#[test]
fn an_agent_that_dies_meanwhile_leaves_what_it_has_said() {
    // The agent's uid can find it there.
    let mark = std::env::temp_dir().join(format!("kept-mark-{}", std::process::id()));
    let port = free_port();
    let mut boot = boot(port);
    boot.wire.ping_path = None;
    boot.limits.stop_grace_ms = 100;
    let agent = "
import os, socket, sys
listener = socket.create_server((\"127.0.0.1\", int(sys.argv[1])))
while True:
    caller, _ = listener.accept()
    # Being ready is asked for by a connection, too.
    if caller.recv(65536): break
caller.sendall(b\"HTTP/1.1 200 OK\\r\\n\\r\\nlast words\")
while not os.path.exists(sys.argv[2]): pass
os.kill(os.getpid(), 9)";
    let mark_text = mark.display();
    shell(
        &mut boot,
        &format!("exec python3 -c '{agent}' {port} {mark_text}"),
    );
    let mut session = Session::start(&boot);
    let (mut first, _) = attach(&session, 7);
    first.healthy();
    let mut call = first.begin(kept(Some(0), LONG));
    first.answer::<InvokeHead>(call.rpc).expect("head");
    let mut word = [0; 4];
    call.stream.read_exact(&mut word).expect("word");
    let id = call.id;
    drop((first, call));
    std::fs::write(&mark, b"").expect("mark");
    let mut second = wait_for("it to be over", || {
        let (broker, attached) = attach(&session, 8);
        (attached.exited.is_some() && attached.kept[0].ended).then_some(broker)
    });
    // It is there to be fetched, when a session without it would have gone.
    std::thread::sleep(Duration::from_millis(300));
    let mut call = resume(&mut second, id, 0, 0);
    second.answer::<InvokeHead>(call.rpc).expect("head");
    let (body, end) = rest(&mut second, &mut call);
    std::fs::remove_file(&mark).expect("remove");
    assert_eq!(body, b"last words");
    assert_eq!(failure(&end), Some(ErrorCode::AgentClosed), "{end:?}");
    second.notify("settle", &Settle { id });
    assert_eq!(session.record().cause, ExitCause::AgentExited);
}

#[test]
fn its_deadline_ends_it_and_is_what_holds_the_session() {
    let agent = FakeAgent::start(|asked| {
        asked.wait_closed();
        false
    });
    let mut short = boot(agent.port);
    short.limits.max_lifetime_ms = 500;
    short.limits.orphan_timeout_ms = 500;
    let mut session = Session::start(&short);
    let (mut first, _) = attach(&session, 7);
    let id = first.begin(kept(Some(0), 3000)).id;
    heard(&mut first);
    drop(first);
    std::thread::sleep(Duration::from_millis(1500));
    // Older than it may be, and without a daemon for longer than may be.
    let (mut second, attached) = attach(&session, 8);
    assert!(
        (1..=1500).contains(&attached.kept[0].left_ms),
        "{attached:?}"
    );
    let call = resume(&mut second, id, 0, 0);
    assert_eq!(
        second.answer::<InvokeHead>(call.rpc),
        Err(ErrorCode::AgentTimeout)
    );
    assert!(session.started.elapsed() >= Duration::from_secs(3));
    let record = session.record();
    assert_eq!(record.cause, ExitCause::MaxLifetime);
}

#[test]
fn an_outcome_waits_as_long_as_an_orphan_may_and_no_longer() {
    let agent = FakeAgent::start(|asked| {
        asked.answer(b"done");
        true
    });
    let mut short = boot(agent.port);
    short.limits.max_lifetime_ms = 300;
    short.limits.orphan_timeout_ms = 1500;
    let mut session = Session::start(&short);
    let (mut first, _) = attach(&session, 7);
    let call = first.begin(kept(Some(0), LONG));
    first.answer::<InvokeHead>(call.rpc).expect("head");
    drop((first, call));
    let before = Instant::now();
    assert_eq!(session.record().cause, ExitCause::Orphaned);
    assert!(before.elapsed() >= Duration::from_millis(1400));
}

#[test]
fn wrong_orders_are_answered_and_bounds_hold() {
    let agent = FakeAgent::start(|asked| {
        asked.wait_closed();
        false
    });
    let mut boot = boot(agent.port);
    boot.limits.max_invocations = 100;
    let session = Session::start(&boot);
    let (mut broker, _) = attach(&session, 7);
    let refusal = |broker: &mut Broker, invoke: Invoke| {
        let call = broker.begin(invoke);
        code(
            &broker
                .answer_or_error::<InvokeHead>(call.rpc)
                .expect_err("refused"),
        )
    };
    for deadline in [0, MAX_KEEP_MS + 1, u64::MAX] {
        let refused = refusal(&mut broker, kept(Some(0), deadline));
        assert_eq!(refused, ErrorCode::BadOrder);
    }
    let mut upgrade = kept(None, LONG);
    upgrade.method = "GET".to_owned();
    upgrade.headers = vec![("upgrade".to_owned(), "websocket".to_owned())];
    assert_eq!(refusal(&mut broker, upgrade), ErrorCode::BadOrder);
    let ordinary = broker.begin(post(Some(0)));
    let no = resume(&mut broker, ordinary.id, 0, 0);
    assert_eq!(
        broker.answer::<InvokeHead>(no.rpc),
        Err(ErrorCode::BadOrder)
    );
    let calls: Vec<Call> = (0..MAX_KEPT)
        .map(|_| broker.begin(kept(Some(0), LONG)))
        .collect();
    let more = refusal(&mut broker, kept(Some(0), LONG));
    assert_eq!(more, ErrorCode::TooManyInvocations);
    // Outcomes count until they are settled.
    broker.notify("cancel", &Cancel { id: calls[0].id });
    let more = refusal(&mut broker, kept(Some(0), LONG));
    assert_eq!(more, ErrorCode::TooManyInvocations);
    // One in flight is not settled by saying so.
    broker.notify("settle", &Settle { id: calls[1].id });
    broker.notify("settle", &Settle { id: calls[0].id });
    let fits = broker.begin(kept(Some(0), LONG));
    for (from, request_from) in [(1, 0), (u64::MAX, 0), (0, 1)] {
        let call = resume(&mut broker, fits.id, from, request_from);
        assert_eq!(
            broker.answer::<InvokeHead>(call.rpc),
            Err(ErrorCode::BadOrder)
        );
    }
    // The newest order is the one that counts.
    let newer = resume(&mut broker, fits.id, 0, 0);
    assert_eq!(
        broker.answer::<InvokeHead>(fits.rpc),
        Err(ErrorCode::Conflict)
    );
    broker.notify(
        "ack",
        &Ack {
            id: fits.id,
            bytes: u64::MAX,
        },
    );
    broker.notify(
        "ack",
        &Ack {
            id: InvocationId(u64::MAX),
            bytes: 1,
        },
    );
    broker.notify(
        "settle",
        &Settle {
            id: InvocationId(u64::MAX),
        },
    );
    broker.notify("cancel", &Cancel { id: fits.id });
    assert_eq!(
        broker.answer::<InvokeHead>(newer.rpc),
        Err(ErrorCode::Cancelled)
    );
    let (_, attached) = attach(&session, 8);
    assert_eq!(attached.kept.len(), MAX_KEPT, "and the ordinary one is not");
}

#[test]
fn the_end_of_the_session_is_theirs_too() {
    let (agent, say) = spoken();
    let mut session = Session::start(&boot(agent.port));
    let (mut broker, _) = attach(&session, 7);
    let mut call = broker.begin_with(kept(Some(2), LONG), b"{}");
    broker.answer::<InvokeHead>(call.rpc).expect("head");
    say.send("piece".to_owned()).expect("say");
    let mut piece = [0; 5];
    call.stream.read_exact(&mut piece).expect("piece");
    broker.shutdown(100);
    let (_, end) = rest(&mut broker, &mut call);
    assert_eq!(
        (end.bytes, failure(&end)),
        (5, Some(ErrorCode::AgentClosed))
    );
    assert_eq!(session.record().cause, ExitCause::Shutdown);
}

/// One life of a broker: how much of the request it writes, and of the answer it reads, before it is killed; how much of what it
/// has by then it has acknowledged.
#[derive(Debug, Clone, Copy)]
struct Life {
    writes: usize,
    reads: usize,
    acks: u8,
    /// Waits so long before it goes, in milliseconds.
    lingers: u64,
}

#[derive(Debug, Clone)]
struct Story {
    request: usize,
    length_known: bool,
    answer: u64,
    chunked: bool,
    lives: Vec<Life>,
}

fn story() -> impl Strategy<Value = Story> {
    let life =
        (sizes(), sizes(), any::<u8>(), 0_u64..4).prop_map(|(writes, reads, acks, lingers)| Life {
            writes,
            reads,
            acks,
            lingers,
        });
    (
        sizes(),
        any::<bool>(),
        sizes(),
        any::<bool>(),
        prop::collection::vec(life, 0..6),
    )
        .prop_map(|(request, length_known, answer, chunked, lives)| Story {
            request,
            length_known,
            answer: answer as u64,
            chunked,
            lives,
        })
}

/// Lives through it; the answer as it is on the last broker's file.
fn live(session: &Session, epoch: &Cell<u64>, story: &Story) -> (Vec<u8>, Ended) {
    let request = pattern(story.request as u64);
    let mut file: Vec<u8> = Vec::new();
    let mut id = None;
    let last = Life {
        writes: usize::MAX,
        reads: usize::MAX,
        acks: 255,
        lingers: 0,
    };
    for life in story.lives.iter().copied().chain([last]) {
        epoch.set(epoch.get() + 1);
        let (mut broker, attached) = attach(session, epoch.get());
        let found = attached.kept.iter().find(|one| Some(one.id) == id);
        let (mut call, at) = match (id, found) {
            (Some(id), Some(one)) => {
                assert!(one.acked <= file.len() as u64 && file.len() as u64 <= one.produced);
                let call = resume(&mut broker, id, file.len() as u64, one.uploaded);
                (call, one.uploaded)
            }
            // Not a byte of it has come to the agent: it may be said once more.
            (None | Some(_), _) => {
                assert_eq!(file.len(), 0, "an answer is forgotten that was begun");
                let length = story.length_known.then_some(story.request as u64);
                let mut invoke = kept(length, LONG);
                invoke
                    .headers
                    .push(("x-size".to_owned(), story.answer.to_string()));
                if story.chunked {
                    invoke.target = "/chunked".to_owned();
                }
                // An id that no broker had.
                broker.skip_invocations(epoch.get() << 8);
                (broker.begin(invoke), 0)
            }
        };
        id = Some(call.id);
        if !story.length_known {
            let bytes = story.request as u64;
            broker.notify("body.end", &BodyEnd { id: call.id, bytes });
        }
        let unsent = &request[usize::try_from(at).expect("size")..];
        let unsent = unsent[..unsent.len().min(life.writes)].to_vec();
        let mut writer = call.stream.try_clone().expect("clone");
        // It fails when the agent has answered already, or the stream is closed under it.
        let writing = std::thread::spawn(move || {
            let _ = writer.write_all(&unsent);
        });
        let before = file.len();
        if (life.writes as u64).saturating_add(at) >= story.request as u64 {
            broker.answer::<InvokeHead>(call.rpc).expect("head");
            let mut buffer = vec![0; 50_000];
            while file.len() - before < life.reads {
                let most = buffer.len().min(life.reads - (file.len() - before));
                let count = call.stream.read(&mut buffer[..most]).expect("no stall");
                if count == 0 {
                    let end = ended(&mut broker);
                    assert_eq!(end.id, call.id);
                    if life.reads == usize::MAX {
                        broker.notify("settle", &Settle { id: call.id });
                        heard(&mut broker);
                        return (file, end);
                    }
                    break;
                }
                file.extend_from_slice(&buffer[..count]);
                let safe = file.len() as u64 * u64::from(life.acks) / 255;
                broker.notify(
                    "ack",
                    &Ack {
                        id: call.id,
                        bytes: safe,
                    },
                );
                if life.acks < 200 && file.len() - before > 100_000 {
                    // It would come to the end of the window.
                    break;
                }
            }
        }
        std::thread::sleep(Duration::from_millis(life.lingers));
        let safe = usize::try_from(file.len() as u64 * u64::from(life.acks) / 255).expect("size");
        call.stream
            .shutdown(std::net::Shutdown::Both)
            .expect("shutdown");
        drop((broker, call));
        writing.join().expect("writer");
        // What was acknowledged is there; of the rest, who knows.
        file.truncate(safe.max(before));
    }
    unreachable!("the last broker reads to the end")
}

#[test]
fn whenever_brokers_are_killed_the_answer_is_exactly_the_agents() {
    let agent = exact::agent();
    let session = Session::start(&boot(agent.port));
    let epoch = Cell::new(7);
    let told = exact::runner(150).run(&story(), |story| {
        let (file, end) = live(&session, &epoch, &story);
        let request = pattern(story.request as u64);
        prop_assert!(
            file == answer_to(&request, story.answer),
            "{} bytes",
            file.len()
        );
        prop_assert_eq!((end.bytes, end.failure), (file.len() as u64, None));
        Ok(())
    });
    told.expect("exactly the agent's bytes");
    let (mut broker, attached) = attach(&session, epoch.get());
    assert_eq!(attached.kept, []);
    // Nothing is left of any of them.
    drop(broker.begin(post(Some(0))));
    assert!(session.memory("Anonymous") < 2048);
}
