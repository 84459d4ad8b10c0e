//! Calls to those who are to hear of a task's outcome. That one is due is written with the outcome itself.

use super::super::worker::Durability;
use super::super::{Store, StoreError, Timestamp};
use super::row::{COLUMNS, TaskRow, from_row};
use rusqlite::{OptionalExtension, params};

/// Most bytes of an error.
const MAX_ERROR: usize = 1024;

impl Store {
    /// Tasks whose callback is due by now, the longest due first.
    pub async fn due_callbacks(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<TaskRow>, StoreError> {
        self.read(move |db| {
            let rows = db
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM tasks WHERE callback_state = 1 AND callback_at <= ?1
                     ORDER BY callback_at LIMIT ?2"
                ))?
                .query_map(params![now, limit], from_row)?
                .collect::<Result<_, _>>()?;
            Ok(rows)
        })
        .await
    }

    /// When the next one is due, if any is.
    pub async fn next_callback(&self) -> Result<Option<Timestamp>, StoreError> {
        self.read(|db| {
            let next = db
                .prepare_cached(
                    "SELECT callback_at FROM tasks WHERE callback_state = 1 ORDER BY callback_at LIMIT 1",
                )?
                .query_row([], |row| row.get(0))
                .optional()?;
            Ok(next)
        })
        .await
    }

    /// Others come first: these are due again at `at`, without having been tried.
    pub async fn callbacks_later(&self, seqs: Vec<i64>, at: Timestamp) -> Result<(), StoreError> {
        self.write(Durability::Volatile, move |db| {
            let mut statement = db.prepare_cached(
                "UPDATE tasks SET callback_at = ?2 WHERE seq = ?1 AND callback_state = 1",
            )?;
            for seq in &seqs {
                statement.execute(params![seq, at])?;
            }
            Ok(())
        })
        .await
    }

    /// It was told, and acknowledged.
    pub async fn callback_done(&self, seq: i64) -> Result<(), StoreError> {
        self.write(Durability::Durable, move |db| {
            db.prepare_cached(
                "UPDATE tasks SET callback_state = 2, callback_at = NULL, callback_error = NULL,
                     callback_attempts = callback_attempts + 1
                 WHERE seq = ?1 AND callback_state = 1",
            )?
            .execute([seq])?;
            Ok(())
        })
        .await
    }

    /// It was not: why, and when to try again; `None` is never.
    pub async fn callback_failed(
        &self,
        seq: i64,
        error: String,
        next_at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        self.write(Durability::Durable, move |db| {
            let error: String = error.chars().take(MAX_ERROR).collect();
            db.prepare_cached(
                "UPDATE tasks SET callback_state = iif(?2 IS NULL, 3, 1), callback_at = ?2, callback_error = ?3,
                     callback_attempts = callback_attempts + 1
                 WHERE seq = ?1 AND callback_state = 1",
            )?
            .execute(params![seq, next_at, error])?;
            Ok(())
        })
        .await
    }
}
