//! Changes of a task's status, each with its event. All of them are durable: what an agent may have seen must not be forgotten
//! in a power cut, or it would be sent again.

use super::super::worker::Durability;
use super::super::{Store, StoreError, Timestamp};
use super::number;
use super::row::Inline;
use proto::api::TaskStatus;
use proto::ids::SessionId;
use rusqlite::{Connection, OptionalExtension, params};
use std::time::Duration;

/// Most bytes of a reason.
const MAX_REASON: usize = 4096;

/// Progress records of one task that are kept as events; the newest is the task's own too.
const KEPT_PROGRESS: u64 = 256;

/// An attempt that is about to be sent.
#[derive(Debug, Clone)]
pub struct Begun {
    /// Its number.
    pub attempt: u32,
    /// The session.
    pub session: SessionId,
    /// The invocation there.
    pub invocation: u64,
}

/// A task that is to wait.
#[derive(Debug, Clone)]
pub struct Waits {
    /// Where it was.
    pub from: TaskStatus,
    /// Attempts by now.
    pub attempts: u32,
    /// Retries by now.
    pub retried: u32,
    /// Until when.
    pub not_before: Timestamp,
    /// Why.
    pub reason: Option<String>,
}

/// The beginning of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The agent's status.
    pub status: u16,
    /// The agent's `Content-Type`.
    pub content_type: Option<String>,
}

/// A task's end.
#[derive(Debug, Clone)]
pub struct Over {
    /// Where it was.
    pub from: TaskStatus,
    /// Its outcome.
    pub outcome: TaskStatus,
    /// Attempts by now.
    pub attempts: u32,
    /// Why.
    pub reason: Option<String>,
    /// The answer's head, if there is one.
    pub head: Option<Head>,
    /// Bytes of the answer.
    pub bytes: u64,
    /// The answer, unless nothing of it is kept; one in a file is on disk already.
    pub body: Option<Inline>,
    /// Whether that is all of it.
    pub complete: bool,
    /// How long it is kept.
    pub keep: Duration,
}

impl Store {
    /// Its turn has come: QUEUED ▸ STARTING. False if it is not QUEUED any more.
    pub async fn task_starts(&self, seq: i64) -> Result<bool, StoreError> {
        self.write(Durability::Durable, move |db| {
            let now = Timestamp::now();
            let event = db
                .prepare_cached(
                    "UPDATE tasks SET status = 1, events = events + 1 WHERE seq = ?1 AND status = 0
                     RETURNING events, attempts",
                )?
                .query_row([seq], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            note(db, seq, now, event, TaskStatus::Starting, None)
        })
        .await
    }

    /// It has a session, and is about to be sent: STARTING ▸ RUNNING. False if it is not STARTING any more: then it is not to be.
    pub async fn task_runs(&self, seq: i64, begun: Begun) -> Result<bool, StoreError> {
        self.write(Durability::Durable, move |db| {
            let now = Timestamp::now();
            let event = db
                .prepare_cached(
                    "UPDATE tasks SET status = 2, attempts = ?2, session = ?3, invocation = ?4, attempt_at = ?5,
                         started_at = coalesce(started_at, ?5), reason = NULL, result_status = NULL, result_type = NULL,
                         result_bytes = 0, result_filed = 0, result_complete = 0, events = events + 1
                     WHERE seq = ?1 AND status = 1 RETURNING events, attempts",
                )?
                .query_row(
                    params![
                        seq,
                        begun.attempt,
                        begun.session.as_str(),
                        begun.invocation.cast_signed(),
                        now
                    ],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            note(db, seq, now, event, TaskStatus::Running, None)
        })
        .await
    }

    /// Its answer has begun, and goes to a file.
    pub async fn task_answers(&self, seq: i64, head: Head) -> Result<(), StoreError> {
        self.write(Durability::Durable, move |db| {
            db.prepare_cached(
                "UPDATE tasks SET result_status = ?2, result_type = ?3, result_filed = 1
                 WHERE seq = ?1 AND status = 2",
            )?
            .execute(params![seq, head.status, head.content_type])?;
            Ok(())
        })
        .await
    }

    /// It waits (again): STARTING or RUNNING ▸ QUEUED. False if it is not where it was any more.
    pub async fn task_waits(&self, seq: i64, waits: Waits) -> Result<bool, StoreError> {
        self.write(Durability::Durable, move |db| {
            let now = Timestamp::now();
            let reason = waits.reason.as_deref().map(cut);
            let event = db
                .prepare_cached(
                    "UPDATE tasks SET status = 0, attempts = ?3, retried = ?4, not_before = ?5, reason = ?6,
                         run_ms = run_ms + iif(status = 2, max(0, ?7 - attempt_at), 0), events = events + 1
                     WHERE seq = ?1 AND status = ?2 RETURNING events, attempts",
                )?
                .query_row(
                    params![
                        seq,
                        number(waits.from),
                        waits.attempts,
                        waits.retried,
                        waits.not_before,
                        reason,
                        now
                    ],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            note(db, seq, now, event, TaskStatus::Queued, reason)
        })
        .await
    }

    /// It has its outcome; with a callback, that is due in the same moment. False if it is not where it was any more: then
    /// nothing was changed.
    pub async fn task_over(&self, seq: i64, over: Over) -> Result<bool, StoreError> {
        self.write(Durability::Durable, move |db| end(db, seq, &over))
            .await
    }

    /// Its agent reported progress: the text of a JSON object. The event's id; `None` if the task does not run.
    pub async fn task_progressed(
        &self,
        seq: i64,
        progress: String,
    ) -> Result<Option<u64>, StoreError> {
        self.write(Durability::Durable, move |db| {
            let now = Timestamp::now();
            let event: Option<(i64, u32)> = db
                .prepare_cached(
                    "UPDATE tasks SET progress = ?2, progress_at = ?3, events = events + 1
                     WHERE seq = ?1 AND status = 2 RETURNING events, attempts",
                )?
                .query_row(params![seq, progress, now], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()?;
            let Some((id, attempt)) = event else {
                return Ok(None);
            };
            db.prepare_cached(
                "INSERT INTO task_events (task, id, at, attempt, body) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![seq, id, now, attempt, progress])?;
            let id = id.cast_unsigned();
            if let Some(oldest) = id.checked_sub(KEPT_PROGRESS) {
                db.prepare_cached(
                    "DELETE FROM task_events WHERE task = ?1 AND id < ?2 AND status IS NULL",
                )?
                .execute(params![seq, oldest.cast_signed()])?;
            }
            Ok(Some(id))
        })
        .await
    }
}

fn end(db: &Connection, seq: i64, over: &Over) -> Result<bool, StoreError> {
    let now = Timestamp::now();
    let reason = over.reason.as_deref().map(cut);
    let event = db
        .prepare_cached(
            "UPDATE tasks SET status = ?3, attempts = ?4, reason = ?5, finished_at = ?6, expires_at = ?7,
                 run_ms = run_ms + iif(status = 2, max(0, ?6 - attempt_at), 0), events = events + 1,
                 result_status = ?8, result_type = ?9, result_bytes = ?10, result_filed = ?11, result_complete = ?12,
                 payload_filed = 0, callback_state = iif(callback IS NULL, 0, 1), callback_at = iif(callback IS NULL, NULL, ?6)
             WHERE seq = ?1 AND status = ?2 RETURNING events, attempts",
        )?
        .query_row(
            params![
                seq,
                number(over.from),
                number(over.outcome),
                over.attempts,
                reason,
                now,
                now.after(over.keep),
                over.head.as_ref().map(|head| head.status),
                over.head.as_ref().and_then(|head| head.content_type.as_deref()),
                over.bytes.cast_signed(),
                matches!(over.body, Some(Inline::Filed)),
                over.complete,
            ],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    if event.is_some() {
        // Nothing sends it again.
        db.prepare_cached("DELETE FROM task_payloads WHERE task = ?1")?
            .execute([seq])?;
        if let Some(Inline::Here(body)) = &over.body {
            db.prepare_cached("INSERT INTO task_results (task, body) VALUES (?1, ?2)")?
                .execute(params![seq, body.as_ref()])?;
        }
    }
    note(db, seq, now, event, over.outcome, reason)
}

/// Writes the event of a change; false if there was none.
fn note(
    db: &Connection,
    seq: i64,
    now: Timestamp,
    event: Option<(i64, u32)>,
    status: TaskStatus,
    reason: Option<&str>,
) -> Result<bool, StoreError> {
    let Some((id, attempt)) = event else {
        return Ok(false);
    };
    db.prepare_cached(
        "INSERT INTO task_events (task, id, at, attempt, status, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![seq, id, now, attempt, number(status), reason])?;
    Ok(true)
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_REASON);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}
