//! What the broker does for a call, apart from waiting. `cargo bench -p supervisor`.

#![forbid(unsafe_code)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::Request;
use http::request::Parts;
use proto::api::EndReason;
use proto::ids::{
    ArtifactId, ClientSessionId, EndpointName, RuntimeId, RuntimeName, SessionId, VersionNumber,
};
use proto::shim::{LogLine, LogStream};
use ring::{digest, hmac};
use serde_json::json;
use session_core::meter::Totals;
use std::fmt::Write as _;
use std::hint::black_box;
use supervisor::api::aws::event_stream;
use supervisor::keys::AccessKey;
use supervisor::ledger::chain::{BEGINNING, ChainKey};
use supervisor::ledger::record::{Invocation, SessionPart, Subject};
use supervisor::owner::{Owner, Principal};
use supervisor::permit::Grant;
use supervisor::progress::Scanner;
use supervisor::signature::{Claim, Place, Service, Verifier};
use supervisor::store::{
    Names, NewArtifact, NewSession, NewVersion, Quotas, SessionEnd, State, Store, Timestamp,
    UidBlock, VersionOf,
};
use supervisor::websocket::frames::{Frames, Side};

const NOW: Timestamp = Timestamp(1_796_000_000_000);
const BODY: &[u8] = br#"{"prompt": "hello"}"#;

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn sha256(bytes: &[u8]) -> digest::Digest {
    digest::digest(&digest::SHA256, bytes)
}

/// An invocation as boto3 sends it, signed with `secret`.
fn signed(secret: &str) -> Parts {
    const ARN: &str =
        "arn%3Aaws%3Abedrock-agentcore%3Aus-local-1%3A000000000000%3Aruntime%2Fa-AbCdEf1234";
    let date = NOW.to_string().replace(['-', ':'], "")[..15].to_owned() + "Z";
    let day = &date[..8];
    let headers = [
        ("content-type", "application/json"),
        ("host", "127.0.0.1:8080"),
        ("x-amz-date", &date),
        (
            "x-amzn-bedrock-agentcore-runtime-session-id",
            "4f9a1d8e-7c1b-4a55-9a57-0d6b1f1f0c11",
        ),
    ];
    let names = headers.map(|(name, _)| name).join(";");
    let lines: String = headers.iter().map(|(n, v)| format!("{n}:{v}\n")).collect();
    // Signed as AWS does it: what is escaped in the path is escaped once more.
    let canonical = format!(
        "POST\n/runtimes/{}/invocations\nqualifier=DEFAULT\n{lines}\n{names}\n{}",
        ARN.replace('%', "%25"),
        hex(sha256(BODY))
    );
    let scope = format!("{day}/us-local-1/bedrock-agentcore/aws4_request");
    let text = format!(
        "AWS4-HMAC-SHA256\n{date}\n{scope}\n{}",
        hex(sha256(canonical.as_bytes()))
    );
    let key = scope
        .split('/')
        .fold(format!("AWS4{secret}").into_bytes(), |key, step| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
            hmac::sign(&key, step.as_bytes()).as_ref().to_vec()
        });
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), text.as_bytes());
    let mut request = Request::post(format!("/runtimes/{ARN}/invocations?qualifier=DEFAULT"));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request
        .header(
            "authorization",
            format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{scope}, SignedHeaders={names}, Signature={}",
                hex(signature)
            ),
        )
        .body(())
        .expect("a request")
        .into_parts()
        .0
}

fn signature(criterion: &mut Criterion) {
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    let key = AccessKey::of("AKIDEXAMPLE", SECRET, Grant::default());
    let head = signed(SECRET);
    let verifier = Verifier::default();
    let place = Place {
        region: "us-local-1",
        service: Service::AgentCore,
    };
    criterion.bench_function("SigV4: verify an invocation, its body hashed", |bench| {
        bench.iter(|| {
            let head = black_box(&head);
            let claim = Claim::of(head.uri.query(), &head.headers)
                .expect("well-formed")
                .expect("signed");
            claim.check(head, place, NOW).expect("fitting");
            let payload = sha256(BODY).as_ref().try_into().expect("32 bytes");
            verifier
                .verify(&claim, head, Service::AgentCore, &key, Some(payload))
                .expect("the right signature");
        });
    });
}

fn session() -> SessionId {
    SessionId::parse("s0123456789abcdefghij").expect("an id")
}

fn client() -> ClientSessionId {
    ClientSessionId::parse("4f9a1d8e-7c1b-4a55-9a57-0d6b1f1f0c11".to_owned()).expect("an id")
}

fn owner() -> Owner {
    Owner {
        principal: Principal::user(1000),
        user: None,
    }
}

fn runtime() -> RuntimeName {
    RuntimeName::parse("agent").expect("a name")
}

fn ledger(criterion: &mut Criterion) {
    let ground = tempfile::tempdir().expect("a directory");
    let key = ChainKey::open(&ground.path().join("ledger.key")).expect("made");
    let subject = Subject {
        session: session(),
        client: client(),
        runtime: runtime(),
        runtime_id: RuntimeId::parse("agent-AbCdEf1234").expect("an id"),
        version: VersionNumber(3),
        endpoint: EndpointName::default_endpoint(),
        owner: owner(),
        created_at: NOW,
    };
    let invocation = Invocation {
        subject: subject.clone(),
        at: NOW,
        task: None,
        count: 1,
        wall_ms: 1234,
        bytes_in: 19,
        bytes_out: 42,
        cpu_us: 5678,
    };
    criterion.bench_function("ledger: prove an invocation's record", |bench| {
        bench.iter(|| key.invocation(4711, &BEGINNING, black_box(&invocation)));
    });
    let part = SessionPart {
        subject,
        at: NOW,
        reason: Some(EndReason::Idle),
        used: Totals {
            wall_ms: 900_000,
            active_ms: 12_345,
            ..Totals::default()
        },
    };
    criterion.bench_function("ledger: prove a session's record", |bench| {
        bench.iter(|| key.session(4711, &BEGINNING, black_box(&part)));
    });
}

fn streams(criterion: &mut Criterion) {
    let line = |n: u64| LogLine {
        stream: LogStream::Stdout,
        at_ms: n,
        text: match n % 32 {
            7 => format!("::agentcore-progress::{{\"percent\": {n}, \"message\": \"reading\"}}"),
            _ => format!(
                "INFO:     127.0.0.1:{} - \"POST /invocations HTTP/1.1\" 200 OK",
                40_000 + n
            ),
        },
    };
    let lines: Vec<LogLine> = (0..64).map(line).collect();
    assert!(
        !Scanner::default().scan(&lines).is_empty(),
        "records are found"
    );
    criterion.bench_function(
        "progress: look through 64 lines, two of them records",
        |bench| {
            bench.iter_batched_ref(
                Scanner::default,
                |scanner| scanner.scan(black_box(&lines)),
                BatchSize::SmallInput,
            );
        },
    );
    let piece = json!({"contentDelta": {"stdout": "drwxr-xr-x 2 agent agent 4096 Nov 29 12:00 data\n".repeat(80)}});
    criterion.bench_function("event stream: frame 4 KiB of a command's output", |bench| {
        bench.iter(|| event_stream::event(black_box(&piece)));
    });
    // An unmasked text frame of 100 bytes, as an agent sends a token.
    let mut frame = vec![0x81, 100];
    frame.resize(102, b'x');
    let frames = frame.repeat(640);
    let mut group = criterion.benchmark_group("WebSocket");
    group.throughput(Throughput::Bytes(u64::try_from(frames.len()).unwrap_or(0)));
    group.bench_function("judge 64 KiB of frames of 100 bytes", |bench| {
        bench.iter_batched_ref(
            || Frames::new(Side::Server, 1 << 20),
            |side| side.judge(black_box(&frames), u32::MAX),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// A store with one runtime in it.
async fn store(directory: &std::path::Path) -> Store {
    let names = Names {
        region: "us-local-1".into(),
        account: "000000000000".into(),
    };
    let store = Store::open(&directory.join("agentcore.db"), names).expect("made");
    let artifact = ArtifactId::parse("1".repeat(64)).expect("an id");
    let new = NewArtifact {
        id: artifact.clone(),
        packed_bytes: 1,
        unpacked_bytes: 2,
        entries: 3,
    };
    store.put_artifact(new).await.expect("put");
    let config = json!({"name": "agent", "entrypoint": "a.py"});
    let new = NewVersion {
        of: VersionOf::Either,
        config: serde_json::from_value(config).expect("a configuration"),
        artifact,
        state: State::Ready,
        typed: None,
        tags: std::collections::BTreeMap::new(),
        quotas: Quotas::BUILT_IN,
        once: None,
    };
    let made = store.make_version(new, |_| serde_json::Value::Null).await;
    made.expect("made");
    store
}

/// The two small transactions of a session's life on which a caller may wait. The end is synced to disk, so only the
/// first is measured.
fn reservation(criterion: &mut Criterion) {
    let ground = tempfile::tempdir().expect("a directory");
    let tokio = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let store = tokio.block_on(store(ground.path()));
    let new = NewSession {
        id: session(),
        client_id: client(),
        runtime: runtime(),
        version: VersionNumber(1),
        endpoint: EndpointName::default_endpoint(),
        owner: owner(),
        boot_id: "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0".to_owned(),
        token: "ab".repeat(32),
        uids: UidBlock {
            first: 1_000_000,
            width: 16,
            ranges: 4096,
        },
    };
    let end = SessionEnd {
        reason: EndReason::Stopped,
        was_ready: true,
        detail: None,
        usage: proto::api::Usage::default(),
        egress_refused: 0,
        log_lines_dropped: 0,
        record: None,
    };
    let mut number = 0;
    criterion.bench_function("store: reserve a session", |bench| {
        bench.iter_custom(|rounds| {
            let mut took = std::time::Duration::ZERO;
            for _ in 0..rounds {
                number += 1;
                let id = SessionId::parse(format!("s{number:020}")).expect("an id");
                let new = NewSession {
                    id: id.clone(),
                    ..new.clone()
                };
                let began = std::time::Instant::now();
                let reserved = tokio.block_on(store.reserve_session(new));
                took += began.elapsed();
                reserved.expect("reserved");
                tokio
                    .block_on(store.end_session(&id, end.clone()))
                    .expect("ended");
            }
            took
        });
    });
    tokio.block_on(store.close());
}

criterion_group! {
    name = benches;
    config = Criterion::default();
    targets = signature, ledger, streams, reservation
}
criterion_main!(benches);
