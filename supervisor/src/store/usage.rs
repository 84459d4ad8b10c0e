//! Records of usage: written in the transaction of what they tell of, each bound to the one before it, and with them the sums
//! that queries are answered from.
//!
//! The end of a session and its last record are one transaction ([`Store::end_session`]). Invocations are written in batches,
//! volatile: they survive the daemon, and the machine from the next durable write on.

pub(super) mod meters;
mod query;
mod retention;
mod verify;

pub use query::{LiveUse, SumRow, UsageBy, UsageQuery, UsageRow};
pub(crate) use query::{day_name, day_of};
pub use verify::{ChainHead, ChainPage, Chained, InvocationRow};

use super::worker::Durability;
use super::{Store, StoreError, Timestamp};
use crate::ledger::chain::{BEGINNING, Chain, ChainKey, MAC, Mac, columns};
use crate::ledger::record::{Invocation, SavedMeter, SessionPart, Subject, day};
use crate::owner::Owner;
use proto::ids::{ClientSessionId, EndpointName, RuntimeId, RuntimeName, SessionId, VersionNumber};
use rusqlite::types::{Type, Value};
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use session_core::meter::Totals;
use std::sync::{Arc, LazyLock};

/// Whose sums are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dimension {
    /// Everybody's; the key is empty.
    All = 0,
    /// A runtime's, by name.
    Runtime = 1,
    /// An owner's, by [`Owner::key`].
    Owner = 2,
}

/// Columns of the sums, with commas between.
static SUMS: LazyLock<String> = LazyLock::new(|| columns::NAMES.join(", "));

/// As many question marks.
static MARKS: LazyLock<String> = LazyLock::new(|| ["?"; columns::COUNT].join(", "));

impl Store {
    /// Records invocations. `journal`: with them, all that is in files of the journal up to that number is on record.
    pub async fn record_invocations(
        &self,
        records: Vec<Invocation>,
        journal: Option<i64>,
    ) -> Result<(), StoreError> {
        let key = Arc::clone(&self.chain);
        self.write(Durability::Volatile, move |db| {
            let (mut seq, mut before) = head(db, Chain::Invocations)?;
            let mut statement = db.prepare_cached(
                "INSERT INTO usage_invocations
                     (seq, subject, at, task, count, wall_ms, bytes_in, bytes_out, cpu_us, mac)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?;
            for mut record in records {
                let subject = subject(db, &mut record.subject)?;
                seq += 1;
                before = key.invocation(seq, &before, &record);
                statement.execute(params![
                    seq,
                    subject,
                    record.at,
                    record.task,
                    record.count.cast_signed(),
                    record.wall_ms.cast_signed(),
                    record.bytes_in.cast_signed(),
                    record.bytes_out.cast_signed(),
                    record.cpu_us.cast_signed(),
                    before,
                ])?;
            }
            if let Some(number) = journal {
                db.prepare_cached("REPLACE INTO meta (key, value) VALUES ('ledger_journal', ?1)")?
                    .execute([number])?;
            }
            Ok(())
        })
        .await
    }

    /// Up to which number of its files the journal is on record.
    pub async fn journal_recorded(&self) -> Result<i64, StoreError> {
        self.read(|db| {
            let number = db
                .prepare_cached("SELECT value FROM meta WHERE key = 'ledger_journal'")?
                .query_row([], |row| row.get(0))
                .optional()?;
            Ok(number.unwrap_or(0))
        })
        .await
    }

    /// Records last parts whose meters were written down as closed ([`Store::claim_session`]).
    pub async fn record_last_parts(&self, parts: Vec<SessionPart>) -> Result<(), StoreError> {
        let key = Arc::clone(&self.chain);
        self.write(Durability::Volatile, move |db| {
            for part in &parts {
                append(db, &key, part)?;
            }
            Ok(())
        })
        .await
    }

    /// Records parts of sessions that live on, and their meters as they go on from there: in one, so that no part can be
    /// recorded twice.
    pub async fn record_parts(
        &self,
        parts: Vec<(SessionPart, SavedMeter)>,
    ) -> Result<(), StoreError> {
        let key = Arc::clone(&self.chain);
        self.write(Durability::Durable, move |db| {
            for (part, saved) in &parts {
                append(db, &key, part)?;
                meters::save(db, &key, saved)?;
            }
            Ok(())
        })
        .await
    }
}

/// Adds a part of a session, and adds it to the sums. For a transaction that is under way.
pub(super) fn append(
    db: &Connection,
    key: &ChainKey,
    part: &SessionPart,
) -> Result<(), StoreError> {
    static INSERT: LazyLock<String> = LazyLock::new(|| {
        format!(
            "INSERT INTO usage_sessions (seq, subject, at, reason, {}, mac) VALUES (?, ?, ?, ?, {}, ?)",
            *SUMS, *MARKS
        )
    });
    let mut part = part.clone();
    let subject = subject(db, &mut part.subject)?;
    let (seq, before) = head(db, Chain::Sessions)?;
    let seq = seq + 1;
    let mac = key.session(seq, &before, &part);
    let reason = part.reason.as_ref().map(super::sessions::word);
    let mut values = vec![
        Value::from(seq),
        subject.into(),
        part.at.0.into(),
        reason.into(),
    ];
    values.extend(numbers(&part.used));
    values.push(mac.to_vec().into());
    db.prepare_cached(&INSERT)?
        .execute(params_from_iter(values))?;
    let owner = part.subject.owner.key();
    let ended = u64::from(part.ends_a_session());
    for (dimension, name) in [
        (Dimension::All, ""),
        (Dimension::Runtime, part.subject.runtime.as_str()),
        (Dimension::Owner, &owner),
    ] {
        add(
            db,
            key,
            (dimension as i64, name, day(part.at)),
            (ended, &part.used),
        )?;
    }
    if part.reason.is_some() {
        db.prepare_cached("DELETE FROM usage_meters WHERE subject = ?1")?
            .execute([subject])?;
    }
    Ok(())
}

fn add(
    db: &Connection,
    key: &ChainKey,
    of: (i64, &str, i64),
    (sessions, used): (u64, &Totals),
) -> Result<(), StoreError> {
    static SELECT: LazyLock<String> = LazyLock::new(|| {
        format!(
            "SELECT sessions, {} FROM usage_sums WHERE dimension = ?1 AND key = ?2 AND day = ?3",
            *SUMS
        )
    });
    static REPLACE: LazyLock<String> = LazyLock::new(|| {
        format!(
            "REPLACE INTO usage_sums (dimension, key, day, sessions, {}, mac) VALUES (?, ?, ?, ?, {}, ?)",
            *SUMS, *MARKS
        )
    });
    let there = db
        .prepare_cached(&SELECT)?
        .query_row(params![of.0, of.1, of.2], |row| {
            Ok((unsigned(row, 0)?, totals(row, 1)?))
        })
        .optional()?;
    let (sessions, used) = match there {
        None => (sessions, *used),
        Some((before, sum)) => (before + sessions, sum.plus(used)),
    };
    let mut values = vec![
        Value::from(of.0),
        of.1.to_owned().into(),
        of.2.into(),
        sessions.cast_signed().into(),
    ];
    values.extend(numbers(&used));
    values.push(key.sum(of, sessions, &used).to_vec().into());
    db.prepare_cached(&REPLACE)?
        .execute(params_from_iter(values))?;
    Ok(())
}

/// The row of a subject, made if it is not there. Two daemons on one session can differ in when it was asked for: the row's word
/// counts. About everything else of it they cannot, and a row that says otherwise is not ours: it will not hold.
fn subject(db: &Connection, of: &mut Subject) -> Result<i64, StoreError> {
    let there = db
        .prepare_cached("SELECT ref, created_at FROM usage_subjects WHERE session = ?1")?
        .query_row([of.session.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((there, created_at)) = there {
        of.created_at = created_at;
        return Ok(there);
    }
    Ok(db
        .prepare_cached(
            "INSERT INTO usage_subjects
                 (session, client_id, runtime, runtime_id, version, endpoint, owner, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .insert(params![
            of.session.as_str(),
            of.client.as_str(),
            of.runtime.as_str(),
            of.runtime_id.as_str(),
            of.version.0,
            of.endpoint.as_str(),
            of.owner.key(),
            of.created_at,
        ])?)
}

/// Columns of a subject, for [`subject_row`].
const SUBJECT: &str =
    "u.session, u.client_id, u.runtime, u.runtime_id, u.version, u.endpoint, u.owner, u.created_at";

/// How many [`SUBJECT`] has.
const SUBJECT_COLUMNS: usize = 8;

fn subject_row(row: &Row<'_>, first: usize) -> rusqlite::Result<Subject> {
    use super::runtimes::parsed;
    let owner: String = row.get(first + 6)?;
    Ok(Subject {
        session: parsed(row, first, SessionId::parse)?,
        client: parsed(row, first + 1, ClientSessionId::parse)?,
        runtime: parsed(row, first + 2, RuntimeName::parse)?,
        runtime_id: parsed(row, first + 3, RuntimeId::parse)?,
        version: VersionNumber(row.get(first + 4)?),
        endpoint: parsed(row, first + 5, EndpointName::parse)?,
        owner: Owner::from_key(&owner).ok_or_else(|| {
            rusqlite::Error::FromSqlConversionFailure(first + 6, Type::Text, "not an owner".into())
        })?,
        created_at: row.get(first + 7)?,
    })
}

/// Number and mac of a chain's last record; of what is before the first if there is none.
fn head(db: &Connection, chain: Chain) -> Result<(i64, Mac), StoreError> {
    let newest = match chain {
        Chain::Sessions => "SELECT seq, mac FROM usage_sessions ORDER BY seq DESC LIMIT 1",
        Chain::Invocations => "SELECT seq, mac FROM usage_invocations ORDER BY seq DESC LIMIT 1",
    };
    let there = db
        .prepare_cached(newest)?
        .query_row([], |row| Ok((row.get(0)?, mac(row, 1)?)))
        .optional()?;
    match there {
        Some(there) => Ok(there),
        None => {
            let anchor = anchor(db, chain)?;
            Ok(anchor.map_or((0, BEGINNING), |anchor| (anchor.seq, anchor.mac)))
        }
    }
}

/// Up to where a chain was removed.
struct Anchor {
    seq: i64,
    mac: Mac,
    /// The last day of what was removed.
    day: i64,
    /// What proves the rest.
    seal: Mac,
}

fn anchor(db: &Connection, chain: Chain) -> Result<Option<Anchor>, StoreError> {
    Ok(db
        .prepare_cached("SELECT seq, mac, day, seal FROM usage_anchors WHERE chain = ?1")?
        .query_row([chain.name()], |row| {
            Ok(Anchor {
                seq: row.get(0)?,
                mac: mac(row, 1)?,
                day: row.get(2)?,
                seal: mac(row, 3)?,
            })
        })
        .optional()?)
}

fn mac(row: &Row<'_>, column: usize) -> rusqlite::Result<Mac> {
    row.get::<_, [u8; MAC]>(column)
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

fn totals(row: &Row<'_>, first: usize) -> rusqlite::Result<Totals> {
    let mut values = [0; columns::COUNT];
    for (value, column) in values.iter_mut().zip(first..) {
        // A sum over no rows is NULL.
        *value = row
            .get::<_, Option<i64>>(column)?
            .unwrap_or(0)
            .cast_unsigned();
    }
    Ok(columns::totals(values))
}

fn numbers(of: &Totals) -> impl Iterator<Item = Value> {
    columns::values(of)
        .into_iter()
        .map(|number| number.cast_signed().into())
}

/// The end of a moment's day, exclusive.
pub(crate) fn end_of(day: i64) -> Timestamp {
    Timestamp(
        day.saturating_add(1)
            .saturating_mul(crate::ledger::record::DAY_MS),
    )
}
