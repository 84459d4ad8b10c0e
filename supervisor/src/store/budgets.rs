//! How often a budget was approved.

use super::worker::Durability;
use super::{Store, StoreError, Timestamp};
use rusqlite::params;

/// One budget's approvals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approvals {
    /// The runtime whose configuration has the budget; empty: the daemon's own.
    pub set_by: String,
    /// `session`, `user` or `runtime`.
    pub scope: String,
    /// Which of them.
    pub key: String,
    /// First day of the period that they are of; 0 of a budget without one.
    pub since: i64,
    /// How many.
    pub times: u32,
}

impl Store {
    /// All that are of no period, or of one that began on this day or later.
    pub async fn approved_budgets(&self, since: i64) -> Result<Vec<Approvals>, StoreError> {
        self.read(move |db| {
            let rows = db
                .prepare_cached(
                    "SELECT set_by, scope, key, since, times FROM budget_allowances
                     WHERE since = 0 OR since >= ?1",
                )?
                .query_map([since], |row| {
                    Ok(Approvals {
                        set_by: row.get(0)?,
                        scope: row.get(1)?,
                        key: row.get(2)?,
                        since: row.get(3)?,
                        times: row.get(4)?,
                    })
                })?
                .collect::<Result<_, _>>()?;
            Ok(rows)
        })
        .await
    }

    /// Approves once more (`times` of it do not matter); says how often by now.
    pub async fn approve_budget(&self, of: Approvals) -> Result<u32, StoreError> {
        self.write(Durability::Durable, move |db| {
            let times = db
                .prepare_cached(
                    "INSERT INTO budget_allowances (set_by, scope, key, since, times, at)
                     VALUES (?1, ?2, ?3, ?4, 1, ?5)
                     ON CONFLICT (set_by, scope, key, since) DO UPDATE SET times = times + 1, at = ?5
                     RETURNING times",
                )?
                .query_row(
                    params![of.set_by, of.scope, of.key, of.since, Timestamp::now()],
                    |row| row.get(0),
                )?;
            Ok(times)
        })
        .await
    }
}
