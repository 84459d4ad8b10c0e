//! Old records go, from the beginning of a chain, in small pieces; what is left begins at an anchor that this daemon has proven,
//! so that nobody else can make it begin later. Sums stay.

use super::super::worker::Durability;
use super::super::{Store, StoreError, Timestamp};
use super::{anchor, mac};
use crate::ledger::chain::Chain;
use crate::ledger::record::day;
use rusqlite::{OptionalExtension, params};
use std::sync::Arc;

/// Records of one piece.
const PIECE: i64 = 2000;

impl Store {
    /// Removes a piece of what is older than `before` or beyond the newest `rows`, but nothing after record `proven`, which
    /// a checkpoint must go on telling. Says how many records went.
    pub async fn prune_usage(
        &self,
        chain: Chain,
        before: Timestamp,
        rows: i64,
        proven: i64,
    ) -> Result<usize, StoreError> {
        let key = Arc::clone(&self.chain);
        self.write(Durability::Volatile, move |db| {
            let table = match chain {
                Chain::Sessions => "usage_sessions",
                Chain::Invocations => "usage_invocations",
            };
            let ends = db
                .prepare_cached(&format!("SELECT min(seq), max(seq) FROM {table}"))?
                .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let (Some(first), Some(last)) = ends else {
                return Ok(0);
            };
            let (first, last): (i64, i64) = (first, last);
            let piece = first.saturating_add(PIECE).min(proven).min(last);
            // In the order of the chain, so that it stays one: what is older behind something younger waits for that.
            let younger: Option<i64> = db
                .prepare_cached(&format!(
                    "SELECT seq FROM {table} WHERE seq <= ?1 AND at >= ?2 ORDER BY seq LIMIT 1"
                ))?
                .query_row(params![piece, before], |row| row.get(0))
                .optional()?;
            let by_age = younger.map_or(piece, |younger| younger - 1);
            let by_number = last.saturating_sub(rows).min(piece);
            let until = by_age.max(by_number);
            if until < first {
                return Ok(0);
            }
            let proof = db
                .prepare_cached(&format!("SELECT mac FROM {table} WHERE seq = ?1"))?
                .query_row([until], |row| mac(row, 0))
                .optional()?;
            // A gap there is somebody else's doing: it stays to be found.
            let Some(proof) = proof else { return Ok(0) };
            let youngest: Timestamp = db
                .prepare_cached(&format!("SELECT max(at) FROM {table} WHERE seq <= ?1"))?
                .query_row([until], |row| row.get(0))?;
            let earlier = anchor(db, chain)?.map_or(i64::MIN, |anchor| anchor.day);
            let day = day(youngest).max(earlier);
            db.prepare_cached(
                "REPLACE INTO usage_anchors (chain, seq, mac, day, seal) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                chain.name(),
                until,
                proof,
                day,
                key.anchor(chain, (until, &proof), day)
            ])?;
            let removed = db
                .prepare_cached(&format!("DELETE FROM {table} WHERE seq <= ?1"))?
                .execute([until])?;
            Ok(removed)
        })
        .await
    }

    /// Removes a piece of the subjects that no record is about any more, from number `after` on. Says where to go on.
    pub async fn prune_subjects(&self, after: i64) -> Result<Option<i64>, StoreError> {
        self.write(Durability::Volatile, move |db| {
            let last: Option<i64> = db
                .prepare_cached(
                    "SELECT max(ref) FROM (SELECT ref FROM usage_subjects WHERE ref > ?1 ORDER BY ref LIMIT ?2)",
                )?
                .query_row(params![after, PIECE], |row| row.get(0))?;
            let Some(last) = last else { return Ok(None) };
            db.prepare_cached(
                "DELETE FROM usage_subjects WHERE ref > ?1 AND ref <= ?2
                     AND NOT EXISTS (SELECT 1 FROM usage_sessions s WHERE s.subject = usage_subjects.ref)
                     AND NOT EXISTS (SELECT 1 FROM usage_invocations i WHERE i.subject = usage_subjects.ref)
                     AND NOT EXISTS (SELECT 1 FROM usage_meters m WHERE m.subject = usage_subjects.ref)",
            )?
            .execute(params![after, last])?;
            Ok(Some(last))
        })
        .await
    }
}
