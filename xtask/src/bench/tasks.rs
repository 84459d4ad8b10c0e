//! Asynchronous tasks: how fast 64 clients can submit them durably, and how fast they run. The same on a file system in memory stands
//! beside it, where a sync costs nothing: the difference is the disk's share. While they are submitted one place runs tasks.

use super::Effort;
use super::samples::Samples;
use super::subject::Subject;
use super::table::{Peer, Promise, Row, Table};
use super::wire::{self, Wire};
use anyhow::{Context as _, ensure};
use e2e::client::{Client, SESSION_HEADER, session_name};
use e2e::http::{Request, Target};
use proto::api::{Page, Task, TaskStatus};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const CLIENTS: usize = 64;

const BODY: &[u8] = br#"{"prompt": "hello"}"#;

const PATH: &str = "/v1/runtimes/native/tasks";

/// Tasks that are run, in so many sessions.
const RUN: u32 = 2000;
const SESSIONS: u32 = 16;

/// One round of submissions.
const ROUND: Duration = Duration::from_secs(2);

const BOUNDS: &str = "[limits]\nmax_connections_per_user = 512\n[tasks]\nmax_queued = 10000000\nmax_stored = \"64G\"\nconcurrency = ";

/// A file system in memory.
const IN_MEMORY: &str = "/dev/shm/agentcore-bench-tasks";

pub(crate) fn measure(effort: Effort, table: &mut Table) -> anyhow::Result<()> {
    let rounds = effort.blocks.div_ceil(5);
    let (durable, tails) = submitted(None, rounds)?;
    let memory = PathBuf::from(IN_MEMORY);
    std::fs::create_dir_all(&memory)?;
    let unsynced = submitted(Some(memory.clone()), rounds);
    std::fs::remove_dir_all(&memory)?;
    let (free, free_tails) = unsynced?;
    let beside = |samples| {
        Some(Peer {
            name: "state in memory (no disk)".to_owned(),
            samples,
        })
    };
    table.add(Row {
        what: "durable task submissions, 64 clients".to_owned(),
        unit: "1/s",
        ours: durable,
        peer: beside(free),
        promise: Promise::AtLeast(6000.0),
    });
    table.add(Row {
        what: "the same, p99 of each round".to_owned(),
        unit: "ms",
        ours: tails,
        peer: beside(free_tails),
        promise: Promise::AtMost(60.0),
    });
    let subject = Subject::with_more(&format!("{BOUNDS}64\n"), None)?;
    let mut rates = Samples::default();
    for _ in 0..rounds {
        rates.push(run(&subject)?);
    }
    table.add(Row {
        what: format!("tasks to SUCCEEDED, in {SESSIONS} sessions"),
        unit: "1/s",
        ours: rates,
        peer: None,
        promise: Promise::AtLeast(200.0),
    });
    subject.end()
}

/// Submissions a second, and the p99 of each round in milliseconds.
fn submitted(dir: Option<PathBuf>, rounds: usize) -> anyhow::Result<(Samples, Samples)> {
    let subject = Subject::with_more(&format!("{BOUNDS}1\n"), dir)?;
    let (mut rates, mut tails) = (Samples::default(), Samples::default());
    // The first one warms up.
    for round in 0..=rounds {
        let began = Instant::now();
        let times = at_once(&subject.unix())?;
        let took = began.elapsed().as_secs_f64();
        if round > 0 {
            let count = u32::try_from(times.len()).context("count")?;
            rates.push(f64::from(count) / took);
            let mut all = Samples::default();
            for time in times {
                all.push_ms(time);
            }
            tails.push(all.quantile(0.99));
        }
    }
    subject.end()?;
    Ok((rates, tails))
}

/// What every submission of one round took.
fn at_once(target: &Target) -> anyhow::Result<Vec<Duration>> {
    let request = wire::post(PATH, &[], BODY);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (target, request) = (target.clone(), request.clone());
            std::thread::spawn(move || -> anyhow::Result<Vec<Duration>> {
                let mut wire = Wire::connect(&target)?;
                let until = Instant::now() + ROUND;
                let mut times = Vec::new();
                while Instant::now() < until {
                    times.push(wire.call(&request)?.whole);
                }
                Ok(times)
            })
        })
        .collect();
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.join().ok().context("a client panicked")??);
    }
    Ok(all)
}

/// Tasks a second, from the first one's submission to the last one's outcome.
fn run(subject: &Subject) -> anyhow::Result<f64> {
    let client = subject.client();
    let sessions: Vec<String> = (0..SESSIONS).map(|_| session_name("tasks")).collect();
    for session in &sessions {
        let warm = Client::invocation("native", session, &serde_json::json!({"prompt": "hello"}));
        client.send(warm)?.expect(200)?;
    }
    let mut wire = Wire::connect(&subject.unix())?;
    let began = Instant::now();
    for (_, session) in (0..RUN).zip(sessions.iter().cycle()) {
        wire.call(&wire::post(PATH, &[(SESSION_HEADER, session)], BODY))?;
    }
    loop {
        let open: Page<Task> =
            client.get("/v1/tasks?status=QUEUED,STARTING,RUNNING&maxResults=1")?;
        if open.items.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = began.elapsed().as_secs_f64();
    let newest: Page<Task> = client
        .send(Request::get("/v1/tasks?maxResults=1000"))?
        .expect(200)?
        .json()?;
    let all_well = newest
        .items
        .iter()
        .all(|task| task.status == TaskStatus::Succeeded);
    ensure!(all_well, "not all tasks have SUCCEEDED");
    for session in &sessions {
        client.stop(session)?;
    }
    Ok(f64::from(RUN) / took)
}
