//! What the shim does with the bytes of an agent's answer. `cargo bench -p worker-shim`.

#![forbid(unsafe_code)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use worker_shim::invocation::body::Decoder;
use worker_shim::invocation::head::{self, Asked, Framing};

/// As uvicorn answers.
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\n\
    date: Sun, 29 Nov 2026 12:00:00 GMT\r\n\
    server: uvicorn\r\n\
    content-length: 42\r\n\
    content-type: application/json\r\n\
    x-amzn-bedrock-agentcore-runtime-session-id: 4f9a1d8e-7c1b-4a55-9a57-0d6b1f1f0c11\r\n\
    connection: keep-alive\r\n\r\n";

fn answers(criterion: &mut Criterion) {
    criterion.bench_function("head of an agent's answer", |bench| {
        let asked = Asked {
            head: false,
            upgrade: false,
        };
        bench.iter(|| {
            let end = head::end(black_box(HEAD), 0).expect("a whole head");
            head::parse(&HEAD[..end], asked).expect("a good one")
        });
    });
    // A model's tokens: an event and a chunk for each.
    let event =
        b"data: {\"event\": {\"contentBlockDelta\": {\"delta\": {\"text\": \" token\"}}}}\n\n";
    let mut chunk = format!("{:x}\r\n", event.len()).into_bytes();
    chunk.extend_from_slice(event);
    chunk.extend_from_slice(b"\r\n");
    let events = chunk.repeat(64 * 1024 / chunk.len());
    let mut group = criterion.benchmark_group("chunked answer");
    group.throughput(Throughput::Bytes(u64::try_from(events.len()).unwrap_or(0)));
    group.bench_function("64 KiB of server-sent events", |bench| {
        bench.iter_batched_ref(
            || (Decoder::new(Framing::Chunked), events.clone()),
            |(decoder, bytes)| decoder.decode(bytes).expect("well-formed"),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, answers);
criterion_main!(benches);
