//! A task's first moment: on disk, or not at all.

use super::super::worker::Durability;
use super::super::{Store, StoreError, Timestamp};
use super::row::{COLUMNS, Inline, TaskKind, TaskRow, from_row};
use crate::owner::Owner;
use proto::api::TaskStatus;
use proto::ids::{ClientSessionId, EndpointName, RuntimeId, RuntimeName, TaskId};
use rusqlite::{Connection, params};
use std::time::Duration;

/// A task to be.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// Its id.
    pub id: TaskId,
    /// What it is to its caller.
    pub kind: TaskKind,
    /// Its runtime's name.
    pub runtime: RuntimeName,
    /// Its runtime.
    pub runtime_id: RuntimeId,
    /// Through which endpoint.
    pub endpoint: EndpointName,
    /// The session that it runs in.
    pub client_id: ClientSessionId,
    /// Whether that was made up for it.
    pub own_session: bool,
    /// Whose it is.
    pub owner: Owner,
    /// The caller's key, if it gave one.
    pub once: Option<String>,
    /// Of everything that a caller says: the same key with another one is another task.
    pub digest: [u8; 32],
    /// Headers for the agent.
    pub headers: Vec<(String, String)>,
    /// Bytes of the payload.
    pub payload_bytes: u64,
    /// The payload: here, or in a file that is on disk already.
    pub payload: Inline,
    /// Retries that it may have.
    pub retries: u32,
    /// Before the first of them.
    pub backoff: Duration,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When it is over, done or not.
    pub deadline_at: Timestamp,
    /// Who is told of its outcome.
    pub callback: Option<String>,
}

/// What came of a submission.
#[derive(Debug, Clone)]
pub enum Submitted {
    /// It is on disk, with this number.
    New(i64),
    /// Its caller submitted it before.
    Before(Box<TaskRow>),
}

impl Store {
    /// Writes a task down: durable when this answers. [`StoreError::Conflict`] if its caller's key was used for another one.
    ///
    /// A stream's begins as STARTING: its caller is there, and nobody else takes it up.
    pub async fn submit_task(&self, new: NewTask) -> Result<Submitted, StoreError> {
        self.write_new(Durability::Durable, move |db| insert(db, &new))
            .await
    }
}

fn insert(db: &Connection, new: &NewTask) -> Result<Submitted, StoreError> {
    let owner = new.owner.key();
    let headers = serde_json::to_string(&new.headers).unwrap_or_else(|_| "[]".to_owned());
    let (kind, status) = match new.kind {
        TaskKind::Task => (0, TaskStatus::Queued),
        TaskKind::Stream => (1, TaskStatus::Starting),
    };
    let inserted = db
        .prepare_cached(
            "INSERT INTO tasks (id, kind, status, runtime, runtime_id, endpoint, client_id, own_session, owner, once, digest,
                 headers, payload_bytes, payload_filed, retries, backoff_ms, not_before, created_at, deadline_at, callback)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?17, ?18, ?19)",
        )?
        .insert(params![
            new.id.as_str(),
            kind,
            super::number(status),
            new.runtime.as_str(),
            new.runtime_id.as_str(),
            new.endpoint.as_str(),
            new.client_id.as_str(),
            new.own_session,
            owner,
            new.once,
            new.digest.as_slice(),
            headers,
            new.payload_bytes.cast_signed(),
            matches!(new.payload, Inline::Filed),
            new.retries,
            i64::try_from(new.backoff.as_millis()).unwrap_or(i64::MAX),
            new.created_at,
            new.deadline_at,
            new.callback,
        ]);
    let seq = match (inserted, &new.once) {
        (Ok(seq), _) => seq,
        (Err(error), Some(once)) if is_unique(&error) => return before(db, &owner, new, once),
        (Err(error), _) => return Err(error.into()),
    };
    if let Inline::Here(body) = &new.payload
        && !body.is_empty()
    {
        db.prepare_cached("INSERT INTO task_payloads (task, body) VALUES (?1, ?2)")?
            .execute(params![seq, body.as_ref()])?;
    }
    Ok(Submitted::New(seq))
}

fn is_unique(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    code == Some(rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE)
}

/// The task that was submitted with this key.
fn before(
    db: &Connection,
    owner: &str,
    new: &NewTask,
    once: &str,
) -> Result<Submitted, StoreError> {
    let (digest, row) = db
        .prepare_cached(&format!(
            "SELECT {COLUMNS}, digest FROM tasks WHERE owner = ?1 AND runtime_id = ?2 AND once = ?3"
        ))?
        .query_row(params![owner, new.runtime_id.as_str(), once], |row| {
            Ok((row.get::<_, Vec<u8>>("digest")?, from_row(row)?))
        })?;
    if digest != new.digest {
        return Err(StoreError::Conflict(format!(
            "this Idempotency-Key was used for task {}, which has another payload or other parameters; a new task has a new key",
            row.id
        )));
    }
    Ok(Submitted::Before(Box::new(row)))
}
