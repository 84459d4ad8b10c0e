//! `agentcore runtime list|inspect|versions|rollback|delete`.

use super::Desk;
use crate::args::RuntimeVerb;
use crate::daemon::encode;
use crate::failure::{Exit, Failure};
use crate::prompt::confirm;
use crate::table::{Table, age};
use crate::target::plain_name;
use proto::api::{PutRuntime, Runtime, Version};
use serde_json::json;
use std::time::SystemTime;

/// Does what the verb says.
pub(super) async fn run(desk: &Desk, verb: &RuntimeVerb) -> Result<(), Failure> {
    match verb {
        RuntimeVerb::List => list(desk).await,
        RuntimeVerb::Inspect { name } => inspect(desk, name).await,
        RuntimeVerb::Versions { name } => versions(desk, name).await,
        RuntimeVerb::Rollback { name, to } => rollback(desk, name, *to).await,
        RuntimeVerb::Limits { name, change } => {
            super::session::limits::runtime(desk, name, change).await
        }
        RuntimeVerb::Delete { name, yes } => delete(desk, name, *yes).await,
    }
}

async fn list(desk: &Desk) -> Result<(), Failure> {
    let screen = &desk.screen;
    let runtimes: Vec<Runtime> = desk.daemon.list("/v1/runtimes").await?;
    if screen.json {
        return screen.document(&runtimes);
    }
    if screen.quiet {
        return runtimes
            .iter()
            .try_for_each(|each| screen.line(each.name.as_str()));
    }
    let now = SystemTime::now();
    let mut table = Table::new(["NAME", "VERSION", "STATUS", "SESSIONS", "UPDATED", "ID"]);
    for each in &runtimes {
        table.row([
            each.name.to_string(),
            each.version.to_string(),
            each.status.clone(),
            each.sessions.to_string(),
            age(&each.updated_at, now),
            each.runtime_id.to_string(),
        ]);
    }
    screen.line(table.text())
}

/// The whole record: JSON is its readable form too, as with `docker inspect`.
async fn inspect(desk: &Desk, name: &str) -> Result<(), Failure> {
    let runtime: Runtime = desk.daemon.get(&path(name)).await?;
    if desk.screen.quiet {
        return desk.screen.line(runtime.runtime_id.as_str());
    }
    desk.screen.document(&runtime)
}

async fn versions(desk: &Desk, name: &str) -> Result<(), Failure> {
    let screen = &desk.screen;
    let versions: Vec<Version> = desk
        .daemon
        .list(&format!("{}/versions", path(name)))
        .await?;
    if screen.json {
        return screen.document(&versions);
    }
    if screen.quiet {
        return versions
            .iter()
            .try_for_each(|each| screen.line(each.version.to_string()));
    }
    let now = SystemTime::now();
    let mut table = Table::new(["VERSION", "CREATED", "ARTIFACT", "ENTRYPOINT"]);
    for each in &versions {
        table.row([
            each.version.to_string(),
            age(&each.created_at, now),
            each.artifact.as_str().chars().take(12).collect(),
            each.config.entrypoint.words().join(" "),
        ]);
    }
    screen.line(table.text())
}

/// As `kubectl rollout undo`: what served once is deployed again, under the next number, and what calls the runtime follows.
async fn rollback(desk: &Desk, name: &str, to: Option<u32>) -> Result<(), Failure> {
    let path = path(name);
    let number = match to {
        Some(number) => number,
        None => before_the_newest(desk, &path).await?,
    };
    let version: Version = desk
        .daemon
        .get(&format!("{path}/versions/{number}"))
        .await?;
    let body = PutRuntime {
        artifact: version.artifact,
        config: version.config,
    };
    let (_, runtime): (_, Runtime) = desk.daemon.put(&path, &body).await?;
    let runtime = super::launch::ready(desk, runtime, &path).await?;
    let screen = &desk.screen;
    if screen.json {
        return screen.document(&runtime);
    }
    if screen.quiet {
        return screen.line(runtime.version.to_string());
    }
    screen.line(format!(
        "{} version {} is {}, and is version {number} again",
        runtime.name, runtime.version, runtime.status
    ))
}

async fn before_the_newest(desk: &Desk, path: &str) -> Result<u32, Failure> {
    let versions: Vec<Version> = desk.daemon.list(&format!("{path}/versions")).await?;
    let mut numbers: Vec<u32> = versions.iter().map(|each| each.version.0).collect();
    numbers.sort_unstable();
    let before = numbers.len().checked_sub(2);
    let before = before.and_then(|at| numbers.get(at).copied());
    before.ok_or_else(|| {
        Failure::new(Exit::NotFound, "there is no version before the newest")
            .advice("`agentcore runtime versions` lists those that there are")
    })
}

/// Deletes after asking; `destroy` is the same by another name.
pub(super) async fn delete(desk: &Desk, name: &str, yes: bool) -> Result<(), Failure> {
    let (screen, path) = (&desk.screen, path(name));
    // Asking about something that is not there would be odd.
    let runtime: Runtime = desk.daemon.get(&path).await?;
    let question = match runtime.sessions {
        0 => format!("Delete the runtime {} with all its versions?", runtime.name),
        live => format!(
            "Delete the runtime {} with all its versions, and stop its {live} sessions?",
            runtime.name
        ),
    };
    confirm(screen, yes, &question)?;
    desk.daemon.delete(&path).await?;
    if screen.json {
        return screen.document(&json!({ "deleted": runtime.name }));
    }
    if screen.quiet {
        return screen.line(runtime.name.as_str());
    }
    screen.line(format!("Deleted {}", runtime.name))
}

fn path(name: &str) -> String {
    format!("/v1/runtimes/{}", encode(plain_name(name)))
}
