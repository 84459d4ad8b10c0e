//! `agentcore task list|get|wait|result|cancel|logs|secret`.
//!
//! For: what is asked about tasks once. Following one to its outcome, over restarts of the daemon, is `follow`.

use super::Desk;
use super::invoke::answer;
use crate::args::TaskVerb;
use crate::daemon::{DaemonError, empty, encode};
use crate::failure::Failure;
use crate::table::{Table, age};
use crate::target;
use hyper::Method;
use proto::api::{CallbackSecret, Page, Task, TaskStatus};
use proto::ids::TaskId;
use std::time::SystemTime;

mod follow;
mod logs;
mod report;
mod wait;

/// Does what the verb says.
pub(super) async fn run(desk: &Desk, verb: &TaskVerb) -> Result<(), Failure> {
    match verb {
        TaskVerb::List {
            agent,
            status,
            session,
            limit,
        } => {
            let filter = filter(agent.as_deref(), *status, session.as_deref());
            list(desk, &filter, *limit).await
        }
        TaskVerb::Get { task } => get(desk, task).await,
        TaskVerb::Wait { task, timeout } => wait::run(desk, task, *timeout).await,
        TaskVerb::Result { task, follow } => result(desk, task, *follow).await,
        TaskVerb::Cancel { tasks } => cancel(desk, tasks).await,
        TaskVerb::Logs { task, follow } => logs::run(desk, task, *follow).await,
        TaskVerb::Secret { target } => secret(desk, target.agent.as_deref()).await,
    }
}

fn path(task: &TaskId, tail: &str) -> String {
    format!("/v1/tasks/{task}{tail}")
}

async fn task(desk: &Desk, id: &TaskId) -> Result<Task, DaemonError> {
    desk.daemon.get(&path(id, "")).await
}

fn filter(agent: Option<&str>, status: Option<TaskStatus>, session: Option<&str>) -> String {
    let mut query = String::new();
    let mut only = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", encode(value)));
        }
    };
    only("runtime", agent.map(target::plain_name));
    only("status", status.map(TaskStatus::as_str));
    only("session", session);
    query
}

/// The newest tasks. Not all: a daemon keeps tens of thousands of them.
async fn list(desk: &Desk, filter: &str, limit: usize) -> Result<(), Failure> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let mut tasks: Vec<Task> = Vec::new();
    let mut next: Option<String> = None;
    let more = loop {
        let wanted = (limit - tasks.len()).min(1000);
        let token = next.take().map_or_else(String::new, |token| {
            format!("&nextToken={}", encode(&token))
        });
        let path = format!("/v1/tasks?maxResults={wanted}{filter}{token}");
        let page: Page<Task> = desk.daemon.get(&path).await?;
        tasks.extend(page.items);
        next = page.next_token;
        if next.is_none() || tasks.len() >= limit {
            break next.is_some();
        }
    };
    let screen = &desk.screen;
    if screen.json {
        return screen.document(&tasks);
    }
    if screen.quiet {
        return tasks
            .iter()
            .try_for_each(|each| screen.line(each.task_id.as_str()));
    }
    screen.line(table(desk, &tasks))?;
    if more {
        screen.note("there are more: -n NUMBER, or -n 0 for all");
    }
    Ok(())
}

fn table(desk: &Desk, tasks: &[Task]) -> String {
    let now = SystemTime::now();
    let mut table = Table::new(["ID", "RUNTIME", "STATUS", "AGE", "ATTEMPTS", "PROGRESS"]);
    for each in tasks {
        table.row([
            each.task_id.to_string(),
            each.runtime.to_string(),
            each.status.as_str().to_owned(),
            age(&each.created_at, now),
            each.attempts.to_string(),
            desk.screen.foreign(&report::brief(each)).into_owned(),
        ]);
    }
    table.text()
}

async fn get(desk: &Desk, id: &TaskId) -> Result<(), Failure> {
    let task = task(desk, id).await?;
    if desk.screen.quiet {
        return desk.screen.line(task.task_id.as_str());
    }
    desk.screen.document(&task)
}

/// Prints the answer as `invoke` prints one.
async fn result(desk: &Desk, id: &TaskId, follow: bool) -> Result<(), Failure> {
    let path = path(
        id,
        if follow {
            "/result?follow=true"
        } else {
            "/result"
        },
    );
    let answer = desk
        .daemon
        .call(desk.daemon.request(Method::GET, &path, empty()))
        .await?;
    // Looked up after the answer: what is asked for first is what may be refused.
    let task = task(desk, id).await?;
    let session = Some(task.session_id.to_string());
    answer::print(desk, false, task.runtime.as_str(), session, answer).await
}

async fn cancel(desk: &Desk, ids: &[TaskId]) -> Result<(), Failure> {
    let screen = &desk.screen;
    let mut cancelled = Vec::new();
    let mut worst: Option<Failure> = None;
    for id in ids {
        let path = path(id, "/cancel");
        let request = desk.daemon.request(Method::POST, &path, empty());
        let outcome = match desk.daemon.call(request).await {
            Ok(answer) => {
                desk.daemon
                    .document::<Task>(Method::POST, &path, answer)
                    .await
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(task) => cancelled.push(task),
            Err(error) => {
                let mut failure = Failure::from(error);
                failure.what = format!("cannot cancel {id}: {}", failure.what);
                if let Some(previous) = worst.replace(failure) {
                    screen.failure(&previous);
                }
            }
        }
    }
    if screen.json {
        screen.document(&cancelled)?;
    } else {
        for task in &cancelled {
            if screen.quiet {
                screen.line(task.task_id.as_str())?;
            } else if task.status.is_final() {
                screen.line(format!("{}: {}", task.task_id, task.status.as_str()))?;
            } else {
                screen.line(format!("{}: is being cancelled", task.task_id))?;
            }
        }
    }
    worst.map_or(Ok(()), Err)
}

async fn secret(desk: &Desk, agent: Option<&str>) -> Result<(), Failure> {
    let runtime = target::runtime(&desk.daemon, agent).await?;
    let name = encode(target::plain_name(&runtime));
    let path = format!("/v1/runtimes/{name}/callback-secret");
    let secret: CallbackSecret = desk.daemon.get(&path).await?;
    if desk.screen.json {
        return desk.screen.document(&secret);
    }
    desk.screen.line(&secret.secret)
}
