//! Kept exchanges with a shim that the test is, honest or not. Tier: files.

use super::*;
use http_body_util::Empty;
use proptest::prelude::*;
use proto::code::ErrorCode;
use proto::jsonrpc::{self, MAX_PACKET, Message};
use proto::shim::{Attached, GENERATION, MAX_KEPT};
use sandbox::seqpacket::{Seqpacket, SeqpacketListener};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use tokio::task::JoinHandle;

type Exchanged = JoinHandle<Result<KeptExchange, CallError>>;

/// The shim's end of a link.
struct Shim {
    socket: Seqpacket,
    buffer: Vec<u8>,
    link: Arc<Link>,
    // While they are taken the link lives.
    _events: tokio::sync::mpsc::Receiver<super::super::link::ShimEvent>,
}

/// An order as it came.
struct Ordered {
    rpc: Option<u64>,
    method: String,
    params: Value,
    stream: Option<UnixStream>,
}

impl Shim {
    fn new() -> Self {
        let (socket, ours) = Seqpacket::pair().expect("pair");
        socket.set_nonblocking(true).expect("non-blocking");
        let (link, events) = Link::over(ours, 5).expect("link");
        Self {
            socket,
            buffer: vec![0; MAX_PACKET],
            link,
            _events: events,
        }
    }

    /// The order that is there now.
    fn heard(&mut self) -> Option<Ordered> {
        let mut received = match self.socket.recv(&mut self.buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => panic!("{error}"),
        };
        let stream = received.fds.pop().map(UnixStream::from);
        let (rpc, method, params) = match jsonrpc::parse(&self.buffer[..received.len]) {
            Ok(Message::Request { id, method, params }) => (Some(id), method, params),
            Ok(Message::Notification { method, params }) => (None, method, params),
            other => panic!("{other:?}"),
        };
        Some(Ordered {
            rpc,
            method: method.into_owned(),
            params: serde_json::from_str(params.get()).expect("JSON"),
            stream,
        })
    }

    async fn hear(&mut self) -> Ordered {
        let hearing = async {
            loop {
                if let Some(order) = self.heard() {
                    return order;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), hearing)
            .await
            .expect("an order")
    }

    fn say(&self, packet: &[u8]) {
        self.socket.send(packet, &[]).expect("send");
    }

    fn answer_head(&self, order: &Ordered) {
        let head = json!({"status": 200, "headers": [], "content_length": null});
        self.say(&jsonrpc::result(order.rpc.expect("a request"), &head));
    }

    fn end(&self, id: InvocationId, bytes: u64, failure: &Value) {
        let mut params = json!({"id": id, "bytes": bytes});
        if !failure.is_null() {
            params["failure"] = failure.clone();
        }
        self.say(&jsonrpc::notification("ended", &params));
    }

    /// One whose head is answered already.
    async fn begun(&mut self) -> (KeptExchange, UnixStream) {
        let begun = self.begin(b"{}");
        let mut order = self.hear().await;
        self.answer_head(&order);
        let exchange = begun.await.expect("no panic").expect("a head");
        (exchange, order.stream.take().expect("a stream"))
    }

    fn begin(&self, body: &'static [u8]) -> Exchanged {
        let link = Arc::clone(&self.link);
        tokio::spawn(async move {
            let id = link.kept_id();
            let body = RequestBody::<Empty<Bytes>>::Whole(Bytes::from_static(body));
            begin(&link, id, Duration::from_secs(60), request(), body).await
        })
    }
}

fn request() -> Invoke {
    Invoke {
        id: InvocationId(0),
        method: "POST".to_owned(),
        target: "/invocations".to_owned(),
        headers: Vec::new(),
        content_length: None,
        port: None,
        keep: None,
    }
}

/// Everything up to the end or an error.
async fn all(exchange: &mut KeptExchange) -> (Vec<u8>, Result<Outcome, KeptError>) {
    let mut bytes = Vec::new();
    let reading = async {
        loop {
            match exchange.next().await {
                Ok(Piece::Data(data)) => bytes.extend_from_slice(&data),
                Ok(Piece::End(outcome)) => return Ok(outcome),
                Err(error) => return Err(error),
            }
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(10), reading).await;
    (bytes, outcome.expect("it ends"))
}

#[tokio::test]
async fn an_answer_is_read_acknowledged_and_settled() {
    let mut shim = Shim::new();
    let begun = shim.begin(b"{}");
    let mut order = shim.hear().await;
    assert_eq!(order.method, "invoke");
    assert_eq!(order.params["keep"], json!({"deadline_ms": 60_000}));
    assert_eq!(order.params["content_length"], json!(2));
    let id = order.params["id"].as_u64().expect("a number");
    assert_eq!(id >> 32, (1 << 30) + 5, "the daemon's epoch is in it");
    let mut stream = order.stream.take().expect("a stream");
    let mut body = [0; 2];
    stream.read_exact(&mut body).expect("the request");
    assert_eq!(&body, b"{}");
    shim.answer_head(&order);
    let mut exchange = begun.await.expect("no panic").expect("a head");
    let quarter = usize::try_from(ACK_EVERY).expect("size");
    for n in 1..=3_u64 {
        stream.write_all(&vec![7; quarter]).expect("write");
        while exchange.bytes() < n * ACK_EVERY {
            exchange.next().await.expect("data");
            exchange.ack(exchange.bytes()).await;
        }
        let ack = shim.hear().await;
        let told = (ack.method.as_str(), ack.params["bytes"].as_u64());
        assert_eq!(told, ("ack", Some(n * ACK_EVERY)));
    }
    stream.write_all(b"!").expect("write");
    shim.end(InvocationId(id), 3 * ACK_EVERY + 1, &Value::Null);
    drop(stream);
    let (rest, outcome) = all(&mut exchange).await;
    assert_eq!(
        (rest.as_slice(), outcome.expect("an end")),
        (&b"!"[..], Outcome::Complete)
    );
    exchange.ack(u64::MAX).await;
    exchange.settle();
    // The last byte needs no word of its own.
    assert_eq!(shim.hear().await.method, "settle");
    assert!(shim.heard().is_none());
}

#[tokio::test]
async fn a_large_request_and_its_end_follow_the_order() {
    let mut shim = Shim::new();
    let body: &'static [u8] = vec![3; 1_000_000].leak();
    let begun = shim.begin(body);
    let mut order = shim.hear().await;
    assert_eq!(order.params["content_length"], json!(1_000_000));
    let mut stream = order.stream.take().expect("a stream");
    let reading = tokio::task::spawn_blocking(move || {
        stream.set_nonblocking(false).expect("blocking");
        let mut taken = Vec::new();
        stream.read_to_end(&mut taken).expect("the request");
        (stream, taken)
    });
    let end = shim.hear().await;
    assert_eq!(end.method, "body.end");
    assert_eq!(end.params["bytes"], json!(1_000_000));
    let (_stream, taken) = reading.await.expect("no panic");
    assert!(taken == body);
    shim.answer_head(&order);
    assert!(begun.await.expect("no panic").is_ok());
}

#[tokio::test]
async fn one_goes_on_with_what_is_left_of_request_and_answer() {
    let mut shim = Shim::new();
    let kept = Kept {
        id: InvocationId((1 << 62) + 7),
        acked: 10,
        produced: 30,
        uploaded: 4,
        ended: false,
        left_ms: 1000,
    };
    let link = Arc::clone(&shim.link);
    let resumed = tokio::spawn(async move {
        let rest = RequestBody::<Empty<Bytes>>::Whole(Bytes::from_static(b"rest"));
        resume(&link, &kept, 20, rest).await
    });
    let mut order = shim.hear().await;
    assert_eq!(order.method, "resume");
    assert_eq!(
        order.params,
        json!({"id": kept.id, "from": 20, "request_from": 4})
    );
    let end = shim.hear().await;
    assert_eq!(end.params, json!({"id": kept.id, "bytes": 8}));
    let mut stream = order.stream.take().expect("a stream");
    stream.set_nonblocking(false).expect("blocking");
    let mut request = [0; 4];
    stream.read_exact(&mut request).expect("request");
    assert_eq!(&request, b"rest");
    shim.answer_head(&order);
    let mut exchange = resumed.await.expect("no panic").expect("a head");
    stream.write_all(&[1; 10]).expect("write");
    let failure = json!({"code": ErrorCode::AgentClosed.row().rpc, "message": "gone"});
    shim.end(kept.id, 30, &failure);
    // The stream is left open: the end is the end all the same.
    let (bytes, outcome) = all(&mut exchange).await;
    let Ok(Outcome::Failed(error)) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((bytes.len(), exchange.bytes()), (10, 30));
    assert_eq!(ErrorCode::from_rpc(error.code), ErrorCode::AgentClosed);
}

#[tokio::test]
async fn going_away_cancels_nothing() {
    let mut shim = Shim::new();
    let begun = shim.begin(b"{}");
    let order = shim.hear().await;
    begun.abort();
    let _ = begun.await;
    shim.answer_head(&order);
    let (exchange, stream) = shim.begun().await;
    let link = Arc::clone(&shim.link);
    drop((exchange, stream));
    link.drained().await.expect_err("all is sorted");
    assert!(shim.heard().is_none(), "nothing is said");
    link.cancel_kept(InvocationId(3));
    assert_eq!(shim.hear().await.method, "cancel");
}

#[tokio::test]
async fn a_request_that_cannot_be_read_on_cancels_it() {
    let mut shim = Shim::new();
    let link = Arc::clone(&shim.link);
    let begun = tokio::spawn(async move {
        let piece = http_body::Frame::data(Bytes::from_static(b"half"));
        let frames = [Ok(piece), Err(std::io::Error::other("the disk is gone"))];
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        let body = RequestBody::Stream(body);
        let id = link.kept_id();
        begin(&link, id, Duration::from_secs(60), request(), body).await
    });
    let order = shim.hear().await;
    let cancel = shim.hear().await;
    assert_eq!(cancel.method, "cancel");
    assert_eq!(cancel.params["id"], order.params["id"]);
    let refused = jsonrpc::ErrorObject {
        code: ErrorCode::Cancelled.row().rpc,
        message: "cancelled".to_owned(),
    };
    let rpc = order.rpc.expect("a request");
    shim.say(&jsonrpc::error(rpc, &refused));
    let error = begun.await.expect("no panic").expect_err("no head");
    assert_eq!(error.code(), ErrorCode::Cancelled);
}

#[tokio::test]
async fn an_end_that_is_none_is_an_error() {
    let mut shim = Shim::new();
    let (mut exchange, stream) = shim.begun().await;
    drop(stream);
    let (_, outcome) = all(&mut exchange).await;
    assert!(matches!(outcome, Err(KeptError::NoEnd)), "{outcome:?}");
    let (mut exchange, mut stream) = shim.begun().await;
    stream.write_all(b"abc").expect("write");
    let Shim { socket, .. } = shim;
    drop((socket, stream));
    let (bytes, outcome) = all(&mut exchange).await;
    assert!(matches!(outcome, Err(KeptError::LinkClosed)), "{outcome:?}");
    assert_eq!(bytes, b"abc");
    assert!(exchange.next().await.is_err(), "and nothing more");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever a shim says of the length of an answer: it is an end exactly where it is true.
    #[test]
    fn an_answer_is_complete_only_if_its_bytes_and_its_end_agree(
        sent in 0_usize..200_000,
        said in prop_oneof![0_u64..200_000, any::<u64>(), Just(u64::MAX)],
        honest in any::<bool>(),
        first in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let said = if honest { sent as u64 } else { said };
        let (bytes, outcome) = runtime.block_on(async {
            let mut shim = Shim::new();
            let (mut exchange, mut stream) = shim.begun().await;
            let id = exchange.id();
            if first {
                shim.end(id, said, &Value::Null);
            }
            stream.set_nonblocking(false).expect("blocking");
            let writing = tokio::task::spawn_blocking(move || {
                // It is closed under it where less was said.
                let _ = stream.write_all(&vec![1; sent]);
                stream
            });
            let (read, outcome) = if first {
                let read = all(&mut exchange);
                let (read, ()) = tokio::join!(read, async { drop(writing.await.expect("no panic")) });
                read
            } else {
                let reading = tokio::spawn(async move { all(&mut exchange).await });
                let stream = writing.await.expect("no panic");
                shim.end(id, said, &Value::Null);
                drop(stream);
                reading.await.expect("no panic")
            };
            (read.len(), outcome)
        });
        match outcome {
            Ok(Outcome::Complete) => prop_assert_eq!((bytes as u64, true), (said, said <= sent as u64)),
            Err(KeptError::Disagrees { read, said: told }) => prop_assert!(read != told && told == said),
            other => prop_assert!(false, "{:?}", other),
        }
        if honest {
            prop_assert_eq!(bytes, sent);
        }
    }
}

#[tokio::test]
async fn a_list_that_cannot_be_is_no_handshake() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("shim.sock");
    let listener = SeqpacketListener::bind(&path, 4).expect("listener");
    let one = Kept {
        id: InvocationId((1 << 62) + 1),
        acked: 5,
        produced: 5 + KEPT_WINDOW,
        uploaded: u64::MAX,
        ended: false,
        left_ms: MAX_KEEP_MS,
    };
    let most = (0..MAX_KEPT as u64).map(|n| Kept {
        id: InvocationId((1 << 62) + n),
        ..one
    });
    let most: Vec<Kept> = most.collect();
    let changed = |change: fn(&mut Kept)| {
        let mut kept = one;
        change(&mut kept);
        vec![kept]
    };
    let lists = [
        (vec![one], true),
        (most.clone(), true),
        ([most, vec![one]].concat(), false),
        (vec![one, one], false),
        (changed(|kept| kept.id = InvocationId(1)), false),
        (changed(|kept| kept.acked = 4), false),
        (changed(|kept| kept.produced = 4), false),
        (changed(|kept| kept.left_ms += 1), false),
    ];
    for (kept, fits) in lists {
        let attaching = tokio::spawn({
            let path = path.clone();
            async move { Link::attach(&path, "token", 1).await.map(|_| ()) }
        });
        let hearing = tokio::task::spawn_blocking({
            let listener = SeqpacketListener::from_fd(
                nix::unistd::dup(std::os::fd::AsFd::as_fd(&listener)).expect("dup"),
            );
            let said = kept.clone();
            move || {
                let shim = listener.accept().expect("accept");
                let mut buffer = vec![0; MAX_PACKET];
                shim.recv(&mut buffer).expect("attach");
                let attached = Attached {
                    generation: GENERATION,
                    session: proto::ids::SessionId::parse("stest1").expect("id"),
                    health: None,
                    exited: None,
                    uptime_ms: 1,
                    idle_ms: 0,
                    ending: false,
                    kept: said,
                };
                shim.send(&jsonrpc::result(1, &attached), &[])
                    .expect("send");
                shim
            }
        });
        let _shim = hearing.await.expect("no panic");
        let attached = attaching.await.expect("no panic");
        assert_eq!(attached.is_ok(), fits, "{attached:?} of {kept:?}");
    }
}
