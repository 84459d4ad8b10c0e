//! A herd: so many new sessions of the AWS SDK's agent at the same moment, from the first request to the last answer, with templates
//! and pools as they are by default, and used before. And a crowd of ten times as many, more than the host takes: each is served or
//! told when to come again, and the daemon answers others meanwhile.

use super::direct::{self, Python};
use super::samples::Samples;
use super::subject::Subject;
use super::table::{Peer, Promise, Row, Table};
use super::wire::{self, Wire};
use super::{Effort, fork};
use anyhow::Context as _;
use e2e::Client;
use e2e::client::{SESSION_HEADER, session_name};
use e2e::http::Request;
use serde_json::json;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CALLERS: usize = 100;

const CROWD: usize = 1000;

/// Between two questions to the daemon while the crowd is there.
const PAUSE: Duration = Duration::from_millis(20);

const BODY: &[u8] = br#"{"prompt": "hello"}"#;

pub(crate) fn measure(subject: &Subject, effort: Effort, table: &mut Table) -> anyhow::Result<()> {
    let mut ours = Samples::default();
    // The first one fills page caches.
    for round in 0..=effort.blocks.div_ceil(10) {
        fork::ready(subject, "aws_sdk")?;
        subject.rest()?;
        let took = herd(subject, "aws_sdk")?;
        if round > 0 {
            ours.push_ms(took);
        }
    }
    // What one of them costs alone, so many times: plain Python has nothing to share.
    let folder = subject.daemon().dir().join("herd");
    direct::copy_tree(&subject.bundle("aws_sdk")?, &folder)?;
    let python = Python { folder, path: None };
    let mut alone = Samples::default();
    for _ in 0..3 {
        let one = python.first_answer(&direct::request(&session_name("direct"), BODY))?;
        alone.push_ms(one * u32::try_from(CALLERS)?);
    }
    table.add(Row {
        what: format!("{CALLERS} new sessions at once, AWS SDK, to the last answer"),
        unit: "ms",
        ours,
        peer: Some(Peer {
            name: format!("{CALLERS} × python3 my_agent.py, one after the other"),
            samples: alone,
        }),
        promise: Promise::AtMost(1500.0),
    });
    crowd(subject, table)
}

/// Every caller that is not served must be told when to come again.
fn crowd(subject: &Subject, table: &mut Table) -> anyhow::Result<()> {
    fork::ready(subject, "aws_sdk")?;
    subject.rest()?;
    let client = subject.client();
    let arrived = Barrier::new(CROWD + 1);
    let [served, failed, gone] = [const { AtomicUsize::new(0) }; 3];
    let (mut health, mut all) = (Samples::default(), Samples::default());
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let callers: Vec<_> = (0..CROWD)
            .map(|_| {
                scope.spawn(|| -> anyhow::Result<()> {
                    arrived.wait();
                    let call = Client::invocation("aws_sdk", &session_name("crowd"), &json!({}));
                    let answer = client.send(call);
                    gone.fetch_add(1, Ordering::Relaxed);
                    let answer = answer?;
                    match (answer.status, answer.header("retry-after")) {
                        (200, _) => served.fetch_add(1, Ordering::Relaxed),
                        (429 | 503, Some(_)) => 0,
                        (status, _) => {
                            // Told, and counted below: it is not the end of the other measurements.
                            eprintln!("xtask: a caller got {status}: {}", answer.text()?);
                            failed.fetch_add(1, Ordering::Relaxed)
                        }
                    };
                    Ok(())
                })
            })
            .collect();
        arrived.wait();
        let began = Instant::now();
        while gone.load(Ordering::Relaxed) < CROWD {
            let asked = Instant::now();
            client.send(Request::get("/healthz"))?.expect(200)?;
            health.push_ms(asked.elapsed());
            std::thread::sleep(PAUSE);
        }
        all.push_ms(began.elapsed());
        for caller in callers {
            caller.join().ok().context("a caller panicked")??;
        }
        Ok(())
    })?;
    for session in client.live_sessions()? {
        client.stop(session.id.as_str())?;
    }
    let served = served.into_inner();
    let mut failures = Samples::default();
    failures.push(f64::from(u32::try_from(failed.into_inner())?));
    table.add(Row {
        what: format!(
            "{CROWD} new sessions at once, AWS SDK: neither served nor told to come again"
        ),
        unit: "callers",
        ours: failures,
        peer: None,
        promise: Promise::AtMost(0.0),
    });
    for (what, ours) in [
        (
            format!("… until all are answered, {served} of them served"),
            all,
        ),
        ("… /healthz meanwhile".to_owned(), health),
    ] {
        table.add(Row {
            what,
            unit: "ms",
            ours,
            peer: None,
            promise: Promise::Context,
        });
    }
    Ok(())
}

/// From the moment when all connections are there.
fn herd(subject: &Subject, runtime: &str) -> anyhow::Result<Duration> {
    let sessions: Vec<String> = (0..CALLERS).map(|_| session_name("herd")).collect();
    let ready = Barrier::new(CALLERS + 1);
    let took = std::thread::scope(|scope| -> anyhow::Result<Duration> {
        let callers: Vec<_> = sessions
            .iter()
            .map(|session| {
                let ready = &ready;
                scope.spawn(move || -> anyhow::Result<()> {
                    let connected = Wire::connect(&subject.unix());
                    ready.wait();
                    let request = wire::post(
                        &format!("/runtimes/{runtime}/invocations"),
                        &[(SESSION_HEADER, session.as_str())],
                        BODY,
                    );
                    connected?.call(&request).map(|_| ())
                })
            })
            .collect();
        ready.wait();
        let began = Instant::now();
        for caller in callers {
            caller.join().ok().context("a caller panicked")??;
        }
        Ok(began.elapsed())
    })?;
    let client = subject.client();
    for session in &sessions {
        client.stop(session)?;
    }
    Ok(took)
}
