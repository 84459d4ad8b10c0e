//! What an idle session costs in memory beside its agent: proportional set sizes, so that shared pages count once.

use super::Effort;
use super::samples::Samples;
use super::subject::Subject;
use super::table::{Promise, Row, Table};
use super::wire::{self, Wire};
use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, session_name};
use proto::api::Phase;
use std::time::Duration;

/// Looks at an idle daemon; a second between two, so that the minute's own work averages out.
const LOOKS: u32 = 3;

/// Proportional set size of a process in MiB.
pub(super) fn pss(pid: i32) -> anyhow::Result<f64> {
    rollup(pid, &["Pss:"])
}

/// Memory of a process that no other process maps, in MiB.
pub(super) fn private(pid: i32) -> anyhow::Result<f64> {
    rollup(pid, &["Private_Clean:", "Private_Dirty:"])
}

/// The sum of these lines, in MiB.
fn rollup(pid: i32, names: &[&str]) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let of = |name: &&str| -> anyhow::Result<f64> {
        let value = text.lines().find_map(|line| line.strip_prefix(*name));
        let kib = value.and_then(|value| value.split_whitespace().next()?.parse::<f64>().ok());
        Ok(kib.with_context(|| format!("{name} in {path}"))? / 1024.0)
    };
    names.iter().map(of).sum()
}

fn sum(pids: &[i32]) -> anyhow::Result<f64> {
    pids.iter().map(|pid| pss(*pid)).sum()
}

/// Expects a daemon that has just started: what earlier sessions left in its heap is not this measurement's.
pub(crate) fn measure(subject: &Subject, effort: Effort, table: &mut Table) -> anyhow::Result<()> {
    for _ in 0..effort.sessions {
        let session = session_name("native");
        let request = wire::post(
            "/runtimes/native/invocations",
            &[(SESSION_HEADER, session.as_str())],
            b"{}",
        );
        Wire::connect(&subject.unix())?.call(&request)?;
    }
    subject.rest()?;
    let sessions = subject.client().live_sessions()?;
    ensure!(
        sessions.len() == effort.sessions && sessions.iter().all(|s| s.phase == Phase::Ready),
        "not {} idle sessions",
        effort.sessions
    );
    let shims: Vec<i32> = sessions.iter().filter_map(|session| session.pid).collect();
    ensure!(shims.len() == sessions.len(), "a session without a pid");
    let broker = subject.daemon().pid();
    let launcher = subject.launcher()?;
    let stagers = subject.stagers()?;
    let whole = f64::from(u32::try_from(shims.len())?);
    let mut parts = [(); 5].map(|()| Samples::default());
    for _ in 0..LOOKS {
        std::thread::sleep(Duration::from_secs(1));
        let figures = [pss(broker)?, pss(launcher)?, sum(&stagers)?, sum(&shims)?];
        parts[0].push(figures.iter().sum::<f64>() / whole);
        parts[1].push(figures[0]);
        parts[2].push(figures[1]);
        parts[3].push(figures[2]);
        parts[4].push(figures[3] / whole);
    }
    let names = [
        format!("memory per idle session, of {whole}: daemon and shims"),
        "… the broker, in all".to_owned(),
        "… the launcher, in all".to_owned(),
        "… prepared launches, in all".to_owned(),
        "… one shim".to_owned(),
    ];
    for (number, (what, ours)) in names.into_iter().zip(parts).enumerate() {
        table.add(Row {
            what,
            unit: "MiB PSS",
            ours,
            peer: None,
            promise: if number == 0 {
                Promise::AtMost(0.6)
            } else {
                Promise::Context
            },
        });
    }
    Ok(())
}
