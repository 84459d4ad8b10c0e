//! How often a budget was approved.

use super::worker::Durability;
use super::{Store, StoreError, Timestamp};
use rusqlite::params;

impl Store {
    /// All that were approved: scope, key, how often.
    pub async fn approved_budgets(&self) -> Result<Vec<(String, String, u32)>, StoreError> {
        self.read(|db| {
            let rows = db
                .prepare_cached("SELECT scope, key, times FROM budget_approvals")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<Result<_, _>>()?;
            Ok(rows)
        })
        .await
    }

    /// Approves once more; says how often by now.
    pub async fn approve_budget(
        &self,
        scope: &'static str,
        key: String,
    ) -> Result<u32, StoreError> {
        self.write(Durability::Durable, move |db| {
            let times = db
                .prepare_cached(
                    "INSERT INTO budget_approvals (scope, key, times, at) VALUES (?1, ?2, 1, ?3)
                     ON CONFLICT (scope, key) DO UPDATE SET times = times + 1, at = ?3 RETURNING times",
                )?
                .query_row(params![scope, key, Timestamp::now()], |row| row.get(0))?;
            Ok(times)
        })
        .await
    }
}
