//! Ends of tasks that nobody runs: cancelled in the queue, overdue there, of a runtime that was deleted, or found by a new daemon
//! where an earlier one left them.

use super::answer::{Answer, blocking};
use super::run::machine;
use super::{Tasks, release, written};
use crate::broker::Broker;
use crate::store::{Head, Inline, Over, StoreError, TaskKind, TaskRow, Waits};
use proto::api::TaskStatus;
use proto::ids::{RuntimeId, TaskId};
use session_core::task::{Event, State};
use std::sync::Arc;
use std::time::Duration;

/// Why a task is TIMED_OUT that never began.
pub(super) const TOO_LATE: &str = "its deadline was over before its turn came";

/// Why a task is TIMED_OUT that did.
pub(super) const NOT_DONE: &str = "it was not done at its deadline";

/// Why a task is CANCELLED whose runtime is gone.
pub(super) const DELETED: &str = "its runtime was deleted";

/// Why a task is LOST.
const INTERRUPTED: &str = "the daemon or the host was interrupted while the agent worked on it; what came of it is not known, and it is not repeated, because its submitter did not say that it may be (retries)";

/// Why an attempt was the last but one.
const INTERRUPTED_AGAIN: &str =
    "the daemon or the host was interrupted while the agent worked on it";

/// How long a cancellation is waited for before its caller is told that it is under way.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends a task, wherever it is. The task as it is then: with its outcome, which may be another one that came first, unless its
/// end takes longer than some seconds.
pub async fn cancel(broker: &Arc<Broker>, id: &TaskId, why: &str) -> Result<TaskRow, StoreError> {
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut happens = broker.tasks.watch(broker.store.task(id).await?.seq);
    loop {
        happens.mark_unchanged();
        let row = broker.store.task(id).await?;
        if row.status.is_final() {
            return Ok(row);
        }
        if let Some(running) = broker.tasks.find(row.seq) {
            running.cancel(why);
        } else {
            let over = match row.status {
                TaskStatus::Queued => {
                    broker.tasks.state().queue.remove(row.seq);
                    over(broker, &row, Event::Cancel, why).await?
                }
                TaskStatus::Running => match broker.tasks.take_frozen(row.seq) {
                    // What its session has kept is nobody's when that wakes.
                    Some(row) => {
                        let done = over(broker, &row, Event::Cancel, why).await;
                        if done.is_err() {
                            // It sleeps on.
                            broker.tasks.state().frozen.push(row);
                        }
                        done?
                    }
                    None => false,
                },
                // It changes hands.
                _ => false,
            };
            if over {
                continue;
            }
        }
        // Its owner may have been between two looks: it is asked again, whether or not something was heard.
        let look = (tokio::time::Instant::now() + Duration::from_millis(100)).min(until);
        let _ = tokio::time::timeout_at(look, happens.changed()).await;
        if tokio::time::Instant::now() >= until {
            return broker.store.task(id).await;
        }
    }
}

/// The tasks of a runtime that is no more are over; those that run end with their sessions.
pub fn runtime_deleted(broker: &Arc<Broker>, runtime: RuntimeId) {
    let broker = Arc::clone(broker);
    tokio::spawn(async move {
        let theirs = broker.tasks.state().queue.of_runtime(&runtime);
        for seq in theirs {
            queued(&broker, seq, Event::Cancel, DELETED).await;
        }
    });
}

/// Ends one that was taken out of the queue.
pub(super) async fn queued(broker: &Arc<Broker>, seq: i64, event: Event, why: &str) {
    let end = || async {
        match broker.store.task_at(seq).await? {
            // Somebody else was first.
            None => Ok(true),
            Some(row) if row.status != TaskStatus::Queued => Ok(true),
            Some(row) => over(broker, &row, event, why).await,
        }
    };
    written(broker, seq, end).await;
}

/// Ends a task that waits. False if it does not, any more.
async fn over(
    broker: &Arc<Broker>,
    row: &TaskRow,
    event: Event,
    why: &str,
) -> Result<bool, StoreError> {
    let mut task = machine::of(row);
    task.step(machine::now(), event);
    let over = Over {
        from: row.status,
        outcome: machine::status(task.state()),
        attempts: task.attempts(),
        reason: Some(why.to_owned()),
        head: None,
        bytes: 0,
        body: None,
        complete: false,
        keep: keep(broker, row),
    };
    let done = broker.store.task_over(row.seq, over).await?;
    if done {
        ended(broker, row, 0).await;
    }
    Ok(done)
}

/// Ends one whose deadline is over while its session sleeps.
pub(super) async fn late_asleep(broker: &Arc<Broker>, row: &TaskRow) {
    let end = || over(broker, row, Event::Deadline, NOT_DONE);
    written(broker, row.seq, end).await;
}

/// How long it is kept from now on.
pub(super) fn keep(broker: &Broker, row: &TaskRow) -> Duration {
    let bounds = broker.config().tasks;
    match row.kind {
        TaskKind::Task => bounds.keep,
        TaskKind::Stream => bounds.keep_streams,
    }
}

/// A task has its outcome, with an answer of so many bytes.
pub(super) async fn ended(broker: &Arc<Broker>, row: &TaskRow, bytes: u64) {
    broker.tasks.ended(row);
    release::session_of(broker, row);
    if row.payload_filed {
        Tasks::remove(broker.tasks.payload_path(&row.id)).await;
    }
    if bytes == 0 {
        Tasks::remove(broker.tasks.result_path(&row.id)).await;
    }
}

/// One whose run has come to grief.
pub(super) async fn orphan(broker: &Arc<Broker>, seq: i64) {
    if let Some(Some(row)) = written(broker, seq, || broker.store.task_at(seq)).await
        && !row.status.is_final()
        && row.status != TaskStatus::Queued
    {
        found(broker, row).await;
    }
}

/// One that an earlier daemon had begun: waits again if nothing was sent, else it is lost, or has a retry.
pub(super) async fn found(broker: &Arc<Broker>, row: TaskRow) {
    let mut task = machine::of(&row);
    let event = match (row.kind, row.status) {
        // Nobody waits for it, and nobody can: its caller never had its id.
        (TaskKind::Stream, TaskStatus::Starting) => Event::Cancel,
        _ => Event::Found { kept: false },
    };
    let mut now = machine::now();
    if now >= task.terms().deadline && row.status != TaskStatus::Running {
        now = task.terms().deadline;
        task.step(now, Event::Deadline);
    }
    task.step(now, event);
    let path = broker.tasks.result_path(&row.id);
    match task.state() {
        State::Queued { not_before } => {
            let waits = Waits {
                from: row.status,
                attempts: task.attempts(),
                retried: task.retried(),
                not_before: machine::civil(not_before),
                reason: (row.status == TaskStatus::Running).then(|| INTERRUPTED_AGAIN.to_owned()),
            };
            written(broker, row.seq, || {
                broker.store.task_waits(row.seq, waits.clone())
            })
            .await;
            broker.tasks.state().queue.push(
                row.seq,
                row.runtime_id.clone(),
                machine::civil(not_before),
                row.deadline_at,
                crate::store::Timestamp::now(),
            );
        }
        State::Ended(_) => {
            let head = row.result_status.map(|status| Head {
                status,
                content_type: row.result_type.clone(),
            });
            // What there is of its answer is kept, on disk.
            let bytes = match (&head, row.result_filed) {
                (Some(head), true) => rest(path, head.clone()).await,
                _ => None,
            };
            let reason = match (row.kind, row.status) {
                (TaskKind::Stream, TaskStatus::Starting) => {
                    "the daemon was interrupted before it was sent to the agent"
                }
                (_, TaskStatus::Running) => INTERRUPTED,
                _ => TOO_LATE,
            };
            let over = Over {
                from: row.status,
                outcome: machine::status(task.state()),
                attempts: task.attempts(),
                reason: Some(reason.to_owned()),
                head: head.filter(|_| bytes.is_some()),
                bytes: bytes.unwrap_or(0),
                body: bytes.map(|_| Inline::Filed),
                complete: false,
                keep: keep(broker, &row),
            };
            written(broker, row.seq, || {
                broker.store.task_over(row.seq, over.clone())
            })
            .await;
            if let Some(bytes) = bytes {
                broker.tasks.stored.found(&row.owner.principal, bytes);
            }
            ended(broker, &row, bytes.unwrap_or(0)).await;
        }
        State::Starting | State::Running => {}
    }
}

/// The bytes of an answer that was cut off, synced.
async fn rest(path: std::path::PathBuf, head: Head) -> Option<u64> {
    if !blocking({
        let path = path.clone();
        move || Ok(path.exists())
    })
    .await
    .unwrap_or(false)
    {
        return None;
    }
    let answer = Answer::again(path, head).await.ok()?;
    answer.settle().await.ok()?;
    Some(answer.told().bytes)
}
