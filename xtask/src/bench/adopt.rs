//! How long a daemon that comes back after `kill -9` takes until it serves, with 200 sessions to adopt: from its start, its own
//! start included, to its first answer; and the same with none.

use super::samples::Samples;
use super::subject::Subject;
use super::table::{Promise, Row, Table};
use super::wire::{self, Wire};
use anyhow::ensure;
use e2e::client::{SESSION_HEADER, session_name};
use proto::api::Phase;
use std::time::Instant;

/// Sessions to adopt.
const SESSIONS: usize = 200;

/// How often it is killed.
const TIMES: u32 = 5;

pub(crate) fn measure(table: &mut Table) -> anyhow::Result<()> {
    let mut subject = Subject::outlived()?;
    let without = returns(&mut subject, 0)?;
    for _ in 0..SESSIONS {
        let session = session_name("native");
        let request = wire::post(
            "/runtimes/native/invocations",
            &[(SESSION_HEADER, session.as_str())],
            b"{}",
        );
        Wire::connect(&subject.unix())?.call(&request)?;
    }
    let with = returns(&mut subject, SESSIONS)?;
    for session in subject.client().live_sessions()? {
        subject.client().stop(session.id.as_str())?;
    }
    table.add(Row {
        what: format!("{SESSIONS} sessions adopted after kill -9, start to first answer"),
        unit: "ms",
        ours: with,
        peer: None,
        promise: Promise::AtMost(2000.0),
    });
    table.add(Row {
        what: "… with none".to_owned(),
        unit: "ms",
        ours: without,
        peer: None,
        promise: Promise::Context,
    });
    subject.end()
}

fn returns(subject: &mut Subject, sessions: usize) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    for _ in 0..TIMES {
        subject.kill()?;
        let began = Instant::now();
        subject.come_back()?;
        samples.push_ms(began.elapsed());
        let live = subject.client().live_sessions()?;
        ensure!(
            live.len() == sessions && live.iter().all(|session| session.phase == Phase::Ready),
            "{} of {sessions} sessions were adopted",
            live.len()
        );
    }
    Ok(samples)
}
