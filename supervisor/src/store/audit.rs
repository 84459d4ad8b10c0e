//! Refusals, for the operator. The newest are kept (see [`super::Retention`]).

use super::worker::Durability;
use super::{PageRequest, Store, StoreError, Timestamp};
use proto::api::Page;
use rusqlite::{Row, params};
use std::sync::atomic::Ordering;

/// Old records are pruned when the number of one divides by this.
const PRUNE_EVERY: i64 = 128;

/// Somebody was turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Of the answer, which names no reason.
    pub request_id: String,
    /// The answer's status.
    pub status: u16,
    /// The answer's error name.
    pub code: String,
    /// Why.
    pub reason: String,
    /// Who it was, or claimed to be.
    pub caller: Option<String>,
    /// Where the connection came from.
    pub peer: String,
    /// What was asked for.
    pub method: String,
    /// See `method`; without its query, which may hold signatures.
    pub path: String,
}

/// A record of a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// When.
    pub at: Timestamp,
    /// What.
    pub refusal: Refusal,
    seq: i64,
}

impl Store {
    /// Notes refusals.
    pub async fn record_refusals(&self, refusals: Vec<Refusal>) -> Result<(), StoreError> {
        let most = i64::from(self.refusals.load(Ordering::Relaxed));
        self.write(Durability::Volatile, move |db| {
            let now = Timestamp::now();
            let mut statement = db.prepare_cached(
                "INSERT INTO audit (at, request_id, status, code, reason, caller, peer, method, path)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?;
            for each in refusals {
                let seq = statement.insert(params![
                    now,
                    each.request_id,
                    each.status,
                    each.code,
                    each.reason,
                    each.caller,
                    each.peer,
                    each.method,
                    each.path,
                ])?;
                if seq % PRUNE_EVERY == 0 {
                    db.prepare_cached("DELETE FROM audit WHERE seq <= ?1")?
                        .execute([seq - most])?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Refusals, the newest first.
    pub async fn refusals(&self, page: PageRequest) -> Result<Page<AuditRow>, StoreError> {
        self.read(move |db| {
            let before: i64 = page.after()?.unwrap_or(i64::MAX);
            let mut statement = db.prepare_cached(
                "SELECT seq, at, request_id, status, code, reason, caller, peer, method, path
                 FROM audit WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2",
            )?;
            let rows = statement.query_map(params![before, page.limit()], from_row)?;
            let rows = rows.collect::<Result<Vec<_>, _>>()?;
            Ok(page.page(rows, |row: &AuditRow| row.seq.to_string()))
        })
        .await
    }
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    Ok(AuditRow {
        seq: row.get(0)?,
        at: row.get(1)?,
        refusal: Refusal {
            request_id: row.get(2)?,
            status: row.get(3)?,
            code: row.get(4)?,
            reason: row.get(5)?,
            caller: row.get(6)?,
            peer: row.get(7)?,
            method: row.get(8)?,
            path: row.get(9)?,
        },
    })
}
