//! Versions on their way: made, finished, deleted. What they are once served is for [`super::runtimes`] to tell.
//!
//! ```text
//! (asked for) ──▸ MAKING ──▸ READY      served by DEFAULT if it is the newest, and by whatever endpoint names it
//!                       └──▸ FAILED     never served; the one before it goes on
//! ```

use super::once::{Done, Once, before, once};
use super::runtimes::{self, config, parsed, seq_and_latest};
use super::worker::Durability;
use super::{PageRequest, Store, StoreError, Timestamp, artifacts, endpoints, tags};
use proto::api::Page;
use proto::config::{Protocol, RuntimeConfig};
use proto::ids::{ArtifactId, EndpointName, RuntimeId, RuntimeName, VersionNumber};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;
use std::collections::BTreeMap;

/// Where a version is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Being unpacked and warmed up.
    Making,
    /// Can be served.
    Ready,
    /// Will never be served, and why.
    Failed(String),
}

impl State {
    const fn column(&self) -> &'static str {
        match self {
            Self::Making => "MAKING",
            Self::Ready => "READY",
            Self::Failed(_) => "FAILED",
        }
    }

    /// As the AWS wire calls it; a runtime's first version is created, the others are updates.
    #[must_use]
    pub const fn status(&self, number: VersionNumber) -> &'static str {
        match (self, number.0) {
            (Self::Making, 1) => "CREATING",
            (Self::Making, _) => "UPDATING",
            (Self::Ready, _) => "READY",
            (Self::Failed(_), 1) => "CREATE_FAILED",
            (Self::Failed(_), _) => "UPDATE_FAILED",
        }
    }

    /// Why it failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Failed(reason) => Some(reason),
            Self::Making | Self::Ready => None,
        }
    }
}

/// A version and its runtime.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionRecord {
    /// Its runtime.
    pub runtime: RuntimeId,
    /// The runtime's ARN.
    pub arn: String,
    /// The runtime's name.
    pub name: RuntimeName,
    /// Its number.
    pub number: VersionNumber,
    /// Where it is.
    pub state: State,
    /// As this daemon understands it.
    pub config: RuntimeConfig,
    /// Its code; the bundle may not be unpacked (yet).
    pub artifact: ArtifactId,
    /// What the AWS wire said, if it came by that.
    pub typed: Option<Value>,
    /// When the runtime was made.
    pub runtime_created_at: Timestamp,
    /// When this version was asked for.
    pub created_at: Timestamp,
}

/// Which runtime a new version is one of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionOf {
    /// A new one.
    New,
    /// One that is there.
    Existing(RuntimeId),
    /// Whichever has the name, or a new one.
    Either,
}

/// How much there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// Runtimes.
    pub runtimes: u32,
    /// Versions of a runtime.
    pub versions: u32,
    /// Endpoints of a runtime, DEFAULT not counted.
    pub endpoints: u32,
}

impl Quotas {
    /// Where the operator says nothing (contract §6).
    pub const BUILT_IN: Self = Self {
        runtimes: 1000,
        versions: 1000,
        endpoints: 10,
    };
}

/// A version to be made.
#[derive(Debug, Clone)]
pub struct NewVersion {
    /// Of which runtime.
    pub of: VersionOf,
    /// Its configuration, checked; the name in it is the runtime's.
    pub config: RuntimeConfig,
    /// Its code.
    pub artifact: ArtifactId,
    /// `Making`, or `Ready` for one whose bundle is there and has been looked at.
    pub state: State,
    /// What the AWS wire said.
    pub typed: Option<Value>,
    /// Tags of a new runtime.
    pub tags: BTreeMap<String, String>,
    /// How much there may be.
    pub quotas: Quotas,
    /// The caller's token.
    pub once: Option<Once>,
}

/// What the endpoints of a runtime lead to.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    /// The runtime.
    pub runtime: RuntimeId,
    /// What its newest version speaks, whatever its state is.
    pub protocol: Protocol,
    /// The newest version that is READY.
    pub default: Option<VersionRecord>,
    /// What named endpoints lead to.
    pub endpoints: Vec<(EndpointName, VersionRecord)>,
}

const RECORD: &str =
    "SELECT r.id, r.arn, r.name, v.number, v.state, v.failure, v.config, v.artifact, v.typed,
        r.created_at, v.created_at
    FROM runtimes r JOIN versions v ON v.runtime = r.seq
    WHERE r.deleted_at IS NULL";

/// Restricts [`RECORD`] to a runtime's newest version.
const NEWEST: &str = "v.number = (SELECT max(n.number) FROM versions n WHERE n.runtime = r.seq)";

impl Store {
    /// Makes a version, and its runtime if need be; `told` is what a caller who asks again with the same token is answered.
    /// The second part says whether the runtime is new.
    pub async fn make_version(
        &self,
        new: NewVersion,
        told: fn(&VersionRecord) -> Value,
    ) -> Result<Done<(VersionRecord, bool)>, StoreError> {
        let names = self.names.clone();
        self.write_new(Durability::Durable, move |db| {
            once(
                db,
                new.once.as_ref(),
                || {
                    if new.state == State::Ready {
                        artifacts::one(db, &new.artifact)?;
                    }
                    let name = &new.config.name;
                    let known = match &new.of {
                        VersionOf::Existing(id) => Some(existing(db, id)?),
                        VersionOf::Either => seq_and_latest(db, name)?,
                        VersionOf::New => match seq_and_latest(db, name)? {
                            None => None,
                            Some(_) => {
                                return Err(StoreError::Conflict(format!(
                                    "a runtime with the name {name} exists already"
                                )));
                            }
                        },
                    };
                    let now = Timestamp::now();
                    let (seq, number) = match known {
                        Some((seq, latest)) => {
                            not_making(db, seq, name)?;
                            room_for_version(db, seq, new.quotas.versions)?;
                            (seq, runtimes::bump(db, seq, latest, now)?)
                        }
                        None => {
                            room_for_runtime(db, new.quotas.runtimes)?;
                            (runtimes::insert(db, &names, name, now)?, 1)
                        }
                    };
                    insert(db, seq, number, &new, now)?;
                    let record = newest(db, seq)?;
                    if known.is_none() {
                        tags::add(db, &record.arn, &new.tags)?;
                    }
                    Ok((record, known.is_none()))
                },
                |(record, _)| told(record),
            )
        })
        .await
    }

    /// What a request with this token was answered before.
    pub async fn answered_before(&self, once: Once) -> Result<Option<Value>, StoreError> {
        self.read(move |db| before(db, &once)).await
    }

    /// Says how the making of a version ended. Nothing happens if it is not being made (any more).
    pub async fn finish_version(
        &self,
        runtime: &RuntimeId,
        number: VersionNumber,
        state: State,
    ) -> Result<(), StoreError> {
        let runtime = runtime.clone();
        self.write(Durability::Durable, move |db| {
            db.prepare_cached(
                "UPDATE versions SET state = ?3, failure = ?4 WHERE number = ?2 AND state = 'MAKING'
                 AND runtime = (SELECT seq FROM runtimes WHERE id = ?1)",
            )?
            .execute(params![
                runtime.as_str(),
                number.0,
                state.column(),
                state.failure()
            ])?;
            Ok(())
        })
        .await
    }

    /// A version of a runtime; the newest if none is named.
    pub async fn version_record(
        &self,
        runtime: &RuntimeId,
        number: Option<VersionNumber>,
    ) -> Result<VersionRecord, StoreError> {
        let runtime = runtime.clone();
        self.read(move |db| {
            let seq = seq_of(db, &runtime)?;
            match number {
                None => newest(db, seq),
                Some(number) => numbered(db, seq, number),
            }
        })
        .await
    }

    /// The newest version of every runtime, by name.
    pub async fn newest_versions(
        &self,
        request: PageRequest,
    ) -> Result<Page<VersionRecord>, StoreError> {
        self.read(move |db| {
            let after: Option<String> = request.after()?;
            let rows = db
                .prepare_cached(&format!(
                    "{RECORD} AND {NEWEST} AND r.name > ?1 ORDER BY r.name LIMIT ?2"
                ))?
                .query_map(params![after.unwrap_or_default(), request.limit()], record)?
                .collect::<Result<Vec<_>, _>>()?;
            Ok(request.page(rows, |record| record.name.to_string()))
        })
        .await
    }

    /// A runtime's versions, newest first.
    pub async fn version_records(
        &self,
        runtime: &RuntimeId,
        request: PageRequest,
    ) -> Result<Page<VersionRecord>, StoreError> {
        let runtime = runtime.clone();
        self.read(move |db| {
            let seq = seq_of(db, &runtime)?;
            let after: Option<u32> = request.after()?;
            let rows = db
                .prepare_cached(&format!(
                    "{RECORD} AND r.seq = ?1 AND v.number < ?2 ORDER BY v.number DESC LIMIT ?3"
                ))?
                .query_map(
                    params![seq, after.unwrap_or(u32::MAX), request.limit()],
                    record,
                )?
                .collect::<Result<Vec<_>, _>>()?;
            Ok(request.page(rows, |record| record.number.to_string()))
        })
        .await
    }

    /// Versions whose making an earlier daemon did not finish.
    pub async fn unfinished_versions(&self) -> Result<Vec<VersionRecord>, StoreError> {
        self.read(|db| {
            let rows = db
                .prepare_cached(&format!("{RECORD} AND v.state = 'MAKING'"))?
                .query_map([], record)?
                .collect::<Result<Vec<_>, _>>()?;
            Ok(rows)
        })
        .await
    }

    /// What the endpoints of a runtime lead to; `None` if there is no such runtime.
    pub async fn served(&self, name: &RuntimeName) -> Result<Option<Served>, StoreError> {
        let name = name.clone();
        self.read(move |db| {
            let Some((seq, _)) = seq_and_latest(db, &name)? else {
                return Ok(None);
            };
            let default = match newest_ready(db, seq)? {
                None => None,
                Some(number) => Some(numbered(db, seq, number)?),
            };
            let mut served = Vec::new();
            for (endpoint, number) in endpoints::versions(db, seq)? {
                served.push((endpoint, numbered(db, seq, number)?));
            }
            let newest = newest(db, seq)?;
            Ok(Some(Served {
                runtime: newest.runtime,
                protocol: newest.config.protocol,
                default,
                endpoints: served,
            }))
        })
        .await
    }

    /// Deletes one version that no endpoint leads to and no session runs.
    pub async fn delete_version(
        &self,
        runtime: &RuntimeId,
        number: VersionNumber,
        caller: Option<Once>,
        told: fn(&VersionRecord) -> Value,
    ) -> Result<Done<VersionRecord>, StoreError> {
        let runtime = runtime.clone();
        self.write(Durability::Durable, move |db| {
            once(
                db,
                caller.as_ref(),
                || {
                    let seq = seq_of(db, &runtime)?;
                    let record = numbered(db, seq, number)?;
                    not_making(db, seq, &record.name)?;
                    let conflict = |what: String| {
                        Err(StoreError::Conflict(format!(
                            "version {number} of runtime {} {what}",
                            record.name
                        )))
                    };
                    if newest_ready(db, seq)? == Some(number) {
                        return conflict("is the one that DEFAULT leads to; delete the runtime, or make a newer version first".to_owned());
                    }
                    if let Some((endpoint, _)) = endpoints::versions(db, seq)?
                        .into_iter()
                        .find(|(_, led)| *led == number)
                    {
                        return conflict(format!("is the one that endpoint {endpoint} leads to"));
                    }
                    if only_one(db, seq)? {
                        return conflict("is the only one; delete the runtime".to_owned());
                    }
                    if has_sessions(db, seq, number)? {
                        return conflict("has live sessions; stop them first".to_owned());
                    }
                    db.prepare_cached("DELETE FROM versions WHERE runtime = ?1 AND number = ?2")?
                        .execute(params![seq, number.0])?;
                    Ok(record)
                },
                told,
            )
        })
        .await
    }

    /// Deletes a runtime with all its versions and endpoints; its name is free at once. Its live sessions go on until they
    /// are stopped.
    pub async fn delete_runtime_by_id(
        &self,
        runtime: &RuntimeId,
        caller: Option<Once>,
        told: fn(&VersionRecord) -> Value,
    ) -> Result<Done<VersionRecord>, StoreError> {
        let runtime = runtime.clone();
        self.write(Durability::Durable, move |db| {
            once(
                db,
                caller.as_ref(),
                || {
                    let seq = seq_of(db, &runtime)?;
                    let record = newest(db, seq)?;
                    delete(db, seq, &record)?;
                    Ok(record)
                },
                told,
            )
        })
        .await
    }
}

/// Deletes a runtime that is not being made.
pub(super) fn delete(db: &Connection, seq: i64, record: &VersionRecord) -> Result<(), StoreError> {
    not_making(db, seq, &record.name)?;
    db.prepare_cached("UPDATE runtimes SET deleted_at = ?2 WHERE seq = ?1")?
        .execute(params![seq, Timestamp::now()])?;
    db.prepare_cached("DELETE FROM endpoints WHERE runtime = ?1")?
        .execute([seq])?;
    tags::forget(db, &record.arn)
}

/// Refuses a change of a runtime while a version of it is being made.
pub(super) fn not_making(db: &Connection, seq: i64, name: &RuntimeName) -> Result<(), StoreError> {
    let making: Option<u32> = db
        .prepare_cached("SELECT number FROM versions WHERE runtime = ?1 AND state = 'MAKING'")?
        .query_row([seq], |row| row.get(0))
        .optional()?;
    match making {
        None => Ok(()),
        Some(number) => Err(StoreError::Conflict(format!(
            "version {number} of runtime {name} is still being made; try again when its status is no longer {}",
            State::Making.status(VersionNumber(number))
        ))),
    }
}

fn insert(
    db: &Connection,
    seq: i64,
    number: u32,
    new: &NewVersion,
    now: Timestamp,
) -> Result<(), StoreError> {
    let config = serde_json::to_string(&new.config)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    db.prepare_cached(
        "INSERT INTO versions (runtime, number, config, artifact, created_at, state, typed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        seq,
        number,
        config,
        new.artifact.as_str(),
        now,
        new.state.column(),
        new.typed.as_ref().map(Value::to_string)
    ])?;
    Ok(())
}

fn room_for_runtime(db: &Connection, most: u32) -> Result<(), StoreError> {
    let count: u32 = db
        .prepare_cached("SELECT count(*) FROM runtimes WHERE deleted_at IS NULL")?
        .query_row([], |row| row.get(0))?;
    if count < most {
        return Ok(());
    }
    Err(StoreError::Quota(format!(
        "there are {count} runtimes, which is the most there can be (limits.max_runtimes); delete some"
    )))
}

fn room_for_version(db: &Connection, seq: i64, most: u32) -> Result<(), StoreError> {
    let count: u32 = db
        .prepare_cached("SELECT count(*) FROM versions WHERE runtime = ?1")?
        .query_row([seq], |row| row.get(0))?;
    if count < most {
        return Ok(());
    }
    Err(StoreError::Quota(format!(
        "the runtime has {count} versions, which is the most there can be (limits.max_versions); delete old ones"
    )))
}

/// The newest version that can be served.
pub(super) fn newest_ready(db: &Connection, seq: i64) -> Result<Option<VersionNumber>, StoreError> {
    Ok(db
        .prepare_cached("SELECT max(number) FROM versions WHERE runtime = ?1 AND state = 'READY'")?
        .query_row([seq], |row| row.get::<_, Option<u32>>(0))?
        .map(VersionNumber))
}

fn only_one(db: &Connection, seq: i64) -> Result<bool, StoreError> {
    let count: u32 = db
        .prepare_cached("SELECT count(*) FROM versions WHERE runtime = ?1")?
        .query_row([seq], |row| row.get(0))?;
    Ok(count == 1)
}

fn has_sessions(db: &Connection, seq: i64, number: VersionNumber) -> Result<bool, StoreError> {
    Ok(db
        .prepare_cached(
            "SELECT 1 FROM sessions WHERE runtime = ?1 AND version = ?2 AND ended_at IS NULL",
        )?
        .exists(params![seq, number.0])?)
}

/// Row number and highest number of a runtime that is there.
fn existing(db: &Connection, id: &RuntimeId) -> Result<(i64, u32), StoreError> {
    db.prepare_cached("SELECT seq, latest FROM runtimes WHERE id = ?1 AND deleted_at IS NULL")?
        .query_row([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?
        .ok_or_else(|| unknown(id))
}

/// Row number of a runtime that is there.
pub(super) fn seq_of(db: &Connection, id: &RuntimeId) -> Result<i64, StoreError> {
    db.prepare_cached("SELECT seq FROM runtimes WHERE id = ?1 AND deleted_at IS NULL")?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?
        .ok_or_else(|| unknown(id))
}

fn unknown(id: &RuntimeId) -> StoreError {
    StoreError::NotFound(format!("runtime {id}"))
}

/// A runtime's newest version.
pub(super) fn newest(db: &Connection, seq: i64) -> Result<VersionRecord, StoreError> {
    Ok(db
        .prepare_cached(&format!("{RECORD} AND {NEWEST} AND r.seq = ?1"))?
        .query_row([seq], record)?)
}

/// A runtime's version of this number.
pub(super) fn numbered(
    db: &Connection,
    seq: i64,
    number: VersionNumber,
) -> Result<VersionRecord, StoreError> {
    db.prepare_cached(&format!("{RECORD} AND r.seq = ?1 AND v.number = ?2"))?
        .query_row(params![seq, number.0], record)
        .optional()?
        .ok_or_else(|| StoreError::NotFound(format!("version {number} of this runtime")))
}

/// The state of the columns `state` and `failure`.
pub(super) fn state(row: &Row<'_>, column: usize) -> rusqlite::Result<State> {
    let text: String = row.get(column)?;
    Ok(match text.as_str() {
        "MAKING" => State::Making,
        "FAILED" => State::Failed(
            row.get::<_, Option<String>>(column + 1)?
                .unwrap_or_default(),
        ),
        // The table's check leaves nothing else.
        _ => State::Ready,
    })
}

fn record(row: &Row<'_>) -> rusqlite::Result<VersionRecord> {
    let typed: Option<String> = row.get(8)?;
    Ok(VersionRecord {
        runtime: parsed(row, 0, RuntimeId::parse)?,
        arn: row.get(1)?,
        name: parsed(row, 2, RuntimeName::parse)?,
        number: VersionNumber(row.get(3)?),
        state: state(row, 4)?,
        config: config(row, 6)?,
        artifact: parsed(row, 7, ArtifactId::parse)?,
        typed: typed.and_then(|text| serde_json::from_str(&text).ok()),
        runtime_created_at: row.get(9)?,
        created_at: row.get(10)?,
    })
}
