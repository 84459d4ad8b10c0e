//! Sessions: which uid ranges are taken, what a restarted daemon needs to find them again, and how they ended.

use super::frozen::{self, FrozenNote};
use super::memo::{self, Memo};
use super::runtimes::{config, parsed, seq_and_latest};
use super::worker::Durability;
use super::{PageRequest, Store, StoreError, Timestamp, usage};
use crate::ledger::record::{SavedMeter, SessionPart};
use crate::owner::Owner;
use proto::api::{EndReason, Page, Phase, Session, Usage};
use proto::config::RuntimeConfig;
use proto::ids::{
    ArtifactId, ClientSessionId, EndpointName, RuntimeId, RuntimeName, SessionId, VersionNumber,
};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Most bytes of `detail`.
const MAX_DETAIL: usize = 4096;

/// The uids that this daemon instance may give to sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UidBlock {
    /// First uid of the first range.
    pub first: u32,
    /// Uids of one range.
    pub width: u32,
    /// Number of ranges.
    pub ranges: u32,
}

/// A session to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSession {
    /// Ours.
    pub id: SessionId,
    /// The caller's.
    pub client_id: ClientSessionId,
    /// Its runtime.
    pub runtime: RuntimeName,
    /// The version that it runs.
    pub version: VersionNumber,
    /// The endpoint that it was asked for at.
    pub endpoint: EndpointName,
    /// Whose it is.
    pub owner: Owner,
    /// The boot that it belongs to (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// What the shim's handshake asks for.
    pub token: String,
    /// Where its uids come from.
    pub uids: UidBlock,
}

/// How a launched session is found again, beside its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launched {
    /// Host pid of its PID 1.
    pub pid: i32,
    /// Start time of that process, clock ticks since boot.
    pub start_time: u64,
    /// Inode of its cgroup directory.
    pub cgroup_inode: u64,
}

/// What was launched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// How it is found again.
    pub launched: Launched,
    /// The template of which its agent is a fork, if it is one.
    pub template: Option<SessionId>,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionEnd {
    /// Why.
    pub reason: EndReason,
    /// False if it never became ready: its phase is then `Failed`.
    pub was_ready: bool,
    /// For people; cut at 4 KiB.
    pub detail: Option<String>,
    /// The final counters.
    pub usage: Usage,
    /// Outbound connections refused by policy.
    pub egress_refused: u64,
    /// Lines of output dropped.
    pub log_lines_dropped: u64,
    /// The last record of what it used, if it ever used anything; not told back.
    pub record: Option<SessionPart>,
}

/// A session as the store knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionRow {
    /// Ours.
    pub id: SessionId,
    /// The caller's.
    pub client_id: ClientSessionId,
    /// Its runtime's name.
    pub runtime: RuntimeName,
    /// Its runtime's id: names can be given anew, ids are not.
    pub runtime_id: RuntimeId,
    /// The version that it runs.
    pub version: VersionNumber,
    /// The endpoint that it was asked for at.
    pub endpoint: EndpointName,
    /// First host uid of its range.
    pub uid_base: u32,
    /// The boot that it belongs to.
    pub boot_id: String,
    /// What the shim's handshake asks for; forgotten at the end.
    pub token: Option<String>,
    /// Set once it is launched.
    pub launched: Option<Launched>,
    /// `Launching`, `Starting` (launched; its shim knows more), `Ended` or `Failed`.
    pub phase: Phase,
    /// When it was reserved.
    pub created_at: Timestamp,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub end: Option<SessionEnd>,
    /// Whose it is; sessions from before there were owners have none.
    pub owner: Option<Owner>,
    /// That it is frozen, or was to be.
    pub frozen: Option<FrozenNote>,
    seq: i64,
}

/// A session that had not ended when it was last heard of, with all that a recovering daemon needs.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveSession {
    /// The session.
    pub session: SessionRow,
    /// Its version's configuration.
    pub config: RuntimeConfig,
    /// Its version's code.
    pub artifact: ArtifactId,
    /// Whether its runtime has been deleted meanwhile: it is then to be stopped.
    pub runtime_deleted: bool,
    /// What was last written down of it.
    pub memo: Memo,
    /// How long it waited in a pool before it was somebody's.
    pub waited: Duration,
    /// CPU time that it used in that time, µs.
    pub waited_cpu_us: u64,
    /// The template of which its agent is a fork, if it is one.
    pub template: Option<SessionId>,
}

/// A session that waited in a pool, and whose it is from now on.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimedSession {
    /// Ours.
    pub id: SessionId,
    /// The caller's.
    pub client_id: ClientSessionId,
    /// Its runtime.
    pub runtime: RuntimeName,
    /// The endpoint that it was asked for at.
    pub endpoint: EndpointName,
    /// Whose it is.
    pub owner: Owner,
    /// Since when.
    pub at: Timestamp,
    /// How old its processes were then.
    pub waited: Duration,
    /// The meter of that time, closed.
    pub meter: SavedMeter,
}

/// Which sessions to list. Every part that is given must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Of this runtime.
    pub runtime: Option<RuntimeName>,
    /// With this id of the caller's.
    pub client_id: Option<ClientSessionId>,
    /// In this phase, as the store knows it (see [`SessionRow::phase`]).
    pub phase: Option<Phase>,
    /// Over (true) or not (false).
    pub over: Option<bool>,
    /// Also those that wait, or waited, in a pool, and were never anybody's.
    pub pool: bool,
}

const SESSION: &str = "SELECT s.seq, s.id, s.client_id, r.name, r.id, s.version, s.endpoint, s.uid_base, s.boot_id,
        s.token, s.pid, s.start_time, s.cgroup_inode, s.phase, s.created_at, s.ended_at, s.reason, s.detail,
        s.cpu_seconds, s.memory_peak_bytes, s.oom_kills, s.egress_refused, s.log_lines_dropped, s.owner,
        s.frozen_by, s.frozen_at, s.frozen_reason, s.frozen_boot_ms
    FROM sessions s JOIN runtimes r ON r.seq = s.runtime";

impl Store {
    /// Takes the lowest free uid range of the block and notes the session. [`StoreError::Conflict`] if the same owner
    /// has a live session of this id at that runtime and endpoint, [`StoreError::NoFreeUids`] if every range is taken. To be awaited
    /// in a task that nobody cancels: what is reserved stays so until [`Self::end_session`].
    pub async fn reserve_session(&self, new: NewSession) -> Result<SessionRow, StoreError> {
        self.write_new(Durability::Volatile, move |db| {
            let (runtime, _) = seq_and_latest(db, &new.runtime)?
                .ok_or_else(|| StoreError::NotFound(format!("runtime {}", new.runtime)))?;
            let there = db
                .prepare_cached("SELECT 1 FROM versions WHERE runtime = ?1 AND number = ?2")?
                .exists(params![runtime, new.version.0])?;
            if !there {
                return Err(StoreError::NotFound(format!(
                    "version {} of runtime {}",
                    new.version, new.runtime
                )));
            }
            if let Some(other) = live_of_client(db, runtime, (&new.endpoint, &new.client_id, &new.owner))? {
                return Err(StoreError::Conflict(format!(
                    "session {} is live already, as {other}",
                    new.client_id
                )));
            }
            let uid_base = lowest_free(db, new.uids)?;
            db.prepare_cached(
                "INSERT INTO sessions
                     (id, client_id, runtime, version, endpoint, uid_base, boot_id, token, phase, created_at, owner)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute(params![
                new.id.as_str(),
                new.client_id.as_str(),
                runtime,
                new.version.0,
                new.endpoint.as_str(),
                uid_base,
                new.boot_id,
                new.token,
                word(&Phase::Launching),
                Timestamp::now(),
                new.owner.key(),
            ])?;
            one(db, &new.id)
        })
        .await
    }

    /// Makes a session that waited in a pool somebody's, as newly as one that is reserved now; with it is written down what it
    /// used before, which goes on record afterwards ([`Store::record_last_parts`]). [`StoreError::Conflict`] if the owner has a live
    /// session of this id already, [`StoreError::NotFound`] if it does not wait any more.
    pub async fn claim_session(&self, new: ClaimedSession) -> Result<(), StoreError> {
        let key = Arc::clone(&self.chain);
        self.write_new(Durability::Volatile, move |db| {
            let (runtime, _) = seq_and_latest(db, &new.runtime)?
                .ok_or_else(|| StoreError::NotFound(format!("runtime {}", new.runtime)))?;
            let whose = (&new.endpoint, &new.client_id, &new.owner);
            if let Some(other) = live_of_client(db, runtime, whose)? {
                return Err(StoreError::Conflict(format!(
                    "session {} is live already, as {other}",
                    new.client_id
                )));
            }
            // Lists are in the order in which sessions were somebody's.
            db.prepare_cached("UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'sessions'")?
                .execute([])?;
            let changed = db
                .prepare_cached(
                    "UPDATE sessions SET client_id = ?2, endpoint = ?3, owner = ?4, created_at = ?5, waited_ms = ?6,
                         waited_cpu_us = ?9, seq = (SELECT seq FROM sqlite_sequence WHERE name = 'sessions')
                     WHERE id = ?1 AND runtime = ?7 AND owner = ?8 AND ended_at IS NULL",
                )?
                .execute(params![
                    new.id.as_str(),
                    new.client_id.as_str(),
                    new.endpoint.as_str(),
                    new.owner.key(),
                    new.at,
                    i64::try_from(new.waited.as_millis()).unwrap_or(i64::MAX),
                    runtime,
                    Owner::pool().key(),
                    new.meter.meter.cpu_us().cast_signed(),
                ])?;
            if changed == 0 {
                return Err(StoreError::NotFound(format!("waiting session {}", new.id)));
            }
            usage::meters::save(db, &key, &new.meter)
        })
        .await
    }

    /// Notes how a session that was just launched is found again.
    pub async fn session_launched(&self, id: &SessionId, launch: Launch) -> Result<(), StoreError> {
        let id = id.clone();
        self.write(Durability::Volatile, move |db| {
            let Launch { launched, template } = launch;
            let changed = db
                .prepare_cached(
                    "UPDATE sessions SET pid = ?2, start_time = ?3, cgroup_inode = ?4, phase = ?5, template = ?6
                     WHERE id = ?1 AND ended_at IS NULL",
                )?
                .execute(params![
                    id.as_str(),
                    launched.pid,
                    launched.start_time.cast_signed(),
                    launched.cgroup_inode.cast_signed(),
                    word(&Phase::Starting),
                    template.as_ref().map(SessionId::as_str),
                ])?;
            match changed {
                0 => Err(StoreError::NotFound(format!("live session {id}"))),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Notes the end and gives the uid range back: call it when nothing of the session is left. A session ends once; a
    /// second end is ignored. The answer is the row as it is then.
    pub async fn end_session(
        &self,
        id: &SessionId,
        end: SessionEnd,
    ) -> Result<SessionRow, StoreError> {
        let id = id.clone();
        let key = Arc::clone(&self.chain);
        self.write(Durability::Durable, move |db| {
            let phase = if end.was_ready { Phase::Ended } else { Phase::Failed };
            let ended = db.prepare_cached(
                "UPDATE sessions SET phase = ?2, ended_at = ?3, reason = ?4, detail = ?5, cpu_seconds = ?6,
                     memory_peak_bytes = ?7, oom_kills = ?8, egress_refused = ?9, log_lines_dropped = ?10,
                     token = NULL, frozen_by = NULL, frozen_at = NULL, frozen_reason = NULL, frozen_boot_ms = NULL
                 WHERE id = ?1 AND ended_at IS NULL",
            )?
            .execute(params![
                id.as_str(),
                word(&phase),
                Timestamp::now(),
                word(&end.reason),
                end.detail.as_deref().map(cut),
                // NaN would be NULL to SQLite.
                if end.usage.cpu_seconds.is_finite() { end.usage.cpu_seconds } else { 0.0 },
                end.usage.memory_peak_bytes.cast_signed(),
                end.usage.oom_kills.cast_signed(),
                end.egress_refused.cast_signed(),
                end.log_lines_dropped.cast_signed(),
            ])?;
            if let Some(record) = end.record.as_ref().filter(|_| ended > 0) {
                usage::append(db, &key, record)?;
            }
            one(db, &id)
        })
        .await
    }

    /// A session, live or over.
    pub async fn session(&self, id: &SessionId) -> Result<SessionRow, StoreError> {
        let id = id.clone();
        self.read(move |db| one(db, &id)).await
    }

    /// Sessions, newest first.
    pub async fn sessions(
        &self,
        request: PageRequest,
        filter: SessionFilter,
    ) -> Result<Page<SessionRow>, StoreError> {
        self.read(move |db| {
            let after: Option<i64> = request.after()?;
            let rows = db
                .prepare_cached(&format!(
                    "{SESSION} WHERE s.seq < ?1
                         AND (?3 IS NULL OR r.name = ?3) AND (?4 IS NULL OR s.client_id = ?4)
                         AND (?5 IS NULL OR s.phase = ?5) AND (?6 IS NULL OR (s.ended_at IS NOT NULL) = ?6)
                         AND (?7 OR s.owner NOT IN (?8, ?9))
                     ORDER BY s.seq DESC LIMIT ?2"
                ))?
                .query_map(
                    params![
                        after.unwrap_or(i64::MAX),
                        request.limit(),
                        filter.runtime.as_ref().map(RuntimeName::as_str),
                        filter.client_id.as_ref().map(ClientSessionId::as_str),
                        filter.phase.as_ref().map(word),
                        filter.over,
                        filter.pool,
                        Owner::pool().key(),
                        Owner::template().key(),
                    ],
                    session_row,
                )?
                .collect::<Result<Vec<_>, _>>()?;
            Ok(request.page(rows, |row| row.seq.to_string()))
        })
        .await
    }

    /// Ids of all sessions that are remembered.
    pub async fn session_ids(&self) -> Result<HashSet<String>, StoreError> {
        self.read(|db| {
            let ids = db
                .prepare_cached("SELECT id FROM sessions")?
                .query_map([], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            Ok(ids)
        })
        .await
    }

    /// Every session that has not ended, oldest first: what a daemon that starts has to look for.
    pub async fn live_sessions(&self) -> Result<Vec<LiveSession>, StoreError> {
        self.read(|db| {
            let columns = ", v.config, v.artifact, r.deleted_at IS NOT NULL, s.was_ready, s.mcp, s.egress_refused, s.log_lines_dropped, s.waited_ms, s.template, s.waited_cpu_us\n    FROM sessions s";
            let select = SESSION.replacen("\n    FROM sessions s", columns, 1);
            let rows = db
                .prepare_cached(&format!(
                    "{select} JOIN versions v ON v.runtime = s.runtime AND v.number = s.version
                     WHERE s.ended_at IS NULL ORDER BY s.seq"
                ))?
                .query_map([], |row| {
                    Ok(LiveSession {
                        session: session_row(row)?,
                        config: config(row, 28)?,
                        artifact: parsed(row, 29, ArtifactId::parse)?,
                        runtime_deleted: row.get(30)?,
                        memo: memo::read(row, 31)?,
                        waited: Duration::from_millis(row.get::<_, i64>(35)?.cast_unsigned()),
                        template: row
                            .get::<_, Option<String>>(36)?
                            .and_then(|text| SessionId::parse(text).ok()),
                        waited_cpu_us: row.get::<_, i64>(37)?.cast_unsigned(),
                    })
                })?
                .collect::<Result<Vec<_>, _>>()?;
            Ok(rows)
        })
        .await
    }
}

impl SessionRow {
    /// As the API tells it. For a live session the driver knows phase, activity and usage better.
    #[must_use]
    pub fn to_api(&self) -> Session {
        let over = self.ended_at.is_some();
        let end = self.end.as_ref();
        let owner = self.owner.as_ref();
        let user = owner.and_then(|owner| owner.user.as_ref());
        Session {
            owner: owner.map(|owner| owner.principal.to_string()),
            user_id: user.map(|user| user.as_str().to_owned()),
            id: self.id.clone(),
            session_id: self.client_id.clone(),
            runtime: self.runtime.clone(),
            version: self.version,
            phase: self.phase,
            frozen: self.frozen.as_ref().map(FrozenNote::to_api),
            in_flight: 0,
            created_at: self.created_at.to_string(),
            last_activity_at: self.ended_at.unwrap_or(self.created_at).to_string(),
            ended_at: self.ended_at.map(|at| at.to_string()),
            end_reason: end.map(|end| end.reason),
            end_detail: end.and_then(|end| end.detail.clone()),
            origin: None,
            pid: self.launched.filter(|_| !over).map(|launched| launched.pid),
            uid_base: (!over).then_some(self.uid_base),
            usage: end.map(|end| end.usage).unwrap_or_default(),
            pressure: None,
            egress_refused: end.map_or(0, |end| end.egress_refused),
            log_lines_dropped: end.map_or(0, |end| end.log_lines_dropped),
        }
    }
}

fn live_of_client(
    db: &Connection,
    runtime: i64,
    (endpoint, client_id, owner): (&EndpointName, &ClientSessionId, &Owner),
) -> Result<Option<String>, StoreError> {
    Ok(db
        .prepare_cached(
            "SELECT id FROM sessions
             WHERE runtime = ?1 AND endpoint = ?2 AND client_id = ?3 AND owner = ?4 AND ended_at IS NULL",
        )?
        .query_row(
            params![
                runtime,
                endpoint.as_str(),
                client_id.as_str(),
                owner.key()
            ],
            |row| row.get(0),
        )
        .optional()?)
}

/// The first uid of the lowest range that no live session holds. Ranges of an older, different block count as taken where
/// they overlap.
fn lowest_free(db: &Connection, block: UidBlock) -> Result<u32, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT uid_base FROM sessions WHERE ended_at IS NULL AND uid_base > ?1 ORDER BY uid_base",
    )?;
    let mut taken = statement.query([block.first.saturating_sub(block.width)])?;
    let mut next_taken = match taken.next()? {
        Some(row) => Some(row.get::<_, u32>(0)?),
        None => None,
    };
    for index in 0..block.ranges {
        let Some(base) = index
            .checked_mul(block.width)
            .and_then(|offset| block.first.checked_add(offset))
        else {
            break;
        };
        // Skip what lies wholly below this range; what is left either overlaps it or lies above it.
        while let Some(uid) = next_taken {
            if u64::from(uid) + u64::from(block.width) > u64::from(base) {
                break;
            }
            next_taken = match taken.next()? {
                Some(row) => Some(row.get(0)?),
                None => None,
            };
        }
        match next_taken {
            Some(uid) if u64::from(uid) < u64::from(base) + u64::from(block.width) => {}
            Some(_) | None => return Ok(base),
        }
    }
    Err(StoreError::NoFreeUids(block.ranges))
}

fn one(db: &Connection, id: &SessionId) -> Result<SessionRow, StoreError> {
    db.prepare_cached(&format!("{SESSION} WHERE s.id = ?1"))?
        .query_row([id.as_str()], session_row)
        .optional()?
        .ok_or_else(|| StoreError::NotFound(format!("session {id}")))
}

fn session_row(row: &Row<'_>) -> rusqlite::Result<SessionRow> {
    let unsigned = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let launched = match row.get::<_, Option<i32>>(10)? {
        None => None,
        Some(pid) => Some(Launched {
            pid,
            start_time: unsigned(11)?,
            cgroup_inode: unsigned(12)?,
        }),
    };
    let phase: Phase = from_word(row, 13)?;
    let ended_at: Option<Timestamp> = row.get(15)?;
    let end = match ended_at {
        None => None,
        Some(_) => Some(SessionEnd {
            reason: from_word(row, 16)?,
            was_ready: phase == Phase::Ended,
            detail: row.get(17)?,
            usage: Usage {
                cpu_seconds: row.get(18)?,
                memory_bytes: 0,
                memory_peak_bytes: unsigned(19)?,
                pids: 0,
                oom_kills: unsigned(20)?,
            },
            egress_refused: unsigned(21)?,
            log_lines_dropped: unsigned(22)?,
            record: None,
        }),
    };
    Ok(SessionRow {
        seq: row.get(0)?,
        id: parsed(row, 1, SessionId::parse)?,
        client_id: parsed(row, 2, ClientSessionId::parse)?,
        runtime: parsed(row, 3, RuntimeName::parse)?,
        runtime_id: parsed(row, 4, RuntimeId::parse)?,
        version: VersionNumber(row.get(5)?),
        endpoint: parsed(row, 6, EndpointName::parse)?,
        uid_base: row.get(7)?,
        boot_id: row.get(8)?,
        token: row.get(9)?,
        launched,
        phase,
        created_at: row.get(14)?,
        ended_at,
        end,
        owner: Owner::from_key(&row.get::<_, String>(23)?),
        frozen: frozen::read(row, 24)?,
    })
}

/// The word of one of our enums, as its JSON form has it.
pub(super) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(_) | Err(_) => unreachable!("only enums without data come here"),
    }
}

pub(super) fn from_word<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_value(serde_json::Value::String(text)).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
    })
}

fn cut(detail: &str) -> &str {
    match detail
        .char_indices()
        .find(|(at, c)| at + c.len_utf8() > MAX_DETAIL)
    {
        Some((at, _)) => &detail[..at],
        None => detail,
    }
}
