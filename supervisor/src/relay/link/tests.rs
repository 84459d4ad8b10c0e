//! A shim that an agent has taken over, over a real socket: whatever it says is a fault, or bounded, or nothing. Tier: files.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::io::Read as _;
use std::net::TcpListener;
use std::time::Duration;

/// The shim's end, and the daemon's.
fn pair() -> (Seqpacket, Arc<Link>, mpsc::Receiver<ShimEvent>) {
    let (shim, ours) = Seqpacket::pair().expect("pair");
    shim.set_nonblocking(true).expect("non-blocking");
    let (link, events) = Link::over(ours, 3).expect("link");
    (shim, link, events)
}

async fn next(events: &mut mpsc::Receiver<ShimEvent>) -> Option<ShimEvent> {
    tokio::time::timeout(Duration::from_secs(10), events.recv())
        .await
        .expect("the reader says something")
}

fn notification(method: &str, params: Value) -> Vec<u8> {
    jsonrpc::notification(method, &params)
}

/// Sends, and lets the reader take, until everything is gone; gives up when the other end has hung up.
async fn send_all(shim: &Seqpacket, packets: impl Iterator<Item = Vec<u8>>) -> bool {
    for packet in packets {
        loop {
            match shim.send(&packet, &[]) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::task::yield_now().await;
                }
                Err(_hung_up) => return false,
            }
        }
    }
    true
}

/// What one packet leads to: the fault that ends the link. Who waits for an answer is told at once.
async fn fault_of(packet: &[u8], fds: &[BorrowedFd<'_>]) -> ProtocolFault {
    let (shim, link, mut events) = pair();
    let waiting = tokio::spawn({
        let link = Arc::clone(&link);
        async move {
            let signal = Signal {
                id: None,
                signal: 15,
            };
            link.signal(signal).await
        }
    });
    // The call is under way: its order has arrived.
    let mut buffer = vec![0; MAX_PACKET];
    while shim.recv(&mut buffer).is_err() {
        tokio::task::yield_now().await;
    }
    shim.send(packet, fds).expect("send");
    let Some(ShimEvent::Closed(Err(fault))) = next(&mut events).await else {
        panic!("no fault of {:?}", String::from_utf8_lossy(packet));
    };
    assert!(events.recv().await.is_none(), "the fault is the last word");
    let answer = waiting.await.expect("no panic");
    assert!(matches!(answer, Err(CallError::LinkClosed)), "{answer:?}");
    // Nor is anybody let in afterwards.
    assert!(matches!(
        link.signal(Signal {
            id: None,
            signal: 15
        })
        .await,
        Err(CallError::LinkClosed)
    ));
    fault
}

#[tokio::test]
async fn what_is_no_message_is_a_fault() {
    let deep = [b"[".repeat(60_000), b"]".repeat(4)].concat();
    let packets: [&[u8]; 12] = [
        b"x",
        &[0xff; 100],
        &[0; MAX_PACKET],
        b"{}",
        b"[]",
        b"null",
        &deep,
        br#"{"jsonrpc":"1.0","method":"log","params":{"lines":[],"dropped":0}}"#,
        br#"{"jsonrpc":"2.0","id":-1,"result":{}}"#,
        br#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}"#,
        br#"{"jsonrpc":"2.0","method":"log","params":{"lines":[],"dropped":0},"more":1}"#,
        br#"[{"jsonrpc":"2.0","method":"log","params":{"lines":[],"dropped":0}}]"#,
    ];
    for packet in packets {
        let fault = fault_of(packet, &[]).await;
        assert!(matches!(fault, ProtocolFault::Packet(_)), "{fault:?}");
    }
}

#[tokio::test]
async fn an_oversized_packet_is_a_fault_and_not_its_first_part() {
    // Whole and in order up to the bound, so that its first part alone would be an event.
    let mut packet = notification("log", json!({"lines": [], "dropped": 0}));
    packet.resize(MAX_PACKET, b' ');
    {
        let (shim, _link, mut events) = pair();
        shim.send(&packet, &[]).expect("send");
        assert!(matches!(next(&mut events).await, Some(ShimEvent::Log(_))));
    }
    packet.push(b' ');
    fault_of(&packet, &[]).await;
}

#[tokio::test]
async fn what_a_shim_does_not_say_is_a_fault() {
    for packet in [
        notification("launch", json!({})),
        notification("shutdown", json!({"grace_ms": 0})),
        notification("", json!({})),
        jsonrpc::request(1, "invoke", &json!({})),
        jsonrpc::request(1, "log", &json!({"lines": [], "dropped": 0})),
    ] {
        let fault = fault_of(&packet, &[]).await;
        assert!(matches!(fault, ProtocolFault::Unexpected(_)), "{fault:?}");
    }
    for packet in [
        notification(
            "health",
            json!({"status": "sick", "time_of_last_update": null}),
        ),
        notification("log", json!({"lines": [{}], "dropped": 0})),
        notification("log", json!({"lines": [], "dropped": -1})),
        notification(
            "log",
            json!({"lines": [], "dropped": 0, "path": "/etc/passwd"}),
        ),
        notification(
            "agent.exited",
            json!({"status": {"Ok": {"code": 1u64 << 40}}}),
        ),
        notification("body.end", json!({"id": "one", "bytes": 0})),
        notification("ended", json!({"id": 1, "bytes": -1})),
        notification("ended", json!({"id": 1, "bytes": 1, "failure": "none"})),
        notification("exec.exited", json!({"id": 1})),
        notification("fault", json!([])),
    ] {
        let said = String::from_utf8_lossy(&packet).into_owned();
        let fault = fault_of(&packet, &[]).await;
        assert!(
            matches!(fault, ProtocolFault::Params { .. }),
            "{said}: {fault:?}"
        );
    }
}

/// A pipe's read end feels whether any copy of its write end is left in this process.
#[tokio::test]
async fn a_descriptor_that_is_not_due_is_a_fault_and_closed() {
    let egress = notification("egress", json!({"connection": 1}));
    let log = notification("log", json!({"lines": [], "dropped": 0}));
    for (packet, count) in [
        (&log, 1),
        (&egress, 1),
        (&egress, 2),
        (&egress, 5),
        (&log, 200),
    ] {
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let fault = fault_of(packet, &vec![writer.as_fd(); count]).await;
        assert!(matches!(fault, ProtocolFault::Descriptor(_)), "{fault:?}");
        drop(writer);
        let end = reader.read(&mut [0; 1]).expect("read");
        assert_eq!(end, 0, "closed everywhere");
    }
    let fault = fault_of(&egress, &[]).await;
    assert!(matches!(fault, ProtocolFault::Descriptor(_)), "{fault:?}");
}

/// As it is told by the kernel when this process may not have one more descriptor.
#[tokio::test]
async fn a_descriptor_that_finds_no_room_costs_one_connection_and_not_the_session() {
    let (_shim, link, _events) = pair();
    let egress = notification("egress", json!({"connection": 1}));
    let event = sort(&link, &egress, Fds::Lost).expect("no fault of the session's");
    assert!(event.is_none());
    let log = notification("log", json!({"lines": [], "dropped": 0}));
    sort(&link, &log, Fds::Lost).expect_err("nobody may send one with this");
}

#[tokio::test]
async fn answers_to_nobody_are_forgotten_and_harm_nobody() {
    let (shim, link, mut events) = pair();
    let strangers = (1000..6000u64).flat_map(|id| {
        [
            jsonrpc::result(id, &json!({"filler": "x".repeat(100)})),
            notification("body.end", json!({"id": id, "bytes": id})),
            notification(
                "ended",
                json!({"id": id, "bytes": id, "failure": {"code": 1, "message": "x"}}),
            ),
            notification("exec.exited", json!({"id": id, "status": {"code": 0}})),
        ]
    });
    assert!(send_all(&shim, strangers).await);
    link.drained()
        .await
        .expect_err("dropped when all is sorted");
    {
        let waiting = link.waiting();
        assert!(
            waiting.calls.is_empty()
                && waiting.bodies.is_empty()
                && waiting.execs.is_empty()
                && waiting.kept.is_empty()
        );
    }
    // The link serves as before, and an answer of the wrong kind fails its own call alone.
    for (answer, fits) in [(json!({}), true), (json!([1]), false), (json!({}), true)] {
        let call = tokio::spawn({
            let link = Arc::clone(&link);
            async move {
                link.signal(Signal {
                    id: None,
                    signal: 15,
                })
                .await
            }
        });
        let mut buffer = vec![0; MAX_PACKET];
        let length = loop {
            match shim.recv(&mut buffer) {
                Ok(received) => break received.len,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let Ok(Message::Request { id, .. }) = jsonrpc::parse(&buffer[..length]) else {
            panic!("no request");
        };
        shim.send(&jsonrpc::result(id, &answer), &[]).expect("send");
        let outcome = call.await.expect("no panic");
        assert_eq!(outcome.is_ok(), fits, "{outcome:?}");
    }
    assert!(events.try_recv().is_err(), "nothing of it is an event");
}

/// Nobody takes the events: the reader stops reading, and the flood waits where it comes from.
#[tokio::test]
async fn a_flood_is_held_back_at_its_source_and_nothing_of_it_is_lost() {
    let kinds = [
        notification(
            "health",
            json!({"status": "healthy", "time_of_last_update": 1}),
        ),
        notification("fault", json!({"detail": "x".repeat(60_000)})),
        notification(
            "log",
            json!({"lines": vec![json!({"stream": "stdout", "at_ms": 1, "text": "x".repeat(1000)}); 50], "dropped": 0}),
        ),
    ];
    for packet in kinds {
        let (shim, _link, mut events) = pair();
        let mut taken = 0;
        let mut refused = 0;
        // So often in a row that the reader has had every chance.
        while refused < 1000 {
            match shim.send(&packet, &[]) {
                Ok(()) => (taken, refused) = (taken + 1, 0),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    refused += 1;
                    tokio::task::yield_now().await;
                }
            }
            assert!(taken < 2000, "a flood is taken without end");
        }
        assert_eq!(events.len(), EVENT_QUEUE);
        drop(shim);
        let mut seen = 0;
        while let Some(event) = next(&mut events).await {
            if let ShimEvent::Closed(outcome) = event {
                assert!(outcome.is_ok(), "{outcome:?}");
                break;
            }
            seen += 1;
        }
        assert_eq!(seen, taken);
    }
}

#[tokio::test]
async fn a_reader_whose_session_is_over_hangs_up_on_a_flood() {
    let (shim, link, events) = pair();
    drop((link, events));
    let flood = std::iter::repeat_with(|| notification("fault", json!({"detail": "x"})));
    let hung_up = tokio::time::timeout(Duration::from_secs(10), send_all(&shim, flood)).await;
    assert_eq!(hung_up.ok(), Some(false));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        Just(json!("healthy")),
        Just(json!("stdout")),
    ];
    let key = prop::sample::select(vec![
        "id",
        "bytes",
        "status",
        "code",
        "lines",
        "dropped",
        "detail",
        "stream",
        "at_ms",
        "text",
        "connection",
        "time_of_last_update",
        "unhealthy",
        "failures",
        "Ok",
        "Err",
        "failure",
        "message",
        "other",
    ]);
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..5).prop_map(|map| {
                map.into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect::<serde_json::Map<_, _>>()
                    .into()
            }),
        ]
    })
}

proptest! {
    /// No packet panics, or is kept where nobody asked for it.
    #[test]
    fn any_packet_is_an_event_a_fault_or_nothing(
        method in prop::sample::select(vec![
            "log", "health", "agent.exited", "fault", "egress", "body.end", "ended", "exec.exited", "attach", "x",
        ]),
        params in any_json(),
        id in proptest::option::of(any::<u64>()),
        raw in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let _entered = runtime.enter();
        let (_shim, link, _events) = pair();
        let packets = [
            notification(method, params.clone()),
            id.map_or_else(Vec::new, |id| jsonrpc::result(id, &params)),
            raw,
        ];
        for packet in packets {
            let _ = sort(&link, &packet, Fds::All(Vec::new()));
        }
        let waiting = link.waiting();
        prop_assert!(waiting.calls.is_empty() && waiting.bodies.is_empty() && waiting.execs.is_empty() && waiting.kept.is_empty());
    }
}

#[tokio::test]
async fn only_inet_streams_are_taken() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    let (accepted, _) = listener.accept().expect("accept");
    drop(client);
    assert!(
        inet_stream(accepted.into()).is_ok(),
        "also if its peer is gone"
    );
    let (pair, other) = std::os::unix::net::UnixStream::pair().expect("pair");
    drop(other);
    let (pipe, _) = std::io::pipe().expect("pipe");
    let datagram = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    let unconnected = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Unix,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )
    .expect("socket");
    for fd in [pair.into(), pipe.into(), datagram.into(), unconnected] {
        assert!(inet_stream(fd).is_err());
    }
}
