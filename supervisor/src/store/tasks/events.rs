//! What happened to a task, in order.

use super::super::{Store, StoreError, Timestamp};
use super::{number, status};
use proto::api::{TaskEvent, TaskEventKind, TaskStatus};
use rusqlite::{OptionalExtension, Row, params};
use serde_json::Value;

impl Store {
    /// Events after the one of this id (0: from the first), at most `limit`, and whether the task has its outcome by now. `None`
    /// if there is no such task any more.
    pub async fn task_events(
        &self,
        seq: i64,
        after: u64,
        limit: u16,
    ) -> Result<Option<(Vec<TaskEvent>, bool)>, StoreError> {
        self.read(move |db| {
            // Read first: an outcome that comes between the two has its event read next time.
            let task: Option<(i64, Timestamp)> = db
                .prepare_cached("SELECT status, created_at FROM tasks WHERE seq = ?1")?
                .query_row([seq], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((now, created_at)) = task else {
                return Ok(None);
            };
            let mut events = Vec::new();
            if after == 0 {
                events.push(TaskEvent {
                    id: 1,
                    at: created_at.to_string(),
                    attempt: 0,
                    kind: TaskEventKind::Status {
                        status: TaskStatus::Queued,
                        reason: None,
                    },
                });
            }
            let after = i64::try_from(after).unwrap_or(i64::MAX);
            let mut statement = db.prepare_cached(
                "SELECT id, at, attempt, status, body FROM task_events WHERE task = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
            )?;
            let more = statement.query_map(params![seq, after, limit], event)?;
            for event in more {
                events.push(event?);
            }
            Ok(Some((events, now >= number(TaskStatus::Succeeded))))
        })
        .await
    }
}

fn event(row: &Row<'_>) -> rusqlite::Result<TaskEvent> {
    let body: Option<String> = row.get(4)?;
    let kind = match row.get::<_, Option<i64>>(3)?.and_then(status) {
        Some(status) => TaskEventKind::Status {
            status,
            reason: body,
        },
        None => TaskEventKind::Progress {
            progress: body
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or(Value::Null),
        },
    };
    Ok(TaskEvent {
        id: row.get::<_, i64>(0)?.cast_unsigned(),
        at: row.get::<_, Timestamp>(1)?.to_string(),
        attempt: row.get(2)?,
        kind,
    })
}
