//! Whether the records are what was written: page by page, so that nobody else waits long for the reader.

use super::super::worker::Durability;
use super::super::{PageRequest, Store, StoreError};
use super::{SUBJECT, SUBJECT_COLUMNS, SUMS, anchor, head, mac, subject_row, totals, unsigned};
use crate::ledger::chain::{BEGINNING, Chain, Mac, columns};
use crate::ledger::record::{Invocation, SessionPart, day};
use proto::api::Page;
use proto::ids::SessionId;
use rusqlite::{Connection, Row, params};
use session_core::meter::Totals;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// Records of one page.
const PAGE: i64 = 2000;

/// The end of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainHead {
    /// Number of its last record.
    pub seq: i64,
    /// Its mac.
    pub mac: Mac,
}

/// A record as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chained {
    /// Its number.
    pub seq: i64,
    /// Its mac.
    pub mac: Mac,
    /// What is wrong with it.
    pub fault: Option<String>,
}

/// What there is of a chain beyond some record.
#[derive(Debug, Clone, PartialEq)]
pub struct ChainPage {
    /// In order; empty at the end of the chain.
    pub records: Vec<Chained>,
    /// What they add to the sums: day ▸ sessions that ended, and what was used. Of parts of sessions only.
    pub by_day: BTreeMap<i64, (u64, Totals)>,
}

impl Store {
    /// The ends of both chains.
    pub async fn heads(&self) -> Result<[ChainHead; 2], StoreError> {
        self.read(both_heads).await
    }

    /// The ends of both chains, once they are on disk with everything before them.
    pub async fn settled_heads(&self) -> Result<[ChainHead; 2], StoreError> {
        self.write(Durability::Durable, |db| {
            // A transaction that changes nothing is not synced, and neither is what was written before it.
            db.execute(
                "INSERT INTO meta (key, value) VALUES ('usage_settled', 1)
                 ON CONFLICT (key) DO UPDATE SET value = value + 1",
                [],
            )?;
            both_heads(db)
        })
        .await
    }

    /// Where a chain begins now: after what was removed for its age. The error says what is wrong with that.
    pub async fn chain_begin(&self, chain: Chain) -> Result<Result<ChainHead, String>, StoreError> {
        let key = Arc::clone(&self.chain);
        self.read(move |db| {
            let Some(anchor) = anchor(db, chain)? else {
                return Ok(Ok(ChainHead {
                    seq: 0,
                    mac: BEGINNING,
                }));
            };
            let (seq, mac) = (anchor.seq, anchor.mac);
            if key.anchor(chain, (seq, &mac), anchor.day) == anchor.seal {
                Ok(Ok(ChainHead { seq, mac }))
            } else {
                Ok(Err(format!(
                    "what says that records up to {seq} were removed for their age is not this daemon's word"
                )))
            }
        })
        .await
    }

    /// Looks at the records after `last`, a page of them.
    pub async fn chain_page(&self, chain: Chain, last: ChainHead) -> Result<ChainPage, StoreError> {
        let key = Arc::clone(&self.chain);
        self.read(move |db| {
            let mut found = ChainPage {
                records: Vec::new(),
                by_day: BTreeMap::new(),
            };
            let mut last = last;
            let select = match chain {
                Chain::Sessions => &*SESSIONS,
                Chain::Invocations => &*INVOCATIONS,
            };
            let mut statement = db.prepare_cached(select)?;
            let mut rows = statement.query(params![last.seq, PAGE])?;
            while let Some(row) = rows.next()? {
                let seq: i64 = row.get(0)?;
                let proof = mac(row, 1)?;
                let wanted = match chain {
                    Chain::Sessions => session_part(row).map(|record| {
                        let (ended, sum) = found.by_day.entry(day(record.at)).or_default();
                        *ended += u64::from(record.ends_a_session());
                        *sum = sum.plus(&record.used);
                        key.session(last.seq + 1, &last.mac, &record)
                    }),
                    Chain::Invocations => invocation(row)
                        .map(|record| key.invocation(last.seq + 1, &last.mac, &record)),
                };
                let fault = if seq != last.seq + 1 {
                    Some(match seq - last.seq {
                        2 => format!("record {} is missing", last.seq + 1),
                        _ => format!("records {} to {} are missing", last.seq + 1, seq - 1),
                    })
                } else {
                    match wanted {
                        Ok(wanted) if wanted == proof => None,
                        Ok(_) => Some("it, or the record before it, was changed".to_owned()),
                        // What cannot be read back was not written by us.
                        Err(error) => Some(format!("it was changed: {error}")),
                    }
                };
                last = ChainHead { seq, mac: proof };
                found.records.push(Chained {
                    seq,
                    mac: proof,
                    fault,
                });
            }
            Ok(found)
        })
        .await
    }

    /// Looks at the sums: each is what this daemon wrote, and those of runtimes and those of owners add up to those of all, which
    /// are `by_day`. That is so of the days between `within`: of earlier ones records may have been removed, to later ones some
    /// may be added meanwhile. Says what is wrong first.
    pub async fn check_sums(
        &self,
        by_day: BTreeMap<i64, (u64, Totals)>,
        within: (i64, i64),
    ) -> Result<Option<String>, StoreError> {
        let key = Arc::clone(&self.chain);
        let mut after: Option<(i64, String, i64)> = None;
        let mut sums: [BTreeMap<i64, (u64, Totals)>; 3] = Default::default();
        loop {
            let (key, start) = (Arc::clone(&key), after.clone());
            let page = self.read(move |db| {
                let (dimension, name, day) = start.unwrap_or((-1, String::new(), 0));
                let mut statement = db.prepare_cached(&ALL_SUMS)?;
                let mut rows = statement.query(params![dimension, name, day, PAGE])?;
                let mut page = Vec::new();
                while let Some(row) = rows.next()? {
                    let of: (i64, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                    let (sessions, used) = (unsigned(row, 3)?, totals(row, 4)?);
                    let proof = mac(row, 4 + columns::COUNT)?;
                    let holds = key.sum((of.0, &of.1, of.2), sessions, &used) == proof;
                    page.push((of, sessions, used, holds));
                }
                Ok(page)
            });
            let page = page.await?;
            let Some((last, ..)) = page.last() else { break };
            after = Some(last.clone());
            for ((dimension, name, day), sessions, used, holds) in page {
                let what = match dimension {
                    0 => "of all".to_owned(),
                    1 => format!("of runtime {name}"),
                    _ => format!("of user {name}"),
                };
                let day_name = super::query::day_name(day);
                if !holds {
                    return Ok(Some(format!("the sum {what} on {day_name} was changed")));
                }
                let place = usize::try_from(dimension)
                    .ok()
                    .and_then(|at| sums.get_mut(at));
                if let Some(place) = place {
                    let (count, sum) = place.entry(day).or_default();
                    *count += sessions;
                    *sum = sum.plus(&used);
                }
            }
        }
        let (first, last) = within;
        let kept = |days: BTreeMap<i64, (u64, Totals)>| -> BTreeMap<i64, (u64, Totals)> {
            days.into_iter()
                .filter(|(day, _)| (first..=last).contains(day))
                .collect()
        };
        let [all, runtimes, owners] = sums.map(kept);
        for (what, found) in [("runtimes", &runtimes), ("users", &owners)] {
            if let Some(day) = first_difference(&all, found) {
                let day = super::query::day_name(day);
                return Ok(Some(format!(
                    "the sums of {what} on {day} are not those of all"
                )));
            }
        }
        let day = first_difference(&all, &kept(by_day));
        Ok(day.map(|day| {
            let day = super::query::day_name(day);
            format!("the sums of {day} are not those of its records")
        }))
    }

    /// The last day of those records of sessions that were removed for their age: of days up to it not all are there any more.
    pub async fn removed_until(&self) -> Result<Option<i64>, StoreError> {
        self.read(|db| Ok(anchor(db, Chain::Sessions)?.map(|anchor| anchor.day)))
            .await
    }
}

fn both_heads(db: &Connection) -> Result<[ChainHead; 2], StoreError> {
    let of = |chain| head(db, chain).map(|(seq, mac)| ChainHead { seq, mac });
    Ok([of(Chain::Sessions)?, of(Chain::Invocations)?])
}

fn first_difference<T: PartialEq>(a: &BTreeMap<i64, T>, b: &BTreeMap<i64, T>) -> Option<i64> {
    let differs = |day: &&i64| a.get(day) != b.get(day);
    a.keys().chain(b.keys()).filter(differs).min().copied()
}

static SESSIONS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT s.seq, s.mac, {SUBJECT}, s.at, s.reason, {} FROM usage_sessions s
         JOIN usage_subjects u ON u.ref = s.subject WHERE s.seq > ?1 ORDER BY s.seq LIMIT ?2",
        *SUMS
    )
});

static INVOCATIONS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT s.seq, s.mac, {SUBJECT}, s.at, s.task, s.count, s.wall_ms, s.bytes_in, s.bytes_out, s.cpu_us
         FROM usage_invocations s JOIN usage_subjects u ON u.ref = s.subject
         WHERE s.seq > ?1 ORDER BY s.seq LIMIT ?2"
    )
});

static ALL_SUMS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT dimension, key, day, sessions, {}, mac FROM usage_sums
         WHERE (dimension, key, day) > (?1, ?2, ?3) ORDER BY dimension, key, day LIMIT ?4",
        *SUMS
    )
});

/// An invocation on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvocationRow {
    /// Its number.
    pub seq: i64,
    /// What it says.
    pub record: Invocation,
}

impl Store {
    /// Invocations, the newest first: of a session, of a task, or all.
    pub async fn invocations(
        &self,
        request: PageRequest,
        session: Option<SessionId>,
        task: Option<String>,
    ) -> Result<Page<InvocationRow>, StoreError> {
        self.read(move |db| {
            let before: i64 = request.after()?.unwrap_or(i64::MAX);
            let which = match (&session, &task) {
                (Some(_), Some(_)) => "s.subject = (SELECT ref FROM usage_subjects WHERE session = ?3) AND s.task = ?4",
                (Some(_), None) => "s.subject = (SELECT ref FROM usage_subjects WHERE session = ?3) AND ?4 IS NULL",
                (None, Some(_)) => "?3 IS NULL AND s.task = ?4",
                (None, None) => "?3 IS NULL AND ?4 IS NULL",
            };
            let select = INVOCATIONS.replace(
                "s.seq > ?1 ORDER BY s.seq LIMIT",
                &format!("s.seq < ?1 AND {which} ORDER BY s.seq DESC LIMIT"),
            );
            let rows = db
                .prepare_cached(&select)?
                .query_map(
                    params![
                        before,
                        request.limit(),
                        session.as_ref().map(SessionId::as_str),
                        task
                    ],
                    |row| {
                        Ok(InvocationRow {
                            seq: row.get(0)?,
                            record: invocation(row)?,
                        })
                    },
                )?
                .collect::<Result<Vec<_>, _>>()?;
            Ok(request.page(rows, |row| row.seq.to_string()))
        })
        .await
    }
}

/// Where what follows the subject begins.
const REST: usize = 2 + SUBJECT_COLUMNS;

fn session_part(row: &Row<'_>) -> rusqlite::Result<SessionPart> {
    let reason = match row.get_ref(REST + 1)? {
        rusqlite::types::ValueRef::Null => None,
        _ => Some(super::super::sessions::from_word(row, REST + 1)?),
    };
    Ok(SessionPart {
        subject: subject_row(row, 2)?,
        at: row.get(REST)?,
        reason,
        used: totals(row, REST + 2)?,
    })
}

fn invocation(row: &Row<'_>) -> rusqlite::Result<Invocation> {
    Ok(Invocation {
        subject: subject_row(row, 2)?,
        at: row.get(REST)?,
        task: row.get(REST + 1)?,
        count: unsigned(row, REST + 2)?,
        wall_ms: unsigned(row, REST + 3)?,
        bytes_in: unsigned(row, REST + 4)?,
        bytes_out: unsigned(row, REST + 5)?,
        cpu_us: unsigned(row, REST + 6)?,
    })
}
