//! What 2,000 sessions cost that do nothing: health checks and the ledger's readings, awake and frozen.
//!
//! The cost is CPU time of broker and launcher, in percent of one core, by the scheduler's own counters. What the sessions'
//! own processes use is beside it: a health check has an agent to answer it.

use super::samples::Samples;
use super::subject::Subject;
use super::table::{Promise, Row, Table};
use super::wire::{self, Wire};
use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, session_name};
use e2e::http::Request;
use e2e::{host, wait};
use proto::api::Phase;
use std::fs;
use std::time::{Duration, Instant};

const SESSIONS: usize = 2000;

/// Each as long as the least frequent of what is done, which is the writing of meters.
const LOOKS: u32 = 4;
const LOOK: Duration = Duration::from_secs(10);

/// Room for them all and as many a second as come; and none is frozen before its turn.
const ROOM: &str = "[limits]\nmax_sessions = 2100\nnew_session_rate = 0\n[admission]\nmemory_ratio = 0\n[defaults]\nidle_timeout = 7200\nfreeze_after = 0\n";

/// CPU time of all threads of a process.
fn cpu(pid: i32) -> anyhow::Result<Duration> {
    let tasks = format!("/proc/{pid}/task");
    let mut nanos = 0;
    for task in fs::read_dir(&tasks).with_context(|| tasks.clone())? {
        // A thread may end between the two.
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        nanos += text
            .split_whitespace()
            .next()
            .map_or(Ok(0), str::parse::<u64>)?;
    }
    Ok(Duration::from_nanos(nanos))
}

fn all(pids: &[i32]) -> anyhow::Result<Duration> {
    pids.iter().map(|pid| cpu(*pid)).sum()
}

pub(crate) fn measure(table: &mut Table) -> anyhow::Result<()> {
    let subject = Subject::with_more(ROOM, None)?;
    for _ in 0..SESSIONS {
        let session = session_name("native");
        let request = wire::post(
            "/runtimes/native/invocations",
            &[(SESSION_HEADER, session.as_str())],
            b"{}",
        );
        Wire::connect(&subject.unix())?.call(&request)?;
    }
    subject.rest()?;
    let state = |word: &str, phase, bound| State {
        name: format!("{SESSIONS} sessions, {word}"),
        phase,
        sessions: SESSIONS,
        bound,
    };
    look(&subject, &state("awake", Phase::Ready, 4.0), table)?;
    let client = subject.client();
    for session in client.live_sessions()? {
        let path = format!("/v1/sessions/{}/freeze", session.id);
        client.send(Request::new("POST", path))?.expect(200)?;
    }
    look(&subject, &state("frozen", Phase::Frozen, 1.0), table)?;
    subject.end()
}

/// What all sessions are in.
pub(super) struct State {
    /// Of them, in words.
    pub(super) name: String,
    pub(super) phase: Phase,
    /// How many there are.
    pub(super) sessions: usize,
    /// Percent of a core.
    pub(super) bound: f64,
}

/// What broker and launcher use while nothing is asked of them.
pub(super) fn look(subject: &Subject, state: &State, table: &mut Table) -> anyhow::Result<()> {
    let sessions = subject.client().live_sessions()?;
    ensure!(
        sessions.len() == state.sessions
            && sessions.iter().all(|session| session.phase == state.phase),
        "not {}",
        state.name
    );
    let shims: Vec<i32> = sessions.iter().filter_map(|session| session.pid).collect();
    let inside: Vec<i32> = shims
        .iter()
        .flat_map(|shim| host::children(*shim))
        .chain(shims.iter().copied())
        .collect();
    let broker = [subject.daemon().pid()];
    let launcher = [subject.launcher()?];
    // What the launches and the list have left to do is not this.
    settled(&broker)?;
    let mut parts = [(); 4].map(|()| Samples::default());
    for _ in 0..LOOKS {
        let groups: [&[i32]; 3] = [&broker, &launcher, &inside];
        let before: Vec<Duration> = groups
            .iter()
            .map(|pids| all(pids))
            .collect::<Result<_, _>>()?;
        let began = Instant::now();
        std::thread::sleep(LOOK);
        let percent = |used: Duration| 100.0 * used.as_secs_f64() / LOOK.as_secs_f64();
        let passed = began.elapsed().as_secs_f64() / LOOK.as_secs_f64();
        let mut figures = Vec::new();
        for (pids, before) in groups.iter().zip(before) {
            figures.push(percent(all(pids)?.saturating_sub(before)) / passed);
        }
        parts[0].push(figures[0] + figures[1]);
        for (part, figure) in parts[1..].iter_mut().zip(figures) {
            part.push(figure);
        }
    }
    let names = [
        format!("ledger and health of {}: broker and launcher", state.name),
        "… the broker".to_owned(),
        "… the launcher".to_owned(),
        "… the sessions' own processes".to_owned(),
    ];
    for (number, (what, ours)) in names.into_iter().zip(parts).enumerate() {
        table.add(Row {
            what,
            unit: "% of a core",
            ours,
            peer: None,
            promise: if number == 0 {
                Promise::AtMost(state.bound)
            } else {
                Promise::Context
            },
        });
    }
    Ok(())
}

/// Waits until a process uses less than a fifth of a core.
fn settled(pids: &[i32]) -> anyhow::Result<()> {
    wait::until_true(60, "the daemon to settle", || {
        let before = all(pids)?;
        std::thread::sleep(Duration::from_secs(1));
        Ok(all(pids)?.saturating_sub(before) < Duration::from_millis(200))
    })
}
