//! What each relayed call pays for JSON-RPC, on both ends: a packet out and a packet in. `cargo bench -p proto`.

#![forbid(unsafe_code)]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use proto::ids::InvocationId;
use proto::jsonrpc::{self, Message};
use proto::shim::{Invoke, InvokeHead, Log, LogLine, LogStream};
use std::hint::black_box;

/// As a caller with boto3 makes it.
fn invoke() -> Invoke {
    let headers = [
        ("accept", "*/*"),
        ("content-type", "application/json"),
        (
            "x-amzn-trace-id",
            "Root=1-67f2b1c0-5d3f0a7c9e1b2a4d6c8e0f12;Parent=53995c3f42cd8ad8;Sampled=1",
        ),
        (
            "x-amzn-bedrock-agentcore-runtime-session-id",
            "4f9a1d8e-7c1b-4a55-9a57-0d6b1f1f0c11",
        ),
        ("x-amzn-requestid", "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0"),
    ];
    Invoke {
        id: InvocationId(4711),
        method: "POST".to_owned(),
        target: "/invocations".to_owned(),
        headers: headers.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec(),
        content_length: Some(19),
        port: None,
        keep: None,
    }
}

fn calls(criterion: &mut Criterion) {
    let invoke = invoke();
    criterion.bench_function("invoke packet: encode", |bench| {
        bench.iter(|| jsonrpc::request(7, "invoke", black_box(&invoke)));
    });
    let packet = jsonrpc::request(7, "invoke", &invoke);
    criterion.bench_function("invoke packet: decode", |bench| {
        bench.iter(|| {
            let Ok(Message::Request { params, .. }) = jsonrpc::parse(black_box(&packet)) else {
                unreachable!("it is a request")
            };
            jsonrpc::typed::<Invoke>(params).expect("its own type")
        });
    });
    let head = InvokeHead {
        status: 200,
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        content_length: Some(42),
    };
    let packet = jsonrpc::result(7, &head);
    criterion.bench_function("answer's head packet: decode", |bench| {
        bench.iter(|| {
            let Ok(Message::Response { outcome, .. }) = jsonrpc::parse(black_box(&packet)) else {
                unreachable!("it is an answer")
            };
            // As the link does: the head is typed by whoever waits for it.
            let raw = outcome.expect("no error").to_owned();
            jsonrpc::typed::<InvokeHead>(&raw).expect("its own type")
        });
    });
}

fn output(criterion: &mut Criterion) {
    let line = |n| LogLine {
        stream: LogStream::Stdout,
        at_ms: n,
        text: format!(
            "INFO:     127.0.0.1:{} - \"POST /invocations HTTP/1.1\" 200 OK",
            40_000 + n
        ),
    };
    let log = Log {
        lines: (0..64).map(line).collect(),
        dropped: 0,
    };
    let packet = jsonrpc::notification("log", &log);
    criterion.bench_function("64 lines of output: decode", |bench| {
        bench.iter_batched(
            || packet.clone(),
            |packet| {
                let Ok(Message::Notification { params, .. }) = jsonrpc::parse(&packet) else {
                    unreachable!("it is a notification")
                };
                jsonrpc::typed::<Log>(params).expect("its own type")
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, calls, output);
criterion_main!(benches);
