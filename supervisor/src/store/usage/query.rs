//! What was used, by runtime, session, user or day: from the sums, never from the records one by one, so that a million of
//! them cost no more than a few.
//!
//! Live sessions have used something that is in no record yet. Whoever asks brings that along ([`LiveUse`]), and it is added
//! here, where the pages are made.

use super::super::{PageRequest, Store, StoreError, Timestamp};
use super::{Dimension, SUBJECT, SUBJECT_COLUMNS, SUMS, end_of, subject_row, totals, unsigned};
use crate::ledger::chain::columns;
use crate::ledger::record::{DAY_MS, Subject, day};
use crate::owner::Owner;
use proto::api::Page;
use proto::ids::{RuntimeName, SessionId};
use rusqlite::{Connection, OptionalExtension, params};
use session_core::meter::Totals;
use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

/// No session lives longer: sessions that began so long before a time cannot have been there then (14 days, and a day for the
/// clock).
const LONGEST_LIFE_MS: i64 = 15 * DAY_MS;

/// What rows are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageBy {
    /// A runtime, by name.
    Runtime,
    /// An owner and its user.
    User,
    /// A day (UTC).
    Day,
    /// A session.
    Session,
}

/// Which usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageQuery {
    /// What rows are about.
    pub by: UsageBy,
    /// Of this runtime only (not by user).
    pub runtime: Option<RuntimeName>,
    /// Of this owner only (not by runtime).
    pub owner: Option<Owner>,
    /// First and last day, counted from 1970-01-01.
    pub days: (i64, i64),
}

/// What a live session has used that is in no record.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveUse {
    /// Whose.
    pub subject: Subject,
    /// What.
    pub used: Totals,
}

/// A sum of many sessions.
#[derive(Debug, Clone, PartialEq)]
pub struct SumRow {
    /// Runtime's name, [`Owner::key`], or day.
    pub key: String,
    /// Sessions that ended.
    pub sessions: u64,
    /// Those that live; members of pools and templates are none.
    pub live: u64,
    /// What they used.
    pub used: Totals,
}

/// What one session used.
#[derive(Debug, Clone, PartialEq)]
pub struct UsageRow {
    /// Whose.
    pub subject: Subject,
    /// Whether it lives.
    pub live: bool,
    /// What.
    pub used: Totals,
}

impl Store {
    /// Sums, in the order of their keys. Not by session.
    pub async fn usage_sums(
        &self,
        request: PageRequest,
        query: UsageQuery,
        live: Vec<LiveUse>,
    ) -> Result<Page<SumRow>, StoreError> {
        self.read(move |db| {
            let after: Option<String> = request.after()?;
            let mut rows = match query.by {
                UsageBy::Day => by_day(db, &query, after.as_deref(), request.limit())?,
                UsageBy::Runtime | UsageBy::User | UsageBy::Session => {
                    by_key(db, &query, after.as_deref(), request.limit())?
                }
            };
            let whole = i64::try_from(rows.len()).unwrap_or(i64::MAX) < request.limit();
            let last = rows.last().map(|row| row.key.clone()).filter(|_| !whole);
            for (key, (count, used)) in summed(&query, live) {
                let before = after.as_ref().is_some_and(|after| key <= *after);
                let beyond = last.as_ref().is_some_and(|last| key > *last);
                if before || beyond {
                    continue;
                }
                match rows.binary_search_by(|row| row.key.cmp(&key)) {
                    Ok(at) => {
                        if let Some(row) = rows.get_mut(at) {
                            row.live = count;
                            row.used = row.used.plus(&used);
                        }
                    }
                    Err(at) => rows.insert(
                        at,
                        SumRow {
                            key,
                            sessions: 0,
                            live: count,
                            used,
                        },
                    ),
                }
            }
            Ok(request.page(rows, |row| row.key.clone()))
        })
        .await
    }

    /// Sessions, newest first.
    pub async fn usage_sessions(
        &self,
        request: PageRequest,
        query: UsageQuery,
        live: Vec<LiveUse>,
    ) -> Result<Page<UsageRow>, StoreError> {
        self.read(move |db| {
            let after: Option<i64> = request.after()?;
            let mut live: HashMap<SessionId, Totals> = live
                .into_iter()
                .map(|live| (live.subject.session, live.used))
                .collect();
            let mut rows = sessions(db, &query, after.unwrap_or(i64::MAX), request.limit())?;
            for (_, row) in &mut rows {
                if let Some(used) = live.remove(&row.subject.session) {
                    row.live = true;
                    row.used = row.used.plus(&used);
                }
            }
            let page = request.page(rows, |(seq, _)| seq.to_string());
            Ok(page.map(|(_, row)| row))
        })
        .await
    }

    /// What one session used, as far as there are records.
    pub async fn usage_of(&self, session: &SessionId) -> Result<Totals, StoreError> {
        let session = session.clone();
        self.read(move |db| {
            static SELECT: LazyLock<String> = LazyLock::new(|| {
                format!(
                    "SELECT {} FROM usage_sessions s JOIN usage_subjects u ON u.ref = s.subject WHERE u.session = ?1",
                    summing("s.")
                )
            });
            let used = db
                .prepare_cached(&SELECT)?
                .query_row([session.as_str()], |row| totals(row, 0))?;
            Ok(used)
        })
        .await
    }

    /// What all sessions of a runtime, or of an owner, used from that day on, as far as there are records.
    pub async fn usage_total(
        &self,
        by: UsageBy,
        key: String,
        first: i64,
    ) -> Result<Totals, StoreError> {
        self.read(move |db| {
            static SELECT: LazyLock<String> = LazyLock::new(|| {
                format!(
                    "SELECT {} FROM usage_sums WHERE dimension = ?1 AND key = ?2 AND day >= ?3",
                    summing("")
                )
            });
            let dimension = match by {
                UsageBy::Runtime => Dimension::Runtime,
                UsageBy::User => Dimension::Owner,
                UsageBy::Day | UsageBy::Session => Dimension::All,
            };
            let used = db
                .prepare_cached(&SELECT)?
                .query_row(params![dimension as i64, key, first], |row| totals(row, 0))?;
            Ok(used)
        })
        .await
    }

    /// What all sessions that a runtime has for an owner used from that day on. There is no sum of that: it counts as long as
    /// the records of the sessions are kept.
    pub async fn usage_of_user(
        &self,
        runtime: String,
        owner: String,
        first: i64,
    ) -> Result<Totals, StoreError> {
        self.read(move |db| {
            static SELECT: LazyLock<String> = LazyLock::new(|| {
                format!(
                    "SELECT {} FROM usage_subjects u JOIN usage_sessions s ON s.subject = u.ref
                     WHERE u.owner = ?1 AND u.runtime = ?2 AND u.created_at >= ?3 AND s.at >= ?4",
                    summing("s.")
                )
            });
            let from = first.saturating_mul(DAY_MS);
            let began = from.saturating_sub(LONGEST_LIFE_MS);
            let used = db
                .prepare_cached(&SELECT)?
                .query_row(params![owner, runtime, began, from], |row| totals(row, 0))?;
            Ok(used)
        })
        .await
    }
}

/// `sum(a), …, max(b), …`: peaks are no sums.
fn summing(prefix: &str) -> String {
    let sums = columns::NAMES.iter().map(|name| {
        let function = if name.ends_with("_bytes") {
            "max"
        } else {
            "sum"
        };
        format!("{function}({prefix}{name})")
    });
    sums.collect::<Vec<_>>().join(", ")
}

fn by_key(
    db: &Connection,
    query: &UsageQuery,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<SumRow>, StoreError> {
    // By its primary key: groups come in order, and the limit ends the walk.
    static SELECT: LazyLock<String> = LazyLock::new(|| {
        format!(
            "SELECT key, sum(sessions), {} FROM usage_sums
             WHERE dimension = ?1 AND key > ?2 AND (?3 IS NULL OR key = ?3) AND day BETWEEN ?4 AND ?5
             GROUP BY key ORDER BY key LIMIT ?6",
            summing("")
        )
    });
    let (dimension, only) = match query.by {
        UsageBy::User => (Dimension::Owner, query.owner.as_ref().map(Owner::key)),
        UsageBy::Runtime | UsageBy::Day | UsageBy::Session => {
            let name = query.runtime.as_ref();
            (
                Dimension::Runtime,
                name.map(|name| name.as_str().to_owned()),
            )
        }
    };
    let (first, last) = query.days;
    let rows = db
        .prepare_cached(&SELECT)?
        .query_map(
            params![
                dimension as i64,
                after.unwrap_or(""),
                only,
                first,
                last,
                limit
            ],
            |row| {
                Ok(SumRow {
                    key: row.get(0)?,
                    sessions: unsigned(row, 1)?,
                    live: 0,
                    used: totals(row, 2)?,
                })
            },
        )?
        .collect::<Result<Vec<_>, _>>()?;
    Ok(rows)
}

fn by_day(
    db: &Connection,
    query: &UsageQuery,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<SumRow>, StoreError> {
    static SELECT: LazyLock<String> = LazyLock::new(|| {
        format!(
            "SELECT day, sessions, {} FROM usage_sums
             WHERE dimension = ?1 AND key = ?2 AND day BETWEEN ?3 AND ?4 ORDER BY day LIMIT ?5",
            *SUMS
        )
    });
    let (dimension, key) = match (&query.runtime, &query.owner) {
        (Some(runtime), _) => (Dimension::Runtime, runtime.as_str().to_owned()),
        (None, Some(owner)) => (Dimension::Owner, owner.key()),
        (None, None) => (Dimension::All, String::new()),
    };
    let (first, last) = query.days;
    let first = match after {
        Some(after) => first.max(day_of(after)?.saturating_add(1)),
        None => first,
    };
    let rows = db
        .prepare_cached(&SELECT)?
        .query_map(params![dimension as i64, key, first, last, limit], |row| {
            Ok(SumRow {
                key: day_name(row.get(0)?),
                sessions: unsigned(row, 1)?,
                live: 0,
                used: totals(row, 2)?,
            })
        })?
        .collect::<Result<Vec<_>, _>>()?;
    Ok(rows)
}

/// A day as people write it, which sorts as days do.
#[must_use]
pub(crate) fn day_name(day: i64) -> String {
    let at = Timestamp(day.saturating_mul(DAY_MS)).to_string();
    at.split('T').next().unwrap_or_default().to_owned()
}

/// What [`day_name`] wrote.
pub(crate) fn day_of(name: &str) -> Result<i64, StoreError> {
    let plain = name.len() == 10 && name.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    let at = plain.then(|| humantime::parse_rfc3339(&format!("{name}T00:00:00Z")));
    match at {
        Some(Ok(at)) => {
            let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            Ok(i64::try_from(since.as_secs() / 86_400).unwrap_or(i64::MAX))
        }
        Some(Err(_)) | None => Err(StoreError::Invalid {
            field: "day",
            message: format!("`{name}` is not a day such as 2026-11-29"),
        }),
    }
}

/// Sums of live sessions by the query's key. What they use is of today.
fn summed(query: &UsageQuery, live: Vec<LiveUse>) -> BTreeMap<String, (u64, Totals)> {
    let today = day(Timestamp::now());
    let mut sums: BTreeMap<String, (u64, Totals)> = BTreeMap::new();
    if !(query.days.0..=query.days.1).contains(&today) {
        return sums;
    }
    for LiveUse { subject, used } in live {
        let runtime = query.runtime.as_ref();
        let owner = query.owner.as_ref();
        if runtime.is_some_and(|runtime| *runtime != subject.runtime)
            || owner.is_some_and(|owner| *owner != subject.owner)
        {
            continue;
        }
        let key = match query.by {
            UsageBy::Runtime | UsageBy::Session => subject.runtime.as_str().to_owned(),
            UsageBy::User => subject.owner.key(),
            UsageBy::Day => day_name(today),
        };
        let (count, sum) = sums.entry(key).or_default();
        // As on record: what waits, or is forked from, costs and is no session.
        *count += u64::from(!subject.owner.is_nobody());
        *sum = sum.plus(&used);
    }
    sums
}

fn sessions(
    db: &Connection,
    query: &UsageQuery,
    before: i64,
    limit: i64,
) -> Result<Vec<(i64, UsageRow)>, StoreError> {
    let (first, last) = query.days;
    let from = Timestamp(first.saturating_mul(DAY_MS));
    let until = end_of(last);
    let oldest = Timestamp(from.0.saturating_sub(LONGEST_LIFE_MS));
    // Sessions are numbered as they begin, more or less: what cannot have been there then is not walked over.
    let bound = |order: &str, at: Timestamp| {
        let wanted = format!(
            "SELECT ref FROM usage_subjects WHERE created_at {} ?1 ORDER BY created_at {order} LIMIT 1",
            if order == "ASC" { ">=" } else { "<" }
        );
        db.prepare_cached(&wanted)?
            .query_row([at], |row| row.get::<_, i64>(0))
            .optional()
    };
    let Some(lowest) = bound("ASC", oldest)? else {
        return Ok(Vec::new());
    };
    let highest = bound("DESC", until)?.unwrap_or(0);
    let select = format!(
        "SELECT u.ref, {SUBJECT}, {} FROM usage_subjects u
         LEFT JOIN usage_sessions s ON s.subject = u.ref AND s.at >= ?1 AND s.at < ?2
         WHERE u.ref >= ?3 AND u.ref <= ?4 AND u.ref < ?5
             {} {}
         GROUP BY u.ref HAVING count(s.seq) > 0
             OR EXISTS (SELECT 1 FROM usage_meters m WHERE m.subject = u.ref)
         ORDER BY u.ref DESC LIMIT ?8",
        summing("s."),
        if query.runtime.is_some() {
            "AND u.runtime = ?6"
        } else {
            "AND ?6 IS NULL"
        },
        if query.owner.is_some() {
            "AND u.owner = ?7"
        } else {
            "AND ?7 IS NULL"
        },
    );
    let rows = db
        .prepare_cached(&select)?
        .query_map(
            params![
                from,
                until,
                // A clock that was set back has given a later session an earlier time.
                lowest.saturating_sub(1000),
                highest.saturating_add(1000),
                before,
                query.runtime.as_ref().map(RuntimeName::as_str),
                query.owner.as_ref().map(Owner::key),
                limit
            ],
            |row| {
                let used = totals(row, SUBJECT_COLUMNS + 1)?;
                let subject = subject_row(row, 1)?;
                let live = false;
                Ok((
                    row.get(0)?,
                    UsageRow {
                        subject,
                        live,
                        used,
                    },
                ))
            },
        )?
        .collect::<Result<Vec<_>, _>>()?;
    Ok(rows)
}
