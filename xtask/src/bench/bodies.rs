//! The largest body there may be, through and back: throughput beside the direct connection, and what it leaves in memory.

use super::Effort;
use super::direct::Native;
use super::samples::Samples;
use super::subject::Subject;
use super::table::{Peer, Promise, Row, Table};
use super::wire::{self, Length};
use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, session_name};
use e2e::host;
use e2e::http::Target;
use std::io::{Read as _, Write as _};
use std::time::Instant;

/// The contract's largest body.
const BODY: usize = 100_000_000;

/// A body that warms up.
const SMALL: usize = 1_000_000;

/// Bytes per system call of the client.
const PIECE: usize = 256 * 1024;

/// No two pieces of it are alike for long: a period that divides no power of two.
fn pattern() -> Vec<u8> {
    (0..PIECE + 251)
        .map(|at| u8::try_from(at % 251).unwrap_or(0))
        .collect()
}

/// The bytes of the body from `at`, at most a piece.
fn part(pattern: &[u8], at: usize, size: usize) -> &[u8] {
    &pattern[at % 251..][..PIECE.min(size - at)]
}

/// Sends `size` bytes, reads as many back, compares them, and gives megabytes per second (one way).
fn echo(target: &Target, path: &str, session: &str, size: usize) -> anyhow::Result<f64> {
    let pattern = pattern();
    let mut sender = target.connect()?;
    let mut receiver = sender.try_clone()?;
    let mut request = wire::post(path, &[(SESSION_HEADER, session)], b"");
    let head = String::from_utf8(request)?
        .replace("content-length: 0", &format!("content-length: {size}"))
        .replace("application/json", "application/octet-stream");
    request = head.into_bytes();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let pattern = &pattern;
        let sending = scope.spawn(move || -> anyhow::Result<()> {
            sender.write_all(&request)?;
            let mut sent = 0;
            while sent < size {
                let piece = part(pattern, sent, size);
                sender.write_all(piece).context("send the body")?;
                sent += piece.len();
            }
            Ok(())
        });
        let mut buffer = vec![0; PIECE];
        let mut there = 0;
        let start = loop {
            let count = receiver.read(&mut buffer[there..])?;
            ensure!(count > 0, "the answer ended early");
            there += count;
            if let Some(head) = wire::head(&buffer[..there])? {
                ensure!(
                    matches!(head.length, Length::Known(length) if length == size),
                    "an answer of another length"
                );
                break head.start;
            }
        };
        buffer.copy_within(start..there, 0);
        let mut count = there - start;
        let mut received = 0;
        loop {
            let mut at = 0;
            while at < count {
                let piece = part(pattern, received, size);
                let len = piece.len().min(count - at);
                ensure!(
                    buffer[at..at + len] == piece[..len],
                    "other bytes came back near {received}"
                );
                at += len;
                received += len;
            }
            if received == size {
                break;
            }
            count = receiver.read(&mut buffer)?;
            ensure!(count > 0, "the answer ended after {received} bytes");
        }
        let took = began.elapsed();
        let sent = sending.join();
        sent.map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        Ok(f64::from(u32::try_from(size)?) / 1e6 / took.as_secs_f64())
    })
}

/// The most memory that a process has had, in MiB.
fn peak(pid: i32) -> anyhow::Result<f64> {
    let status = host::status(pid, pid)?;
    let kib: f64 = status
        .get("VmHWM")
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
        .context("VmHWM line")?;
    Ok(kib / 1024.0)
}

pub(crate) fn measure(subject: &Subject, effort: Effort, table: &mut Table) -> anyhow::Result<()> {
    let agent = Native::start()?;
    let path = "/runtimes/native/invocations";
    let session = session_name("bodies");
    let target = subject.tcp()?;
    echo(&target, path, &session, SMALL)?;
    echo(&agent.target, "/invocations", &session, SMALL)?;
    let shim = subject.client().session(&session)?.pid.context("pid")?;
    let watched = [subject.daemon().pid(), shim];
    let before = watched.map(peak);
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for _ in 0..effort.bodies {
        ours.push(echo(&target, path, &session, BODY)?);
        theirs.push(echo(&agent.target, "/invocations", &session, BODY)?);
    }
    table.add(Row {
        what: "100 MB there and back".to_owned(),
        unit: "MB/s",
        ours,
        peer: Some(Peer {
            name: "the agent itself".to_owned(),
            samples: theirs,
        }),
        promise: Promise::RatioAtLeast(0.2),
    });
    let names = ["the broker", "the shim"];
    for ((name, pid), before) in names.into_iter().zip(watched).zip(before) {
        let mut grown = Samples::default();
        grown.push(peak(pid)? - before?);
        table.add(Row {
            what: format!("… growth of {name}'s peak memory from 1 MB bodies"),
            unit: "MiB",
            ours: grown,
            peer: None,
            promise: Promise::AtMost(FLAT),
        });
    }
    subject.client().stop(&session)?;
    Ok(())
}

/// Growth that still counts as flat: a hundredth of one body, room for the allocator to have found its level.
const FLAT: f64 = 1.0;
