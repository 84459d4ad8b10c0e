//! After the run: every promise that was made is looked up, and nothing may be left.

use super::books::{Acknowledged, Pages};
use super::scene::Scene;
use super::witness::{Watch, Witness};
use anyhow::{Context as _, ensure};
use e2e::http::Request;
use e2e::{Client, wait};
use proto::api::{Page, Phase, UsageRecord};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// How long what is under way may take once nothing breaks any more: a task's deadline.
const SETTLING: u64 = 300;

/// Looks at everything and adds what is wrong to the pages.
pub(super) fn balance(
    scene: &Scene,
    pages: &mut Pages,
    watch: Watch,
) -> anyhow::Result<BTreeMap<String, u64>> {
    let client = scene.client();
    let ends = tasks(client, pages)?;
    repeated(scene, pages)?;
    sessions(client, pages)?;
    ledger(scene, pages)?;
    metered(client, pages, &watch.end()?)?;
    counted(client, pages, ends.get("SUCCEEDED").copied().unwrap_or(0))?;
    Ok(ends)
}

fn task(client: &Client, id: &str) -> anyhow::Result<Value> {
    client.get(&format!("/v1/tasks/{id}"))
}

fn is_final(status: &str) -> bool {
    matches!(
        status,
        "SUCCEEDED" | "FAILED" | "CANCELLED" | "TIMED_OUT" | "LOST"
    )
}

/// Every acknowledged task has exactly one outcome, and there are no others.
fn tasks(client: &Client, pages: &mut Pages) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    let known: BTreeSet<&str> = pages.tasks.iter().map(|task| task.id.as_str()).collect();
    if known.len() != pages.tasks.len() {
        pages
            .wrong
            .push("two submissions were answered with one task".to_owned());
    }
    let listed: BTreeSet<String> = all(client, "/v1/tasks")?
        .iter()
        .filter_map(|task| task["taskId"].as_str().map(str::to_owned))
        .collect();
    for id in known.iter().filter(|id| !listed.contains(**id)) {
        pages
            .wrong
            .push(format!("task {id} was acknowledged and is not listed"));
    }
    for id in listed.iter().filter(|id| !known.contains(id.as_str())) {
        pages
            .wrong
            .push(format!("task {id} is listed and was never acknowledged"));
    }
    for acknowledged in pages.tasks.clone() {
        let Acknowledged { id, name, .. } = acknowledged;
        let ended = wait::until(SETTLING, &format!("task {id} to end"), || {
            let task = task(client, &id)?;
            let status = task["status"].as_str().unwrap_or_default();
            Ok(is_final(status).then_some(task))
        });
        let task = match ended {
            Ok(task) => task,
            Err(error) => {
                pages.wrong.push(format!("{error:#}"));
                continue;
            }
        };
        let status = task["status"].as_str().unwrap_or_default().to_owned();
        if let Err(error) = outcome(client, &id, &name, &status) {
            pages.wrong.push(format!("task {id} ({status}): {error:#}"));
        }
        *ends.entry(status).or_default() += 1;
    }
    Ok(ends)
}

/// One outcome among its events, and the answer that belongs to it.
fn outcome(client: &Client, id: &str, name: &str, status: &str) -> anyhow::Result<()> {
    let events = client
        .send(Request::get(format!("/v1/tasks/{id}/events")))?
        .expect(200)?
        .text()?;
    let ends: Vec<String> = events
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .filter_map(|event| event["status"].as_str().map(str::to_owned))
        .filter(|status| is_final(status))
        .collect();
    ensure!(ends == [status], "its events tell {ends:?}");
    if status == "SUCCEEDED" {
        let answer: Value = client
            .send(Request::get(format!("/v1/tasks/{id}/result")))?
            .expect(200)?
            .json()?;
        ensure!(answer["task"] == name, "its result is another's: {answer}");
    }
    Ok(())
}

/// What an agent printed at the start of each task: a task that may not be repeated began once at most.
fn repeated(scene: &Scene, pages: &mut Pages) -> anyhow::Result<()> {
    let mut runs: BTreeMap<String, u64> = BTreeMap::new();
    let logs = scene.daemon().state_dir().join("broker/logs");
    for entry in fs::read_dir(&logs).with_context(|| logs.display().to_string())? {
        let text = fs::read(entry?.path()).unwrap_or_default();
        for line in String::from_utf8_lossy(&text).lines() {
            if let Some((_, name)) = line.split_once("ran ")
                && let Some((name, _)) = name.split_once('.')
            {
                *runs.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
    if runs.is_empty() {
        pages
            .wrong
            .push(format!("no task's run is in {}", logs.display()));
    }
    for task in pages.tasks.iter().filter(|task| !task.may_be_repeated) {
        let count = runs.get(&task.name).copied().unwrap_or(0);
        if count > 1 {
            pages
                .wrong
                .push(format!("task {} ran {count} times", task.id));
        }
    }
    Ok(())
}

/// Every session that is over says why; the others can be stopped.
fn sessions(client: &Client, pages: &mut Pages) -> anyhow::Result<()> {
    for session in client.live_sessions()? {
        let path = format!("/v1/sessions/{}?wait=true", session.id);
        let answer = client.send(Request::new("DELETE", path))?;
        // It may have ended by itself since.
        ensure!(
            matches!(answer.status, 200 | 404),
            "stop {}: {}",
            session.id,
            answer.status
        );
    }
    let mut over = 0_u64;
    for session in client.sessions("")? {
        over += 1;
        let ended = matches!(session.phase, Phase::Ended | Phase::Failed);
        if !ended || session.end_reason.is_none() {
            pages
                .wrong
                .push(format!("not over, or not why: {session:?}"));
        }
    }
    println!("  {over} sessions, each over for a reason");
    Ok(())
}

/// The chain of usage records is whole.
fn ledger(scene: &Scene, pages: &mut Pages) -> anyhow::Result<()> {
    let verified = scene.daemon().cli().args(["usage", "verify"]).output()?;
    if !verified.status.success() {
        pages.wrong.push(format!(
            "usage verify: {}{}",
            String::from_utf8_lossy(&verified.stdout),
            String::from_utf8_lossy(&verified.stderr)
        ));
    }
    Ok(())
}

/// How far the ledger may be from the kernel's counter.
const PRECISION: f64 = 0.01;

/// Below it no run is red, CPU seconds: what stagers used that died with their launcher and were no sessions yet.
const NOBODYS: f64 = 0.1;

/// What the ledger has of CPU time is what the kernel counted.
fn metered(client: &Client, pages: &mut Pages, witness: &Witness) -> anyhow::Result<()> {
    let records: Vec<UsageRecord> = all(client, "/v1/usage?by=session")?
        .into_iter()
        .map(serde_json::from_value)
        .collect::<Result<_, _>>()?;
    let of_session: BTreeMap<String, f64> = records
        .iter()
        .filter_map(|record| Some((record.id.as_ref()?.to_string(), record.used.cpu_seconds)))
        .collect();
    let charged: f64 = of_session.values().sum();
    let counted = witness.whole();
    let off = counted - charged;
    println!(
        "  {charged:.3} CPU seconds on record, {counted:.3} by the kernel's counter: {:.2} % off",
        100.0 * off / counted.max(f64::MIN_POSITIVE)
    );
    let mut short: Vec<(f64, String)> = witness
        .sessions()
        .filter_map(|(id, seen)| {
            // What it used before it was somebody's is on record by a name of its own.
            let waited = of_session.get(&id.replacen('s', "w", 1));
            let own = of_session.get(id);
            let charged = [waited, own].into_iter().flatten().copied();
            let charged = charged.reduce(|waited, own| waited + own);
            let missing = seen - charged.unwrap_or(0.0);
            let what = match charged {
                Some(charged) => format!("{id}: {charged:.3} s on record, {seen:.3} s seen"),
                None => format!("{id}: {seen:.3} s seen, and no record"),
            };
            (missing > 0.001).then_some((missing, what))
        })
        .collect();
    short.sort_by(|a, b| b.0.total_cmp(&a.0));
    let missing: f64 = short.iter().map(|(missing, _)| missing).sum();
    if !short.is_empty() {
        println!("  {} sessions lack {missing:.3} CPU seconds:", short.len());
    }
    for (_, what) in short.iter().take(20) {
        println!("    {what}");
    }
    if off.abs() > (counted * PRECISION).max(NOBODYS) {
        pages.wrong.push(format!(
            "{charged:.3} CPU seconds are on record, and the kernel counted {counted:.3}"
        ));
    }
    Ok(())
}

/// How long the records of what has ended may come after it, seconds: a round, on a busy machine.
const RECORDED: u64 = 20;

/// Whatever was answered is on record once, and counted in its session once.
fn counted(client: &Client, pages: &mut Pages, tasks: u64) -> anyhow::Result<()> {
    let answered = |operation| {
        let key = (operation, "answered".to_owned());
        pages.outcomes.get(&key).copied().unwrap_or(0)
    };
    let least = answered("call") + answered("stream") + tasks;
    let by_session = |path, field: &str| -> anyhow::Result<BTreeMap<String, u64>> {
        let mut sums = BTreeMap::new();
        for row in all(client, path)? {
            let id = row["id"].as_str().context("no session's id")?.to_owned();
            *sums.entry(id).or_default() += row[field].as_u64().unwrap_or(0);
        }
        sums.retain(|_, count| *count > 0);
        Ok(sums)
    };
    let look = || -> anyhow::Result<_> {
        let counted = by_session("/v1/usage?by=session", "invocations")?;
        Ok((counted, by_session("/v1/usage/invocations", "count")?))
    };
    // Should they stay apart, it is told below how.
    let _ = wait::until(RECORDED, "records and counts to be equal", || {
        let (counted, recorded) = look()?;
        Ok((counted == recorded).then_some(()))
    });
    let (counted, recorded) = look()?;
    let sum = |of: &BTreeMap<String, u64>| of.values().sum::<u64>();
    let (all_counted, all_recorded) = (sum(&counted), sum(&recorded));
    println!(
        "  {least} calls, streams and tasks answered; {all_recorded} on record, {all_counted} counted"
    );
    if all_counted < least || all_recorded < least {
        pages.wrong.push(format!(
            "{least} were answered, {all_recorded} are on record, and their sessions counted {all_counted}"
        ));
    }
    let ids: BTreeSet<&String> = counted.keys().chain(recorded.keys()).collect();
    for id in ids {
        let of = |all: &BTreeMap<String, u64>| all.get(id).copied().unwrap_or(0);
        let (counted, recorded) = (of(&counted), of(&recorded));
        if counted != recorded {
            pages.wrong.push(format!(
                "{id} counted {counted} invocations, and {recorded} are on record"
            ));
        }
    }
    Ok(())
}

fn all(client: &Client, path: &str) -> anyhow::Result<Vec<Value>> {
    let (mut items, mut token) = (Vec::new(), None::<String>);
    loop {
        let next = token
            .map(|token| format!("&nextToken={}", e2e::client::label(&token)))
            .unwrap_or_default();
        let first = if path.contains('?') { '&' } else { '?' };
        let page: Page<Value> = client.get(&format!("{path}{first}maxResults=1000{next}"))?;
        items.extend(page.items);
        token = page.next_token;
        if token.is_none() {
            return Ok(items);
        }
    }
}
