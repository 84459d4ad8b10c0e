//! Figures, not judgements: how fast and how small. `cargo test --release -p worker-shim --test shim figures -- --ignored
//! --nocapture --test-threads 1`. They depend on the machine, so they are ignored by default.

use crate::broker::post;
use crate::fake_agent::FakeAgent;
use crate::harness::{Session, boot, cpu_time, free_port, shell};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn percentile(times: &mut [Duration], p: usize) -> Duration {
    times.sort();
    times[(times.len() * p / 100).min(times.len() - 1)]
}

fn echo() -> FakeAgent {
    FakeAgent::start(|asked| {
        let body = asked.body().expect("body");
        asked.answer(&body);
        true
    })
}

#[test]
#[ignore = "prints figures"]
fn memory_of_an_idle_session() {
    let agent = echo();
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    broker.healthy();
    let report = |when: &str| {
        let fields = [
            "Rss",
            "Pss",
            "Private_Dirty",
            "Private_Clean",
            "Shared_Clean",
        ];
        let values: Vec<String> = fields
            .iter()
            .map(|field| format!("{field} {}", session.memory(field)))
            .collect();
        println!("{when}: {} KiB", values.join(", "));
    };
    report("healthy");
    for _ in 0..100 {
        broker.invoke(b"{}").expect("answer");
    }
    report("after 100 small invocations");
    let body = vec![1; 1 << 17];
    for _ in 0..10 {
        broker.invoke(&body).expect("answer");
    }
    report("after 10 of 128 KiB");
}

#[test]
#[ignore = "prints figures"]
fn latency_of_a_small_invocation() {
    let agent = echo();
    let mut boot = boot(agent.port);
    boot.limits.ping_interval_ms = 60_000;
    let session = Session::start(&boot);
    let mut broker = session.attach();
    broker.healthy();
    let mut through = Vec::new();
    let cpu = cpu_time(session.shim);
    for _ in 0..20_000 {
        let before = Instant::now();
        broker.invoke(b"{\"prompt\":\"hello\"}").expect("answer");
        through.push(before.elapsed());
    }
    let cpu = (cpu_time(session.shim) - cpu) / 20_000;
    let mut direct = Vec::new();
    let mut connection = TcpStream::connect(("127.0.0.1", agent.port)).expect("connect");
    connection.set_nodelay(true).expect("nodelay");
    let request = b"POST /invocations HTTP/1.1\r\nhost: a\r\ncontent-length: 18\r\n\r\n{\"prompt\":\"hello\"}";
    let mut piece = [0; 4096];
    for _ in 0..3000 {
        let before = Instant::now();
        connection.write_all(request).expect("write");
        let mut seen = Vec::new();
        while !seen.ends_with(b"{\"prompt\":\"hello\"}") {
            let n = connection.read(&mut piece).expect("read");
            seen.extend_from_slice(&piece[..n]);
        }
        direct.push(before.elapsed());
    }
    println!(
        "through the shim p50 {:?} p99 {:?} ({cpu:?} of its CPU); direct p50 {:?} p99 {:?}",
        percentile(&mut through, 50),
        percentile(&mut through, 99),
        percentile(&mut direct, 50),
        percentile(&mut direct, 99)
    );
}

#[test]
#[ignore = "prints figures"]
fn throughput_of_large_bodies() {
    const SIZE: usize = 100_000_000;
    let agent = FakeAgent::start(|asked| {
        let mut left: usize = asked
            .header("content-length")
            .expect("length")
            .parse()
            .expect("n");
        let mut piece = vec![0; 1 << 16];
        while left > 0 {
            let n = asked.connection.read(&mut piece).expect("read");
            left -= n;
        }
        let size: usize = asked.header("x-size").expect("size").parse().expect("n");
        asked.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n"));
        let mut left = size;
        while left > 0 {
            let n = left.min(piece.len());
            asked.say(&piece[..n]);
            left -= n;
        }
        true
    });
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    broker.healthy();
    let block = vec![7; 1 << 16];
    let rate = |time: Duration| SIZE as f64 / time.as_secs_f64() / 1e9;
    for (up, down) in [(SIZE, 0), (0, SIZE)] {
        let cpu = cpu_time(session.shim);
        let mut invoke = post(Some(up as u64));
        invoke.headers.push(("x-size".to_owned(), down.to_string()));
        let before = Instant::now();
        let mut call = broker.begin(invoke);
        for sent in (0..up).step_by(block.len()) {
            call.stream
                .write_all(&block[..block.len().min(up - sent)])
                .expect("write");
        }
        let mut piece = vec![0; 1 << 16];
        let mut seen = 0;
        while seen < down {
            seen += call.stream.read(&mut piece).expect("read");
        }
        broker.finish(call).expect("answer");
        let through = before.elapsed();
        let cpu = cpu_time(session.shim) - cpu;
        let before = Instant::now();
        let mut direct = TcpStream::connect(("127.0.0.1", agent.port)).expect("connect");
        direct
            .write_all(
                format!("POST / HTTP/1.1\r\ncontent-length: {up}\r\nx-size: {down}\r\n\r\n")
                    .as_bytes(),
            )
            .expect("head");
        for sent in (0..up).step_by(block.len()) {
            direct
                .write_all(&block[..block.len().min(up - sent)])
                .expect("write");
        }
        let mut seen = 0;
        while seen < down.max(1) {
            seen += direct.read(&mut piece).expect("read");
        }
        let alone = before.elapsed();
        println!(
            "{up} up, {down} down: {:.2} GB/s through the shim ({cpu:?} of its CPU), {:.2} GB/s direct; \
             {} KiB private",
            rate(through),
            rate(alone),
            session.memory("Anonymous")
        );
    }
}

#[test]
#[ignore = "prints figures"]
fn cost_of_a_flood() {
    for (what, script) in [
        ("lines of one letter", "exec yes"),
        (
            "lines of 1000",
            "exec yes $(head -c 1000 /dev/zero | tr '\\0' x)",
        ),
        ("no newline", "exec cat /dev/zero"),
    ] {
        let mut boot = boot(free_port());
        shell(&mut boot, script);
        let session = Session::start(&boot);
        let _broker = session.attach();
        std::thread::sleep(Duration::from_millis(300));
        let before = cpu_time(session.shim);
        std::thread::sleep(Duration::from_secs(1));
        println!(
            "{what}: {:?} of the shim's CPU in a second",
            cpu_time(session.shim) - before
        );
    }
}

#[test]
#[ignore = "prints figures"]
fn delay_until_a_new_agent_is_noticed() {
    for wait in ["0", "0.003", "0.02", "0.2"] {
        let mut delays = Vec::new();
        for _ in 0..20 {
            let port = free_port();
            let boot = boot(port);
            let seconds: f64 = wait.parse().expect("seconds");
            let session = Session::start(&boot);
            let mut broker = session.attach();
            std::thread::sleep(Duration::from_secs_f64(seconds));
            let agent = FakeAgent::start_at(&format!("127.0.0.1:{port}"), |asked| {
                asked.say(crate::fake_agent::HEALTHY);
                false
            });
            let up = Instant::now();
            broker.healthy();
            delays.push(up.elapsed());
            drop(agent);
        }
        println!(
            "agent up after {wait} s: noticed p50 {:?}, p90 {:?} later",
            percentile(&mut delays, 50),
            percentile(&mut delays, 90)
        );
    }
}
