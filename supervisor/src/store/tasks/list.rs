//! Looking tasks up.

use super::super::{PageRequest, Store, StoreError};
use super::number;
use super::row::{COLUMNS, TaskRow, from_row};
use bytes::Bytes;
use proto::api::{Page, TaskStatus};
use proto::ids::{ClientSessionId, RuntimeName, TaskId};
use rusqlite::types::Value;
use rusqlite::{OptionalExtension, params_from_iter};
use std::fmt::Write as _;

/// Which tasks to list. Every part that is given must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// Of this runtime.
    pub runtime: Option<RuntimeName>,
    /// In this session of the caller's.
    pub session: Option<ClientSessionId>,
    /// In one of these statuses; empty is any.
    pub statuses: Vec<TaskStatus>,
}

impl Store {
    /// A task by its id.
    pub async fn task(&self, id: &TaskId) -> Result<TaskRow, StoreError> {
        let id = id.clone();
        self.read(move |db| {
            db.prepare_cached(&format!("SELECT {COLUMNS} FROM tasks WHERE id = ?1"))?
                .query_row([id.as_str()], from_row)
                .optional()?
                .ok_or_else(|| StoreError::NotFound(format!("task {id}")))
        })
        .await
    }

    /// A task by its number, if it is still there.
    pub async fn task_at(&self, seq: i64) -> Result<Option<TaskRow>, StoreError> {
        self.read(move |db| {
            db.prepare_cached(&format!("SELECT {COLUMNS} FROM tasks WHERE seq = ?1"))?
                .query_row([seq], from_row)
                .optional()
                .map_err(StoreError::from)
        })
        .await
    }

    /// A task's payload that is not in a file.
    pub async fn task_payload(&self, seq: i64) -> Result<Bytes, StoreError> {
        self.read(move |db| {
            let body: Option<Vec<u8>> = db
                .prepare_cached("SELECT body FROM task_payloads WHERE task = ?1")?
                .query_row([seq], |row| row.get(0))
                .optional()?;
            Ok(body.unwrap_or_default().into())
        })
        .await
    }

    /// A task's answer that is not in a file.
    pub async fn task_result(&self, seq: i64) -> Result<Bytes, StoreError> {
        self.read(move |db| {
            let body: Option<Vec<u8>> = db
                .prepare_cached("SELECT body FROM task_results WHERE task = ?1")?
                .query_row([seq], |row| row.get(0))
                .optional()?;
            Ok(body.unwrap_or_default().into())
        })
        .await
    }

    /// Tasks, the newest first.
    pub async fn tasks(
        &self,
        request: PageRequest,
        filter: TaskFilter,
    ) -> Result<Page<TaskRow>, StoreError> {
        self.read(move |db| {
            let after: Option<i64> = request.after()?;
            let mut values = vec![
                Value::Integer(after.unwrap_or(i64::MAX)),
                Value::Integer(request.limit()),
            ];
            let mut query = format!("SELECT {COLUMNS} FROM tasks WHERE seq < ?1");
            let by_text = [
                ("runtime", filter.runtime.as_ref().map(|name| name.as_str())),
                ("client_id", filter.session.as_ref().map(|id| id.as_str())),
            ];
            for (column, text) in by_text {
                if let Some(text) = text {
                    values.push(Value::Text(text.to_owned()));
                    let _ = write!(query, " AND {column} = ?{}", values.len());
                }
            }
            let mut wanted: Vec<i64> = filter.statuses.iter().copied().map(number).collect();
            wanted.sort_unstable();
            wanted.dedup();
            if let (Some(first), Some(last)) = (wanted.first(), wanted.last()) {
                let list: Vec<String> = wanted.iter().map(ToString::to_string).collect();
                let _ = write!(query, " AND status IN ({})", list.join(", "));
                // As the partial indexes say it.
                if *last < number(TaskStatus::Succeeded) {
                    query.push_str(" AND status < 3");
                } else if *first > number(TaskStatus::Succeeded) {
                    query.push_str(" AND status > 3");
                }
            }
            query.push_str(" ORDER BY seq DESC LIMIT ?2");
            let rows = db
                .prepare_cached(&query)?
                .query_map(params_from_iter(values), from_row)?
                .collect::<Result<Vec<_>, _>>()?;
            Ok(request.page(rows, |row| row.seq.to_string()))
        })
        .await
    }
}
