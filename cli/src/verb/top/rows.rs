//! Live sessions as rows: what changed between two looks, sorted and chosen.

use crate::table::{Table, age, bytes};
use clap::ValueEnum;
use proto::api::{Phase, Session};
use proto::ids::SessionId;
use serde::Serialize;
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

/// What rows are sorted by; the greatest first, names in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// Share of a processor
    Cpu,
    /// Memory in use
    Memory,
    /// How much it waits
    Pressure,
    /// Requests in flight
    Requests,
    /// Time since it was made
    Age,
    /// Runtime and session
    Name,
}

impl Sort {
    const ALL: [Self; 6] = [
        Self::Cpu,
        Self::Memory,
        Self::Pressure,
        Self::Requests,
        Self::Age,
        Self::Name,
    ];

    /// The next one, round and round.
    pub(super) fn next(self) -> Self {
        let at = Self::ALL.iter().position(|each| *each == self);
        let next = at.map_or(0, |at| (at + 1) % Self::ALL.len());
        Self::ALL.get(next).copied().unwrap_or(Self::Cpu)
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pressure => "pressure",
            Self::Requests => "requests",
            Self::Age => "age",
            Self::Name => "name",
        }
    }
}

/// One live session.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) id: SessionId,
    pub(super) session_id: String,
    pub(super) runtime: String,
    pub(super) state: &'static str,
    /// Percent of one processor since the last look; absent at the first.
    pub(super) cpu_percent: Option<f64>,
    pub(super) memory_bytes: u64,
    /// The worst of its pressures, percent; absent where the kernel does not tell.
    pub(super) pressure_percent: Option<f64>,
    pub(super) requests: u32,
    pub(super) pids: u64,
    pub(super) created_at: String,
    pub(super) frozen: bool,
}

/// Rows, and the readings that the next ones are compared with.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: Vec<Row>,
    before: HashMap<SessionId, (f64, Instant)>,
}

impl Rows {
    /// The sessions as they are at `now`.
    pub(super) fn take(&mut self, sessions: Vec<Session>, now: Instant) {
        let mut seen = HashMap::new();
        self.rows = sessions
            .into_iter()
            .map(|session| {
                let used = session.usage.cpu_seconds;
                let before = self.before.get(&session.id);
                let cpu_percent = before.and_then(|(then, at)| share(used - then, now - *at));
                seen.insert(session.id.clone(), (used, now));
                let pressure = session.pressure;
                Row {
                    session_id: session.session_id.to_string(),
                    runtime: session.runtime.to_string(),
                    state: super::super::session::phase_word(session.phase),
                    cpu_percent,
                    memory_bytes: session.usage.memory_bytes,
                    pressure_percent: pressure.map(|p| p.cpu.max(p.memory).max(p.io)),
                    requests: session.in_flight,
                    pids: session.usage.pids,
                    created_at: session.created_at,
                    frozen: session.phase == Phase::Frozen,
                    id: session.id,
                }
            })
            .collect();
        self.before = seen;
    }

    /// All of them.
    pub(super) fn all(&self) -> &[Row] {
        &self.rows
    }

    /// Those whose names or state contain `filter`, in order.
    pub(super) fn sorted(&self, by: Sort, reverse: bool, filter: &str) -> Vec<Row> {
        let wanted = |row: &&Row| {
            let texts = [row.id.as_str(), &row.session_id, &row.runtime, row.state];
            texts.iter().any(|text| text.contains(filter))
        };
        let mut rows: Vec<Row> = self.rows.iter().filter(wanted).cloned().collect();
        let least = |value: Option<f64>| value.unwrap_or(-1.0);
        rows.sort_by(|one, other| {
            let order = match by {
                Sort::Cpu => least(other.cpu_percent).total_cmp(&least(one.cpu_percent)),
                Sort::Memory => other.memory_bytes.cmp(&one.memory_bytes),
                Sort::Pressure => {
                    least(other.pressure_percent).total_cmp(&least(one.pressure_percent))
                }
                Sort::Requests => other.requests.cmp(&one.requests),
                Sort::Age => one.created_at.cmp(&other.created_at),
                Sort::Name => one.runtime.cmp(&other.runtime),
            };
            // The same order at every look.
            order.then_with(|| one.id.as_str().cmp(other.id.as_str()))
        });
        if reverse {
            rows.reverse();
        }
        rows
    }
}

/// Percent of one processor.
fn share(used: f64, time: Duration) -> Option<f64> {
    let time = time.as_secs_f64();
    (time > 0.0).then(|| (used / time * 100.0).max(0.0))
}

/// Rows below a heading.
pub(super) fn table(rows: &[Row]) -> String {
    let now = SystemTime::now();
    let mut table = Table::new([
        "ID", "RUNTIME", "STATE", "CPU%", "MEMORY", "WAIT%", "REQS", "PIDS", "AGE", "SESSION",
    ]);
    let percent = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.1}"));
    for row in rows {
        table.row([
            row.id.to_string(),
            row.runtime.clone(),
            row.state.to_owned(),
            percent(row.cpu_percent),
            bytes(row.memory_bytes),
            percent(row.pressure_percent),
            row.requests.to_string(),
            row.pids.to_string(),
            age(&row.created_at, now),
            row.session_id.clone(),
        ]);
    }
    table.text()
}
