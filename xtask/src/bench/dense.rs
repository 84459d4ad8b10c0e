//! How many idle sessions a host holds: 2,000 of the built-in SDK, forked as they are by default and frozen once nobody has called them
//! for a while. What one of them costs in memory, all told, and what all of them cost the daemon in time; then some are woken, and the
//! probes of the security bar run in five that stood among the others.

use super::metering;
use super::samples::Samples;
use super::subject::Subject;
use super::table::{Promise, Row, Table};
use super::wire::{self, Wire};
use anyhow::{Context as _, ensure};
use e2e::canaries::Canaries;
use e2e::client::{SESSION_HEADER, session_name};
use e2e::{host, probe, wait};
use proto::api::{Phase, Session};
use serde_json::{Value, json};
use std::fs;

const SESSIONS: usize = 2000;

/// Of these, sessions of the probes' agent.
const PROBED: usize = 5;

const WOKEN: usize = 50;

/// Room for them all, and nobody waits for a turn. Templates, and when a session is frozen, as shipped; a pool's members would be counted.
const ROOM: &str = "[limits]\nmax_sessions = 2100\nnew_session_rate = 0\n[admission]\nmemory_ratio = 0\n[defaults]\nidle_timeout = 7200\n\
                    [template]\nfork = \"auto\"\n[pool]\nmax = 0\n";

const BODY: &[u8] = br#"{"prompt": "hello"}"#;

pub(crate) fn measure(table: &mut Table) -> anyhow::Result<()> {
    let canaries = Canaries::new()?;
    let subject = Subject::around(&canaries, ROOM)?;
    let client = subject.client();
    let mut config: Value = serde_json::from_str(probe::LIMITS)?;
    config["environment"] = json!({"COLOUR": "blue"});
    probe::deploy(&client, "probe", config)?;
    let other = session_name("planted");
    let planted = probe::plant(&client, "probe", &other, "other")?;
    probe::warm(&client, "probe", &json!({"list": true}))?;
    super::fork::ready(&subject, "echo")?;
    subject.rest()?;
    let before = available()?;
    let (mut called, mut probed) = (Vec::new(), Vec::new());
    for number in 0..SESSIONS {
        if number % (SESSIONS / PROBED) == SESSIONS / PROBED / 2 {
            let id = session_name("probed");
            client.invoke("probe", &id, &json!({"list": true}))?;
            probed.push(id);
        } else {
            let id = session_name("echo");
            Wire::connect(&subject.unix())?.call(&request(&id))?;
            called.push(id);
        }
    }
    let sessions = all_frozen(&subject)?;
    let each = f64::from(u32::try_from(SESSIONS)?);
    let mut cost = Samples::default();
    cost.push((before - available()?) / each);
    let forked = sessions
        .iter()
        .filter(|one| {
            one.pid
                .is_some_and(|pid| host::is_forked(pid).unwrap_or(false))
        })
        .count();
    table.add(Row {
        what: format!(
            "{SESSIONS} idle sessions, built-in SDK, {forked} of them forks: memory of the host for each"
        ),
        unit: "MiB",
        ours: cost,
        peer: None,
        // 2,000 on 24 GiB.
        promise: Promise::AtMost(24.0 * 1024.0 / each),
    });
    metering::look(
        &subject,
        &metering::State {
            name: format!("{SESSIONS} idle sessions"),
            phase: Phase::Frozen,
            sessions: sessions.len(),
            bound: 1.0,
        },
        table,
    )?;
    woken(&subject, &called, table)?;
    let mut passed = Samples::default();
    for id in &probed {
        let payload = probe::payload(subject.daemon(), &canaries, id, (&other, &planted))?;
        let verdicts = probe::run(&client, "probe", id, &payload)?;
        verdicts
            .all_green(probe::LEAST)
            .with_context(|| format!("probes in {id}"))?;
        passed.push(f64::from(u32::try_from(verdicts.with("PASS").len())?));
    }
    table.add(Row {
        what: format!("… probes that passed in {PROBED} of them, none failed"),
        unit: "probes",
        ours: passed,
        peer: None,
        promise: Promise::AtLeast(f64::from(u32::try_from(probe::LEAST)?)),
    });
    subject.end()
}

fn request(session: &str) -> Vec<u8> {
    wire::post(
        "/runtimes/echo/invocations",
        &[(SESSION_HEADER, session)],
        BODY,
    )
}

/// MiB that the kernel could still give.
fn available() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.context("MemAvailable in /proc/meminfo")? / 1024.0)
}

fn all_frozen(subject: &Subject) -> anyhow::Result<Vec<Session>> {
    let client = subject.client();
    let mut sessions = Vec::new();
    wait::until_true(300, "all sessions to be frozen", || {
        sessions = client.live_sessions()?;
        Ok(sessions.iter().all(|one| one.phase == Phase::Frozen))
    })?;
    ensure!(
        // And the one that was planted.
        sessions.len() == SESSIONS + 1,
        "{} sessions live, not {SESSIONS} and one",
        sessions.len()
    );
    Ok(sessions)
}

/// Some of them, by chance, are called.
fn woken(subject: &Subject, sessions: &[String], table: &mut Table) -> anyhow::Result<()> {
    let mut order: Vec<&String> = sessions.iter().collect();
    fastrand::shuffle(&mut order);
    let mut first = Samples::default();
    for id in order.into_iter().take(WOKEN) {
        first.push_ms(wire::cold(&subject.unix(), &request(id))?);
    }
    table.add(Row {
        what: format!("… {WOKEN} of them, by chance, called: to the first byte"),
        unit: "ms",
        ours: first,
        peer: None,
        promise: Promise::Context,
    });
    Ok(())
}
