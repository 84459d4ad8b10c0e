//! What there is of tasks: for a daemon that starts, for whoever runs them, and for whoever forgets them in time.

use super::super::worker::Durability;
use super::super::{Store, StoreError, Timestamp};
use super::status;
use proto::api::TaskStatus;
use proto::ids::{RuntimeId, SessionId, TaskId};
use rusqlite::params;
use std::collections::HashSet;

/// A task without an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Which.
    pub seq: i64,
    /// Where it is.
    pub status: TaskStatus,
    /// Its runtime.
    pub runtime: RuntimeId,
    /// It does not begin before.
    pub not_before: Timestamp,
    /// When it is over, done or not.
    pub deadline_at: Timestamp,
}

/// What a caller has here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The caller ([`crate::owner::Owner::key`]).
    pub owner: String,
    /// Its tasks.
    pub tasks: u64,
    /// Those without an outcome.
    pub unfinished: u64,
    /// Bytes of payloads and answers.
    pub bytes: u64,
}

/// A task that is not there any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// Its id, which its files are named after.
    pub id: TaskId,
    /// The caller ([`crate::owner::Owner::key`]).
    pub owner: String,
    /// Bytes of its answer.
    pub bytes: u64,
    /// Whether the answer was in a file.
    pub filed: bool,
}

impl Store {
    /// Tasks without an outcome that were submitted after the one of this number, in order, at most `limit`.
    pub async fn unfinished_tasks(
        &self,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Unfinished>, StoreError> {
        self.read(move |db| {
            let mut statement = db.prepare_cached(
                "SELECT seq, status, runtime_id, not_before, deadline_at FROM tasks
                 WHERE seq > ?1 AND status < 3 ORDER BY seq LIMIT ?2",
            )?;
            let rows = statement.query_map(params![after, limit], |row| {
                let runtime: String = row.get(2)?;
                Ok((row.get(0)?, row.get(1)?, runtime, row.get(3)?, row.get(4)?))
            })?;
            let mut found = Vec::new();
            for row in rows {
                let (seq, number, runtime, not_before, deadline_at) = row?;
                // Rows that are damaged are not run.
                if let (Some(status), Ok(runtime)) = (status(number), RuntimeId::parse(runtime)) {
                    found.push(Unfinished {
                        seq,
                        status,
                        runtime,
                        not_before,
                        deadline_at,
                    });
                }
            }
            Ok(found)
        })
        .await
    }

    /// Live sessions that were made for a task which has its outcome.
    pub async fn sessions_of_tasks_that_are_over(&self) -> Result<Vec<SessionId>, StoreError> {
        self.read(|db| {
            // A daemon that died while it obtained one has not noted it with the task: it is known by its id, the task's alone.
            let ids = db
                .prepare(
                    "SELECT s.id FROM sessions s JOIN tasks t ON t.client_id = s.client_id AND t.own_session AND t.status >= 3
                     WHERE s.ended_at IS NULL",
                )?
                .query_map([], |row| row.get::<_, String>(0))?
                .collect::<Result<Vec<_>, _>>()?;
            Ok(ids
                .into_iter()
                .filter_map(|id| SessionId::parse(id).ok())
                .collect())
        })
        .await
    }

    /// What every caller has here. Reads the whole table: once, at start.
    pub async fn tasks_by_owner(&self) -> Result<Vec<Known>, StoreError> {
        self.read(|db| {
            let mut statement = db.prepare(
                "SELECT owner, count(*), sum(status < 3), sum(result_bytes + iif(status < 3, payload_bytes, 0))
                 FROM tasks GROUP BY owner",
            )?;
            let rows = statement.query_map([], |row| {
                Ok(Known {
                    owner: row.get(0)?,
                    tasks: row.get::<_, i64>(1)?.cast_unsigned(),
                    unfinished: row.get::<_, i64>(2)?.cast_unsigned(),
                    bytes: row.get::<_, i64>(3)?.cast_unsigned(),
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Ids of tasks that have files.
    pub async fn tasks_with_files(&self) -> Result<HashSet<String>, StoreError> {
        self.read(|db| {
            let ids = db
                .prepare("SELECT id FROM tasks WHERE payload_filed OR result_filed")?
                .query_map([], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            Ok(ids)
        })
        .await
    }

    /// Forgets tasks whose time is over, at most `limit` of them; a callback that is under way is waited for.
    pub async fn forget_tasks(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Expired>, StoreError> {
        self.write(Durability::Durable, move |db| {
            let mut statement = db.prepare_cached(
                "DELETE FROM tasks WHERE seq IN
                     (SELECT seq FROM tasks WHERE expires_at <= ?1 AND callback_state <> 1 ORDER BY expires_at LIMIT ?2)
                 RETURNING id, owner, result_bytes, result_filed",
            )?;
            let rows = statement.query_map(params![now, limit], |row| {
                let id: String = row.get(0)?;
                Ok((id, row.get(1)?, row.get::<_, i64>(2)?, row.get(3)?))
            })?;
            let mut expired = Vec::new();
            for row in rows {
                let (id, owner, bytes, filed) = row?;
                if let Ok(id) = TaskId::parse(id) {
                    expired.push(Expired {
                        id,
                        owner,
                        bytes: bytes.cast_unsigned(),
                        filed,
                    });
                }
            }
            Ok(expired)
        })
        .await
    }
}
