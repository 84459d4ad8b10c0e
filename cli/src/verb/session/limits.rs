//! `agentcore session limits` and `agentcore runtime limits`.

use super::Desk;
use crate::args::LimitFlags;
use crate::daemon::{Daemon, DaemonError, encode, full, json};
use crate::failure::{Exit, Failure};
use crate::table::{Table, bytes};
use crate::target;
use hyper::Method;
use proto::api::{LimitsPatch, ResourcesChanged, SessionLimits};
use serde::de::DeserializeOwned;

/// Shows a session's limits, after changing those that were named.
pub(super) async fn session(
    desk: &Desk,
    id: &str,
    change: &LimitFlags,
    agent: Option<&str>,
) -> Result<(), Failure> {
    let path = target::session_path(id, "/limits", agent);
    let limits: SessionLimits = match asked(change) {
        Some(asked) => patch(&desk.daemon, &path, &asked).await?,
        None => desk.daemon.get(&path).await?,
    };
    let screen = &desk.screen;
    if screen.json {
        return screen.document(&limits);
    }
    if screen.quiet {
        return screen.line(limits.id.as_str());
    }
    screen.line(table(&[limits]))
}

/// Changes a runtime's resources.
pub(in crate::verb) async fn runtime(
    desk: &Desk,
    name: &str,
    change: &LimitFlags,
) -> Result<(), Failure> {
    let asked = asked(change).ok_or_else(|| {
        Failure::usage("say what to change: --memory, --cpus, --pids or --cpu-weight")
    })?;
    let path = format!(
        "/v1/runtimes/{}/resources",
        encode(target::plain_name(name))
    );
    let outcome: ResourcesChanged = patch(&desk.daemon, &path, &asked).await?;
    let screen = &desk.screen;
    if screen.json {
        screen.document(&outcome)?;
    } else if !screen.quiet {
        let (runtime, version) = (&outcome.runtime.name, outcome.runtime.version);
        screen.line(format!("{runtime} is at version {version}"))?;
        if !outcome.changed.is_empty() {
            screen.line(table(&outcome.changed))?;
        }
    }
    if outcome.unchanged.is_empty() {
        return Ok(());
    }
    let kept = outcome.unchanged.iter();
    let kept: Vec<String> = kept
        .map(|each| format!("{}: {}", each.id, each.reason))
        .collect();
    let what = format!("sessions that keep their limits: {}", kept.join("; "));
    Err(Failure::new(Exit::Conflict, what))
}

fn asked(change: &LimitFlags) -> Option<LimitsPatch> {
    let asked = LimitsPatch {
        memory: change.memory,
        cpus: change.cpus,
        pids: change.pids,
        cpu_weight: change.cpu_weight,
    };
    (asked != LimitsPatch::default()).then_some(asked)
}

async fn patch<T: DeserializeOwned>(
    daemon: &Daemon,
    path: &str,
    asked: &LimitsPatch,
) -> Result<T, DaemonError> {
    let body = serde_json::to_vec(asked).expect("our types have string keys");
    let mut request = daemon.request(Method::PATCH, path, full(body));
    json(&mut request);
    let answer = daemon.call(request).await?;
    daemon.document(Method::PATCH, path, answer).await
}

fn table(all: &[SessionLimits]) -> String {
    let mut table = Table::new([
        "SESSION", "MEMORY", "IN USE", "CPUS", "WEIGHT", "PIDS", "IN USE",
    ]);
    let or_none = |limit: Option<String>| limit.unwrap_or_else(|| "none".to_owned());
    for each in all {
        table.row([
            each.id.to_string(),
            or_none(each.memory.map(|memory| bytes(memory.0))),
            bytes(each.usage.memory_bytes),
            or_none(each.cpus.map(|cpus| cpus.cpus().to_string())),
            each.cpu_weight
                .map_or_else(|| "-".to_owned(), |weight| weight.to_string()),
            or_none(each.pids.map(|pids| pids.to_string())),
            each.usage.pids.to_string(),
        ]);
    }
    table.text()
}
