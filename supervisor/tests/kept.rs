//! Kept exchanges over a real shim: brokers that are killed at any moment, one after the other, and the answer that the last of
//! them has on file. Tier: root. Shim and agent are those of the shim's own tests, so its program must be built.
#![allow(missing_docs, reason = "a test")]

#[path = "../../worker-shim/tests/shim/broker.rs"]
#[allow(dead_code, reason = "shared with the shim's own tests")]
mod broker;
#[path = "../../worker-shim/tests/shim/exact.rs"]
#[allow(dead_code, reason = "shared with the shim's own tests")]
mod exact;
#[path = "../../worker-shim/tests/shim/fake_agent.rs"]
#[allow(dead_code, reason = "shared with the shim's own tests")]
mod fake_agent;
#[path = "../../worker-shim/tests/shim/harness.rs"]
#[allow(dead_code, reason = "shared with the shim's own tests")]
mod harness;

use bytes::Bytes;
use exact::{answer_to, pattern, sizes};
use harness::{Session, TOKEN, boot};
use http_body_util::{Empty, Full};
use proptest::prelude::*;
use proto::ids::InvocationId;
use proto::shim::{Invoke, Kept};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};
use supervisor::relay::exchange::RequestBody;
use supervisor::relay::kept::{self, KeptExchange, Outcome, Piece};
use supervisor::relay::link::Link;

type Body = RequestBody<Full<Bytes>>;

fn request(path: &str, size: usize, length: Option<u64>) -> Invoke {
    Invoke {
        id: InvocationId(0),
        method: "POST".to_owned(),
        target: path.to_owned(),
        headers: vec![("x-size".to_owned(), size.to_string())],
        content_length: length,
        port: None,
        keep: None,
    }
}

/// One broker's life: where it is killed.
#[derive(Debug, Clone, Copy)]
enum Killed {
    /// So many milliseconds after its birth.
    After(u64),
    /// When it has read so much of the answer, and before it says so.
    Reading(usize),
    /// As soon as it has the end, which it writes down nowhere.
    AtEnd,
    Never,
}

#[derive(Debug, Clone)]
struct Story {
    request: usize,
    /// Known from the beginning: sent whole, or as a stream with a length.
    whole: bool,
    length_known: bool,
    answer: usize,
    path: &'static str,
    lives: Vec<Killed>,
}

fn story() -> impl Strategy<Value = Story> {
    let killed = prop_oneof![
        3 => (0_u64..6).prop_map(Killed::After),
        4 => sizes().prop_map(Killed::Reading),
        1 => Just(Killed::AtEnd),
    ];
    let path = prop::sample::select(vec!["/chunked", "/plain"]);
    let lives = prop::collection::vec(killed, 0..6);
    (sizes(), any::<bool>(), any::<bool>(), sizes(), path, lives).prop_map(
        |(request, whole, length_known, answer, path, lives)| Story {
            request,
            whole,
            length_known,
            answer,
            path,
            lives,
        },
    )
}

/// What is on disk, whoever is killed.
#[derive(Debug, Default)]
struct File {
    id: Option<InvocationId>,
    bytes: Vec<u8>,
    outcome: Option<Outcome>,
}

/// One broker, up to where it is killed.
async fn broker(session: &Session, epoch: u64, story: &Story, killed: Killed, file: &mut File) {
    let attached = Link::attach(&session.socket(), TOKEN, epoch).await;
    let (link, attached, _events) = attached.expect("attach");
    let known = attached.kept.iter().find(|one| Some(one.id) == file.id);
    let mut exchange = match known {
        Some(known) => go_on(&link, known, story, file).await,
        None => {
            // What is not known has not been begun.
            assert!(
                file.bytes.is_empty(),
                "{} bytes forgotten",
                file.bytes.len()
            );
            let id = *file.id.insert(link.kept_id());
            begin(&link, id, story).await
        }
    };
    let read_before = file.bytes.len();
    loop {
        match exchange.next().await.expect("no shim that lies") {
            Piece::Data(data) => {
                file.bytes.extend_from_slice(&data);
                if let Killed::Reading(most) = killed
                    && file.bytes.len() - read_before >= most
                {
                    return;
                }
                exchange.ack(file.bytes.len() as u64).await;
            }
            Piece::End(outcome) => {
                if !matches!(killed, Killed::AtEnd) {
                    file.outcome = Some(outcome);
                    exchange.settle();
                    // It has been heard when the next order is answered.
                    let nobody = proto::shim::Signal {
                        id: Some(proto::ids::ExecId(9)),
                        signal: 1,
                    };
                    link.signal(nobody).await.expect_err("there is nobody");
                }
                return;
            }
        }
    }
}

async fn begin(link: &Arc<Link>, id: InvocationId, story: &Story) -> KeptExchange {
    let body = Bytes::from(pattern(story.request as u64));
    let length = story.length_known.then_some(body.len() as u64);
    let request = request(story.path, story.answer, length);
    let body = match story.whole {
        true => RequestBody::Whole(body),
        false => RequestBody::Stream(Full::new(body)),
    };
    let begun = kept::begin(link, id, Duration::from_secs(600), request, body).await;
    begun.expect("a head")
}

async fn go_on(link: &Arc<Link>, known: &Kept, story: &Story, file: &File) -> KeptExchange {
    let at = file.bytes.len() as u64;
    assert!(known.acked <= at && at <= known.produced, "{known:?}, {at}");
    let request = Bytes::from(pattern(story.request as u64));
    let rest = request.slice(usize::try_from(known.uploaded).expect("size")..);
    let rest: Body = match story.whole {
        true => RequestBody::Whole(rest),
        false => RequestBody::Stream(Full::new(rest)),
    };
    let resumed = kept::resume(link, known, at, rest).await;
    resumed.expect("its head")
}

/// Each broker has a runtime, with which everything of it is gone at once.
fn live(session: &Session, epoch: &Cell<u64>, story: &Story) -> File {
    let mut file = File::default();
    for killed in story.lives.iter().copied().chain([Killed::Never]) {
        epoch.set(epoch.get() + 1);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("runtime");
        let life = broker(session, epoch.get(), story, killed, &mut file);
        let most = match killed {
            Killed::After(most) => Duration::from_millis(most),
            Killed::Reading(_) | Killed::AtEnd | Killed::Never => harness::PATIENCE,
        };
        let lived = runtime.block_on(async { tokio::time::timeout(most, life).await });
        runtime.shutdown_background();
        assert!(
            lived.is_ok() || matches!(killed, Killed::After(_)),
            "stalled: {killed:?}"
        );
        if file.outcome.is_some() {
            break;
        }
    }
    file
}

#[test]
fn whenever_brokers_are_killed_the_file_is_exactly_the_agents_answer() {
    let agent = exact::agent();
    let session = Session::start(&boot(agent.port));
    let epoch = Cell::new(7);
    let told = exact::runner(120).run(&story(), |story| {
        let file = live(&session, &epoch, &story);
        prop_assert_eq!(file.outcome, Some(Outcome::Complete));
        let whole = answer_to(&pattern(story.request as u64), story.answer as u64);
        prop_assert!(file.bytes == whole, "{} bytes on file", file.bytes.len());
        Ok(())
    });
    told.expect("exactly the agent's bytes");
    let mut last = broker::Broker::connect(&session.socket());
    let attached = last.attach(TOKEN, epoch.get() + 1).expect("attach");
    assert_eq!(attached.kept, [], "each is settled");
}

/// An answer goes over a window of 256 KiB; what that costs is not to be felt.
#[test]
fn a_large_answer_goes_over_its_window() {
    const SIZE: usize = 20 << 20;
    let agent = exact::agent();
    let session = Session::start(&boot(agent.port));
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let attached = Link::attach(&session.socket(), TOKEN, 8).await;
        let (link, _, _events) = attached.expect("attach");
        let before = Instant::now();
        let body = RequestBody::<Empty<Bytes>>::Whole(Bytes::new());
        let id = link.kept_id();
        let order = request("/plain", SIZE, None);
        let begun = kept::begin(&link, id, Duration::from_secs(60), order, body).await;
        let mut exchange = begun.expect("a head");
        let mut read = 0;
        let outcome = loop {
            match exchange.next().await.expect("no shim that lies") {
                Piece::Data(data) => {
                    read += data.len();
                    exchange.ack(read as u64).await;
                }
                Piece::End(outcome) => break outcome,
            }
        };
        assert_eq!(outcome, Outcome::Complete);
        assert_eq!(read, answer_to(&[], SIZE as u64).len());
        exchange.settle();
        eprintln!("20 MiB in {:?}", before.elapsed());
    });
}
