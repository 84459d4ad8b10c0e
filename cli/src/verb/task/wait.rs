//! `agentcore task wait`: its progress on standard error, its answer on standard output, its outcome as the exit code.

use super::super::Desk;
use super::super::invoke::answer;
use super::follow::{Follower, Heard};
use super::{path, report};
use crate::daemon::{DaemonError, empty};
use crate::failure::{Exit, Failure};
use crate::screen::Progress;
use http_body_util::{BodyExt, Limited};
use hyper::Method;
use proto::api::{Task, TaskEventKind, TaskStatus};
use proto::ids::TaskId;
use serde_json::{Value, json};
use std::time::Duration;

/// Largest answer that `--json` puts into its document.
const MAX_HELD: usize = 100_000_000;

/// Waits for the outcome.
pub(super) async fn run(
    desk: &Desk,
    id: &TaskId,
    timeout: Option<Duration>,
) -> Result<(), Failure> {
    let task = match timeout {
        None => followed(desk, id).await?,
        Some(limit) => tokio::time::timeout(limit, followed(desk, id))
            .await
            .unwrap_or_else(|_| Err(late(id, limit)))?,
    };
    if desk.screen.json {
        document(desk, &task).await?;
    } else if task.status == TaskStatus::Succeeded {
        print(desk, &task).await?;
    }
    outcome(&task)
}

async fn followed(desk: &Desk, id: &TaskId) -> Result<Task, Failure> {
    let mut progress = desk.screen.progress(format!("task {id}"));
    let outcome = Follower::new(desk, id).outcome(|heard| show(&mut progress, heard));
    outcome.await
}

fn show(progress: &mut Progress<'_>, heard: Heard) {
    match heard {
        Heard::Away => progress.report(None, "the daemon is away; waiting for it"),
        Heard::Event(event) => match event.kind {
            TaskEventKind::Status { status, reason } => {
                let mut words = status.as_str().to_owned();
                if event.attempt > 1 {
                    words.push_str(&format!(" (attempt {})", event.attempt));
                }
                if let Some(reason) = reason {
                    words.push_str(&format!(": {reason}"));
                }
                progress.report(None, &words);
            }
            TaskEventKind::Progress { progress: record } => {
                progress.report(report::fraction(&record), &report::words(&record));
            }
        },
    }
}

fn late(id: &TaskId, limit: Duration) -> Failure {
    let what = format!(
        "task {id} has no outcome within {} s; it goes on",
        limit.as_secs_f64()
    );
    Failure::new(Exit::TimedOut, what).advice(format!(
        "`agentcore task wait {id}` waits on, `agentcore task cancel {id}` ends it"
    ))
}

/// The exit code of an outcome.
fn outcome(task: &Task) -> Result<(), Failure> {
    let exit = match task.status {
        TaskStatus::Succeeded => return Ok(()),
        TaskStatus::TimedOut => Exit::TimedOut,
        TaskStatus::Queued
        | TaskStatus::Starting
        | TaskStatus::Running
        | TaskStatus::Failed
        | TaskStatus::Cancelled
        | TaskStatus::Lost => Exit::Failed,
    };
    let mut what = format!("task {}: {}", task.task_id, task.status.as_str());
    if let Some(reason) = &task.reason {
        what.push_str(&format!(": {reason}"));
    }
    let failure = Failure::new(exit, what);
    Err(match task.status {
        TaskStatus::Cancelled => failure,
        _ => failure.advice(format!(
            "what its session wrote meanwhile: `agentcore task logs {}`",
            task.task_id
        )),
    })
}

async fn fetched(
    desk: &Desk,
    task: &Task,
) -> Result<hyper::Response<hyper::body::Incoming>, DaemonError> {
    let path = path(&task.task_id, "/result");
    desk.daemon
        .call(desk.daemon.request(Method::GET, &path, empty()))
        .await
}

async fn print(desk: &Desk, task: &Task) -> Result<(), Failure> {
    let answer = fetched(desk, task).await?;
    let session = Some(task.session_id.to_string());
    answer::print(desk, false, task.runtime.as_str(), session, answer).await
}

/// The task with its answer, if it has a whole one, as `response`.
async fn document(desk: &Desk, task: &Task) -> Result<(), Failure> {
    let mut document = json!(task);
    if task.result.as_ref().is_some_and(|result| result.complete) {
        let answer = fetched(desk, task).await?;
        let held = Limited::new(answer.into_body(), MAX_HELD).collect().await;
        let held = held.map_err(|error| {
            Failure::new(Exit::Failed, format!("the answer was cut off: {error}")).advice(format!(
                "`agentcore task result {}` prints what there is",
                task.task_id
            ))
        })?;
        let held = held.to_bytes();
        document["response"] = serde_json::from_slice::<Value>(&held)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&held).into_owned()));
    }
    desk.screen.document(&document)
}
