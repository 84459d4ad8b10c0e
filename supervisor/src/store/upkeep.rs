//! What is forgotten and when, and how the file gets smaller again: in small slices, each a transaction of its own, so that
//! nobody who wants to write waits for more than one of them.
//!
//! Pages that are free are given back from the end of the file (`auto_vacuum = INCREMENTAL`). The log is kept short by
//! SQLite itself, which moves it into the file every 1,000 pages; while somebody reads an old state it cannot begin anew
//! and grows. Reads of ours are short, a backup has its bound ([`super::backup`]); of others' (a `sqlite3` that was left
//! open) the operator is told.

use super::worker::Durability;
use super::{Store, StoreError, Timestamp};
use crate::broker::Broker;
use crate::fault::chain;
use rusqlite::{Connection, params};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Between two rounds, if there is nothing left to do.
const PAUSE: Duration = Duration::from_secs(30);

/// Between two slices: everybody else has his turn.
const BREATH: Duration = Duration::from_millis(20);

/// Most rows of a kind removed at once, some milliseconds' work.
const ROWS: u32 = 256;

/// Most deleted runtimes removed at once; each takes up to `limits.max_versions` versions with it.
const RUNTIMES: u32 = 2;

/// Free pages that are kept for rows to come.
const SPARE_PAGES: i64 = 256;

/// Most pages given back at once: 1 MiB.
const PAGES: i64 = 256;

/// A log of this many bytes is cut down when it can be; it takes a burst, or somebody who reads for long.
const LONG_LOG: u64 = 16 << 20;

/// A log that takes this much is told to the operator.
const VERY_LONG_LOG: u64 = 256 << 20;

/// How much of one kind of row is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// How long.
    pub longest: Duration,
    /// How many.
    pub most: u32,
}

/// What is kept of what is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Sessions that have ended; their runtime's versions as long.
    pub sessions: Keep,
    /// Refusals.
    pub refusals: Keep,
}

impl Retention {
    /// Where the operator does not say.
    pub const BUILT_IN: Self = Self {
        sessions: Keep {
            longest: Duration::from_secs(7 * 86_400),
            most: 10_000,
        },
        refusals: Keep {
            longest: Duration::from_secs(90 * 86_400),
            most: 10_000,
        },
    };
}

impl Store {
    /// Does one slice of what is to be done; whether there is more.
    pub async fn tidy(&self, retention: Retention, now: Timestamp) -> Result<bool, StoreError> {
        self.refusals
            .store(retention.refusals.most, Ordering::Relaxed);
        // Where to cut is found by reading, so that the writer only deletes.
        let cut = self.read(move |db| Cut::find(db, &retention, now)).await?;
        let removed = self
            .write(Durability::Volatile, move |db| cut.remove(db))
            .await?;
        // Neither may be in a transaction.
        let given_back = self
            .writer
            .run(Durability::ReadOnly, |db| give_back(db, PAGES))
            .await?;
        Ok(removed || given_back)
    }

    /// Cuts a long log down, unless somebody reads what is in it: then that is so, and its size is the answer.
    pub async fn shorten_log(&self) -> Result<u64, StoreError> {
        let log = super::open::sibling(&self.path, "-wal");
        let size = || std::fs::metadata(&log).map_or(0, |found| found.len());
        if size() < LONG_LOG {
            return Ok(size());
        }
        let shorten = |db: &Connection| {
            // Whoever reads is not waited for: that would be everybody's wait.
            db.busy_timeout(Duration::ZERO)?;
            let done = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            db.busy_timeout(super::open::BUSY_TIMEOUT)?;
            Ok(done?)
        };
        self.writer.run(Durability::ReadOnly, shorten).await?;
        Ok(size())
    }
}

/// Up to where rows go.
#[derive(Debug, Clone, Copy)]
struct Cut {
    now: Timestamp,
    retention: Retention,
    session: i64,
    refusal: i64,
}

impl Cut {
    fn find(db: &Connection, retention: &Retention, now: Timestamp) -> Result<Self, StoreError> {
        let last = |query: &str, most: u32| {
            let mut statement = db.prepare_cached(query)?;
            let mut rows = statement.query([most])?;
            rows.next()?.map_or(Ok(0), |row| row.get::<_, i64>(0))
        };
        Ok(Self {
            now,
            retention: *retention,
            session: last(
                "SELECT seq FROM sessions WHERE ended_at IS NOT NULL ORDER BY seq DESC LIMIT 1 OFFSET ?1",
                retention.sessions.most,
            )?,
            refusal: last(
                "SELECT seq FROM audit ORDER BY seq DESC LIMIT 1 OFFSET ?1",
                retention.refusals.most,
            )?,
        })
    }

    /// One slice; whether a kind of row was removed as often as it may be in one.
    fn remove(&self, db: &Connection) -> Result<bool, StoreError> {
        let Retention { sessions, refusals } = self.retention;
        let ended = db
            .prepare_cached(
                "DELETE FROM sessions WHERE seq IN (
                     SELECT seq FROM sessions WHERE ended_at < ?1
                     UNION SELECT seq FROM sessions WHERE ended_at IS NOT NULL AND seq <= ?2
                     LIMIT ?3)",
            )?
            .execute(params![
                self.now.before(sessions.longest),
                self.session,
                ROWS
            ])?;
        // Kept for the sessions that refer to it.
        let runtimes = db
            .prepare_cached(
                "DELETE FROM runtimes WHERE seq IN (
                     SELECT seq FROM runtimes r WHERE deleted_at IS NOT NULL
                         AND NOT EXISTS (SELECT 1 FROM sessions s WHERE s.runtime = r.seq)
                     LIMIT ?1)",
            )?
            .execute([RUNTIMES])?;
        // They are numbered as they come, so the first ones are the oldest.
        let refused = db
            .prepare_cached(
                "DELETE FROM audit WHERE seq IN (
                     SELECT seq FROM (SELECT seq, at FROM audit ORDER BY seq LIMIT ?3)
                     WHERE at < ?1 OR seq <= ?2)",
            )?
            .execute(params![
                self.now.before(refusals.longest),
                self.refusal,
                ROWS
            ])?;
        let full = |rows: usize, most: u32| u32::try_from(rows).is_ok_and(|rows| rows >= most);
        Ok(full(ended, ROWS) || full(runtimes, RUNTIMES) || full(refused, ROWS))
    }
}

/// Gives free pages back; whether there are more.
fn give_back(db: &Connection, most: i64) -> Result<bool, StoreError> {
    let free: i64 = db.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    let pages = (free - SPARE_PAGES).clamp(0, most);
    if pages == 0 {
        return Ok(false);
    }
    // A step of this statement gives one page back.
    let mut statement = db.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(free - SPARE_PAGES > most)
}

/// Does what is to be done, now and every half minute.
pub async fn keep_tidy(broker: Arc<Broker>) {
    let mut told = false;
    loop {
        let retention = broker.config().store.retention;
        loop {
            match broker.store.tidy(retention, Timestamp::now()).await {
                Ok(true) => tokio::time::sleep(BREATH).await,
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "old rows of the database were not removed; tried again in a while");
                    break;
                }
            }
        }
        match broker.store.shorten_log().await {
            Ok(log) if log >= VERY_LONG_LOG => {
                if !told {
                    tracing::warn!(
                        bytes = log,
                        "the database's log (agentcore.db-wal) is long and cannot be cut down: another program reads the database for long; end it"
                    );
                }
                told = true;
            }
            Ok(_) => told = false,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the database's log was not cut down");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
