//! Sessions made, called and stopped without end: how many a second, and whether anything grows meanwhile.

use super::Effort;
use super::samples::Samples;
use super::subject::Subject;
use super::table::{Promise, Row, Table};
use super::wire::{self, Wire};
use anyhow::Context as _;
use e2e::client::{SESSION_HEADER, session_name};
use e2e::host;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CALLERS: usize = 4;

const BODY: &[u8] = br#"{"prompt": "hello"}"#;

/// Between two looks at what is there.
const LOOK: Duration = Duration::from_secs(1);

/// What may grow, in the order of [`look`].
const GROWTHS: [(&str, &str); 4] = [
    ("memory of daemon, launcher and prepared launches", "MiB/h"),
    ("open files of the daemon", "1/h"),
    ("memory cgroups of this host", "1/h"),
    ("network namespaces of this host", "1/h"),
];

pub(crate) fn measure(
    subject: &Subject,
    runtime: &str,
    wanted: f64,
    effort: Effort,
    table: &mut Table,
) -> anyhow::Result<()> {
    // What the first sessions leave in heaps and caches is no growth.
    let warm_up = Duration::from_secs(effort.sustained_seconds / 10);
    run(subject, runtime, warm_up)?;
    let (rates, looks) = run(
        subject,
        runtime,
        Duration::from_secs(effort.sustained_seconds),
    )?;
    table.add(Row {
        what: format!(
            "sessions made, called and stopped, {runtime}, {CALLERS} callers, {} s",
            effort.sustained_seconds
        ),
        unit: "1/s",
        ours: rates,
        peer: None,
        promise: Promise::AtLeast(wanted),
    });
    for (column, (what, unit)) in GROWTHS.into_iter().enumerate() {
        let points: Vec<(f64, f64)> = looks.iter().map(|(at, all)| (*at, all[column])).collect();
        let mut slope = Samples::default();
        slope.push(slope_of(&points) * 3600.0);
        table.add(Row {
            what: format!("… growth of {what}"),
            unit,
            ours: slope,
            peer: None,
            promise: Promise::Context,
        });
    }
    Ok(())
}

/// Seconds since the beginning, and what there was.
type Look = (f64, [f64; GROWTHS.len()]);

/// Sessions of each second, and what there was meanwhile.
fn run(subject: &Subject, runtime: &str, length: Duration) -> anyhow::Result<(Samples, Vec<Look>)> {
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| -> anyhow::Result<()> {
                    let client = subject.client();
                    while !over.load(Ordering::Relaxed) {
                        let session = session_name("sustained");
                        let request = wire::post(
                            &format!("/runtimes/{runtime}/invocations"),
                            &[(SESSION_HEADER, session.as_str())],
                            BODY,
                        );
                        Wire::connect(&subject.unix())?.call(&request)?;
                        client.stop(&session)?;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        let watched = watch(subject, length, &done, || {
            callers.iter().any(|c| c.is_finished())
        });
        over.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.join().ok().context("a caller panicked")??;
        }
        watched
    })
}

fn watch(
    subject: &Subject,
    length: Duration,
    done: &AtomicU64,
    broken: impl Fn() -> bool,
) -> anyhow::Result<(Samples, Vec<Look>)> {
    let (mut rates, mut looks) = (Samples::default(), Vec::new());
    let began = Instant::now();
    let (mut last, mut counted) = (began, 0);
    while began.elapsed() < length && !broken() {
        std::thread::sleep(LOOK);
        let now = Instant::now();
        let all = done.load(Ordering::Relaxed);
        let some = f64::from(u32::try_from(all - counted)?);
        rates.push(some / (now - last).as_secs_f64());
        (last, counted) = (now, all);
        looks.push((began.elapsed().as_secs_f64(), look(subject)?));
    }
    Ok((rates, looks))
}

fn look(subject: &Subject) -> anyhow::Result<[f64; GROWTHS.len()]> {
    let (broker, launcher) = (subject.daemon().pid(), subject.launcher()?);
    let memory = super::memory::pss(broker)? + super::memory::pss(launcher)?;
    let files = host::descriptors(broker)?.len();
    let cgroups = std::fs::read_to_string("/proc/cgroups")?;
    let memory_cgroups: f64 = cgroups
        .lines()
        .find_map(|line| line.strip_prefix("memory"))
        .and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok())
        .context("memory in /proc/cgroups")?;
    // Of processes, and those that somebody only holds.
    let networks: BTreeSet<_> = host::all_pids()
        .into_iter()
        .flat_map(|pid| {
            let own = std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
            let own = own.map(|link| link.display().to_string());
            let held = host::descriptors(pid).unwrap_or_default().into_iter();
            own.into_iter().chain(held.map(|one| one.target))
        })
        .filter(|target| target.starts_with("net:["))
        .collect();
    let count = |n: usize| u32::try_from(n).map(f64::from);
    Ok([
        memory,
        count(files)?,
        memory_cgroups,
        count(networks.len())?,
    ])
}

/// Of the straight line with the least squares, in units a second.
fn slope_of(points: &[(f64, f64)]) -> f64 {
    let count = points.iter().map(|_| 1.0).sum::<f64>();
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(&|p| p.0), mean(&|p| p.1));
    let over = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>();
    let under = points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>();
    over / under
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_per_second() {
        let line: Vec<_> = [0.0, 1.0, 2.0, 5.0].map(|x| (x, 3.0 + 0.5 * x)).to_vec();
        assert!((slope_of(&line) - 0.5).abs() < 1e-9);
        assert!(slope_of(&[(0.0, 1.0), (1.0, 1.0)]).abs() < 1e-9);
    }
}
