//! Calls of ready sessions with many connections at once, beside the same through HAProxy and nginx to the same agent: one core
//! for clients, daemon or proxy, shim and agent.

use super::Effort;
use super::direct::{self, Native};
use super::peers::{Haproxy, Nginx};
use super::pinned::Pinned;
use super::samples::Samples;
use super::subject::Subject;
use super::table::{Peer, Promise, Row, Table};
use super::wire::{self, Wire};
use anyhow::Context as _;
use e2e::client::{SESSION_HEADER, session_name};
use e2e::http::Target;
use std::sync::Barrier;
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 32;

/// Connections are kept, and calls counted, for this long at a time.
const ROUND: Duration = Duration::from_millis(1500);

const BODY: &[u8] = br#"{"prompt": "hello"}"#;

pub(crate) fn measure(
    subject: &mut Subject,
    effort: Effort,
    table: &mut Table,
) -> anyhow::Result<()> {
    let pinned = Pinned::to_last()?;
    subject.restart("")?;
    let agent = Native::start()?;
    let haproxy = Haproxy::start(subject.daemon().dir(), &agent.target)?;
    let nginx = Nginx::start(subject.daemon().dir(), &agent.target)?;
    let session = session_name("ready");
    let through_us = wire::post(
        "/runtimes/native/invocations",
        &[(SESSION_HEADER, session.as_str())],
        BODY,
    );
    let plain = direct::request(&session, BODY);
    let ways = [
        (subject.tcp()?, &through_us),
        (haproxy.target.clone(), &plain),
        (nginx.target.clone(), &plain),
        (agent.target.clone(), &plain),
    ];
    let mut samples = [(); 4].map(|()| Samples::default());
    for (target, request) in &ways {
        rate(target, request)?;
    }
    subject.rest()?;
    pinned.holds(subject.daemon().pid())?;
    for _ in 0..effort.blocks.div_ceil(3) {
        for ((target, request), samples) in ways.iter().zip(&mut samples) {
            samples.push(rate(target, request)?);
        }
    }
    let [ours, haproxied, nginxed, straight] = samples;
    for (name, theirs, promise) in [
        (
            "HAProxy to the same agent",
            haproxied,
            Promise::RatioAtLeast(0.4),
        ),
        ("nginx to the same agent", nginxed, Promise::Context),
        ("the agent itself", straight, Promise::Context),
    ] {
        table.add(Row {
            what: format!("calls of a ready session, {CONNECTIONS} connections"),
            unit: "1/s",
            ours: ours.clone(),
            peer: Some(Peer {
                name: name.to_owned(),
                samples: theirs,
            }),
            promise,
        });
    }
    Ok(())
}

/// Answers a second over all connections.
fn rate(target: &Target, request: &[u8]) -> anyhow::Result<f64> {
    let mut wires = (0..CONNECTIONS)
        .map(|_| Wire::connect(target))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let ready = Barrier::new(CONNECTIONS);
    let counts = std::thread::scope(|scope| {
        let callers: Vec<_> = wires
            .iter_mut()
            .map(|wire| {
                let ready = &ready;
                scope.spawn(move || -> anyhow::Result<f64> {
                    ready.wait();
                    let began = Instant::now();
                    let mut count = 0.0;
                    while began.elapsed() < ROUND {
                        wire.call(request)?;
                        count += 1.0;
                    }
                    Ok(count / began.elapsed().as_secs_f64())
                })
            })
            .collect();
        callers
            .into_iter()
            .map(|caller| caller.join().ok().context("a caller panicked")?)
            .collect::<anyhow::Result<Vec<f64>>>()
    })?;
    Ok(counts.iter().sum())
}
