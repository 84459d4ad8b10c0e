//! A task as the store knows it.

use super::super::Timestamp;
use super::status;
use super::submit::NewTask;
use crate::owner::Owner;
use bytes::Bytes;
use proto::api::{CallbackState, Task, TaskCallback, TaskResult, TaskStatus, TaskUsage};
use proto::ids::{ClientSessionId, EndpointName, RuntimeId, RuntimeName, SessionId, TaskId};
use rusqlite::Row;
use rusqlite::types::Type;
use serde_json::Value;
use std::time::Duration;

/// What a task is to its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    /// Submitted, and not waited for.
    Task,
    /// An invocation whose caller was there from the start, and can come back (`?resumable=true`).
    Stream,
}

/// Bytes that are kept in the database, or in a file of the task's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inline {
    /// Here.
    Here(Bytes),
    /// In a file.
    Filed,
}

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRow {
    /// Order of submission.
    pub seq: i64,
    /// Its id.
    pub id: TaskId,
    /// What it is to its caller.
    pub kind: TaskKind,
    /// Where it is.
    pub status: TaskStatus,
    /// Its runtime's name when it was submitted.
    pub runtime: RuntimeName,
    /// Its runtime.
    pub runtime_id: RuntimeId,
    /// Through which endpoint.
    pub endpoint: EndpointName,
    /// The session that it runs in.
    pub client_id: ClientSessionId,
    /// Whether the session was made for it.
    pub own_session: bool,
    /// Whose it is.
    pub owner: Owner,
    /// Headers for the agent.
    pub headers: Vec<(String, String)>,
    /// Bytes of its payload.
    pub payload_bytes: u64,
    /// Whether the payload is in a file.
    pub payload_filed: bool,
    /// Retries that it may have.
    pub retries: u32,
    /// Before the first of them.
    pub backoff: Duration,
    /// Attempts that have begun.
    pub attempts: u32,
    /// Retries that were used.
    pub retried: u32,
    /// It does not begin before.
    pub not_before: Timestamp,
    /// Why it ended, or waits.
    pub reason: Option<String>,
    /// The daemon's name of the session of its newest attempt.
    pub session: Option<SessionId>,
    /// The invocation there.
    pub invocation: Option<u64>,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When its first attempt was sent.
    pub started_at: Option<Timestamp>,
    /// When its newest attempt was sent.
    pub attempt_at: Option<Timestamp>,
    /// When it had its outcome.
    pub finished_at: Option<Timestamp>,
    /// When it is over, done or not.
    pub deadline_at: Timestamp,
    /// When it is forgotten.
    pub expires_at: Option<Timestamp>,
    /// Milliseconds with agents.
    pub run_ms: u64,
    /// The last progress record: JSON of an object.
    pub progress: Option<String>,
    /// When it came.
    pub progress_at: Option<Timestamp>,
    /// Its last event.
    pub events: u64,
    /// The agent's status.
    pub result_status: Option<u16>,
    /// The agent's `Content-Type`.
    pub result_type: Option<String>,
    /// Bytes of its answer.
    pub result_bytes: u64,
    /// Whether its answer is in a file.
    pub result_filed: bool,
    /// Whether all of it is there.
    pub result_complete: bool,
    /// Who is told of the outcome.
    pub callback: Option<String>,
    /// How far that is.
    pub callback_state: CallbackState,
    /// Calls made.
    pub callback_attempts: u32,
    /// Why the last one failed.
    pub callback_error: Option<String>,
}

/// In the order in which [`from_row`] reads them.
pub(super) const COLUMNS: &str = "seq, id, kind, status, runtime, runtime_id, endpoint, client_id, own_session, owner,
    headers, payload_bytes, payload_filed, retries, backoff_ms, attempts, retried, not_before, reason, session,
    invocation, created_at, started_at, attempt_at, finished_at, deadline_at, expires_at, run_ms, progress, progress_at,
    events, result_status, result_type, result_bytes, result_filed, result_complete, callback, callback_state,
    callback_attempts, callback_error";

/// Reads a row that was selected with [`COLUMNS`].
pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<TaskRow> {
    Ok(TaskRow {
        seq: row.get(0)?,
        id: parsed(row, 1, |text| TaskId::parse(text).ok())?,
        kind: match row.get(2)? {
            0 => TaskKind::Task,
            1 => TaskKind::Stream,
            found => return Err(damaged(2, found)),
        },
        status: {
            let found = row.get(3)?;
            status(found).ok_or_else(|| damaged(3, found))?
        },
        runtime: parsed(row, 4, |text| RuntimeName::parse(text).ok())?,
        runtime_id: parsed(row, 5, |text| RuntimeId::parse(text).ok())?,
        endpoint: parsed(row, 6, |text| EndpointName::parse(text).ok())?,
        client_id: parsed(row, 7, |text| ClientSessionId::parse(text).ok())?,
        own_session: row.get(8)?,
        owner: parsed(row, 9, |text| Owner::from_key(&text))?,
        headers: parsed(row, 10, |text| serde_json::from_str(&text).ok())?,
        payload_bytes: unsigned(row, 11)?,
        payload_filed: row.get(12)?,
        retries: row.get(13)?,
        backoff: Duration::from_millis(unsigned(row, 14)?),
        attempts: row.get(15)?,
        retried: row.get(16)?,
        not_before: row.get(17)?,
        reason: row.get(18)?,
        session: match row.get::<_, Option<String>>(19)? {
            Some(_) => Some(parsed(row, 19, |text| SessionId::parse(text).ok())?),
            None => None,
        },
        invocation: row.get::<_, Option<i64>>(20)?.map(i64::cast_unsigned),
        created_at: row.get(21)?,
        started_at: row.get(22)?,
        attempt_at: row.get(23)?,
        finished_at: row.get(24)?,
        deadline_at: row.get(25)?,
        expires_at: row.get(26)?,
        run_ms: unsigned(row, 27)?,
        progress: row.get(28)?,
        progress_at: row.get(29)?,
        events: unsigned(row, 30)?,
        result_status: row.get(31)?,
        result_type: row.get(32)?,
        result_bytes: unsigned(row, 33)?,
        result_filed: row.get(34)?,
        result_complete: row.get(35)?,
        callback: row.get(36)?,
        callback_state: match row.get(37)? {
            0 => CallbackState::Waiting,
            1 => CallbackState::Due,
            2 => CallbackState::Delivered,
            3 => CallbackState::GivenUp,
            found => return Err(damaged(37, found)),
        },
        callback_attempts: row.get(38)?,
        callback_error: row.get(39)?,
    })
}

fn parsed<T>(
    row: &Row<'_>,
    column: usize,
    parse: impl FnOnce(String) -> Option<T>,
) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    parse(text).ok_or_else(|| {
        let fault = "is not what was written there";
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, fault.into())
    })
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

fn damaged(column: usize, found: i64) -> rusqlite::Error {
    rusqlite::Error::IntegralValueOutOfRange(column, found)
}

impl TaskRow {
    /// One that was just written down.
    #[must_use]
    pub fn fresh(seq: i64, new: &NewTask) -> Self {
        Self {
            seq,
            id: new.id.clone(),
            kind: new.kind,
            status: match new.kind {
                TaskKind::Task => TaskStatus::Queued,
                TaskKind::Stream => TaskStatus::Starting,
            },
            runtime: new.runtime.clone(),
            runtime_id: new.runtime_id.clone(),
            endpoint: new.endpoint.clone(),
            client_id: new.client_id.clone(),
            own_session: new.own_session,
            owner: new.owner.clone(),
            headers: new.headers.clone(),
            payload_bytes: new.payload_bytes,
            payload_filed: matches!(new.payload, Inline::Filed),
            retries: new.retries,
            backoff: new.backoff,
            attempts: 0,
            retried: 0,
            not_before: new.created_at,
            reason: None,
            session: None,
            invocation: None,
            created_at: new.created_at,
            started_at: None,
            attempt_at: None,
            finished_at: None,
            deadline_at: new.deadline_at,
            expires_at: None,
            run_ms: 0,
            progress: None,
            progress_at: None,
            events: 1,
            result_status: None,
            result_type: None,
            result_bytes: 0,
            result_filed: false,
            result_complete: false,
            callback: new.callback.clone(),
            callback_state: CallbackState::Waiting,
            callback_attempts: 0,
            callback_error: None,
        }
    }

    /// As the API shows it.
    #[must_use]
    pub fn to_api(&self) -> Task {
        let waits = self.status == TaskStatus::Queued && self.not_before > self.created_at;
        Task {
            task_id: self.id.clone(),
            runtime: self.runtime.clone(),
            qualifier: self.endpoint.clone(),
            status: self.status,
            reason: self.reason.clone(),
            session_id: self.client_id.clone(),
            session: self.session.clone(),
            owner: self.owner.principal.to_string(),
            user_id: self
                .owner
                .user
                .as_ref()
                .map(|user| user.as_str().to_owned()),
            attempts: self.attempts,
            retries: self.retries,
            next_attempt_at: waits.then(|| self.not_before.to_string()),
            progress: self
                .progress
                .as_deref()
                .and_then(|text| serde_json::from_str::<Value>(text).ok()),
            progress_at: self.progress_at.map(|at| at.to_string()),
            created_at: self.created_at.to_string(),
            started_at: self.started_at.map(|at| at.to_string()),
            finished_at: self.finished_at.map(|at| at.to_string()),
            deadline_at: self.deadline_at.to_string(),
            expires_at: self.expires_at.map(|at| at.to_string()),
            usage: TaskUsage {
                run_ms: self.run_ms,
                bytes_in: self.payload_bytes,
                bytes_out: self.result_bytes,
            },
            result: self.result_status.map(|status| TaskResult {
                status,
                content_type: self.result_type.clone(),
                bytes: self.result_bytes,
                complete: self.result_complete,
            }),
            callback: self.callback.as_ref().map(|url| TaskCallback {
                url: url.clone(),
                state: self.callback_state,
                attempts: self.callback_attempts,
                error: self.callback_error.clone(),
            }),
        }
    }
}
