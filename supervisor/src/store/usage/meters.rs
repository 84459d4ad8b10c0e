//! Meters of live sessions: written down every few seconds, so that a daemon that is killed loses none of their sums.

use super::super::runtimes::parsed;
use super::super::worker::Durability;
use super::super::{Store, StoreError};
use super::{SUBJECT, SUBJECT_COLUMNS, mac, subject, subject_row, unsigned};
use crate::ledger::chain::ChainKey;
use crate::ledger::record::SavedMeter;
use proto::ids::SessionId;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use session_core::meter::{Saved, Totals};
use std::sync::Arc;

/// Sessions of which a daemon can have had no meter written down: more than begin in two rounds.
const NEWEST: i64 = 2000;

/// What is in a row as JSON, so that a newer daemon reads what an older one wrote.
#[derive(Serialize, Deserialize)]
struct State {
    meter: Saved,
    counted: Totals,
    recorded: Totals,
    #[serde(default)]
    closed: bool,
}

/// Writes one down; not of a session that has its last record, or whose meter is closed: what a round has seen before comes late.
pub(in super::super) fn save(
    db: &Connection,
    key: &ChainKey,
    saved: &SavedMeter,
) -> Result<(), StoreError> {
    let mut saved = saved.clone();
    let subject = subject(db, &mut saved.subject)?;
    let state = State {
        meter: saved.meter,
        counted: saved.counted,
        recorded: saved.recorded,
        closed: saved.closed,
    };
    let state = serde_json::to_string(&state).unwrap_or_default();
    let mac = key.meter(&saved, &state);
    db.prepare_cached(
        "REPLACE INTO usage_meters (subject, boot_id, boot_ms, saved_at, state, mac)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6
         WHERE NOT EXISTS (SELECT 1 FROM usage_sessions WHERE subject = ?1 AND reason IS NOT NULL)
             AND NOT EXISTS (SELECT 1 FROM usage_meters WHERE subject = ?1 AND state ->> 'closed')",
    )?
    .execute(params![
        subject,
        saved.boot_id,
        saved.boot_ms.cast_signed(),
        saved.saved_at,
        state,
        mac,
    ])?;
    Ok(())
}

impl Store {
    /// Writes meters down; with `durable`, so that they survive a power cut.
    pub async fn save_meters(
        &self,
        meters: Vec<SavedMeter>,
        durable: bool,
    ) -> Result<(), StoreError> {
        let key = Arc::clone(&self.chain);
        let durability = if durable {
            Durability::Durable
        } else {
            Durability::Volatile
        };
        self.write(durability, move |db| {
            for saved in &meters {
                save(db, &key, saved)?;
            }
            Ok(())
        })
        .await
    }

    /// What live sessions counted by their invocations' records, of which no meter was ever written down: those that began in
    /// the last round of an earlier daemon.
    pub async fn unmetered(&self) -> Result<Vec<(SessionId, Totals)>, StoreError> {
        self.read(|db| {
            let rows = db
                .prepare_cached(
                    "SELECT u.session, sum(i.count), sum(i.bytes_in), sum(i.bytes_out)
                     FROM usage_subjects u JOIN usage_invocations i ON i.subject = u.ref
                     WHERE u.ref > (SELECT max(ref) FROM usage_subjects) - ?1
                         AND NOT EXISTS (SELECT 1 FROM usage_meters m WHERE m.subject = u.ref)
                         AND NOT EXISTS (SELECT 1 FROM usage_sessions s WHERE s.subject = u.ref)
                     GROUP BY u.ref",
                )?
                .query_map([NEWEST], |row| {
                    let counted = Totals {
                        invocations: unsigned(row, 1)?,
                        bytes_in: unsigned(row, 2)?,
                        bytes_out: unsigned(row, 3)?,
                        ..Totals::default()
                    };
                    Ok((parsed(row, 0, SessionId::parse)?, counted))
                })?
                .collect::<Result<_, _>>()?;
            Ok(rows)
        })
        .await
    }

    /// Meters that were left, of sessions that have no last record. Second: those that were changed by somebody else, by the
    /// names of their sessions; they are not believed.
    pub async fn left_meters(&self) -> Result<(Vec<SavedMeter>, Vec<String>), StoreError> {
        let key = Arc::clone(&self.chain);
        self.read(move |db| {
            let mut statement = db.prepare_cached(&format!(
                "SELECT {SUBJECT}, m.boot_id, m.boot_ms, m.saved_at, m.state, m.mac, i.count, i.bytes_in, i.bytes_out
                 FROM usage_meters m LEFT JOIN (
                     SELECT subject, sum(count) AS count, sum(bytes_in) AS bytes_in, sum(bytes_out) AS bytes_out
                     FROM usage_invocations WHERE subject IN (SELECT subject FROM usage_meters) GROUP BY subject
                 ) i ON i.subject = m.subject JOIN usage_subjects u ON u.ref = m.subject"
            ))?;
            let mut rows = statement.query([])?;
            let (mut left, mut changed) = (Vec::new(), Vec::new());
            while let Some(row) = rows.next()? {
                let text: String = row.get(SUBJECT_COLUMNS + 3)?;
                let found = (|| {
                    let state: State = serde_json::from_str(&text).ok()?;
                    let saved = SavedMeter {
                        subject: subject_row(row, 0).ok()?,
                        boot_id: row.get(SUBJECT_COLUMNS).ok()?,
                        boot_ms: unsigned(row, SUBJECT_COLUMNS + 1).ok()?,
                        saved_at: row.get(SUBJECT_COLUMNS + 2).ok()?,
                        meter: state.meter,
                        counted: state.counted,
                        recorded: state.recorded,
                        closed: state.closed,
                    };
                    let proof = mac(row, SUBJECT_COLUMNS + 4).ok()?;
                    (key.meter(&saved, &text) == proof).then_some(saved)
                })();
                let recorded = |column| {
                    let sum = row.get::<_, Option<i64>>(SUBJECT_COLUMNS + column)?;
                    Ok::<_, rusqlite::Error>(sum.unwrap_or(0).cast_unsigned())
                };
                match found {
                    Some(mut saved) => {
                        // Invocations are on record sooner than the meter that counts them.
                        let counted = &mut saved.counted;
                        counted.invocations = counted.invocations.max(recorded(5)?);
                        counted.bytes_in = counted.bytes_in.max(recorded(6)?);
                        counted.bytes_out = counted.bytes_out.max(recorded(7)?);
                        left.push(saved);
                    }
                    None => changed.push(row.get(0)?),
                }
            }
            Ok((left, changed))
        })
        .await
    }
}
