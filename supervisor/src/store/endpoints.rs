//! Named endpoints: each leads to one version until it is told otherwise. DEFAULT has no row and cannot be told anything;
//! it follows the newest version that is READY.

use super::once::{Done, Once, once};
use super::runtimes::{parsed, tail};
use super::versions::{State, newest, newest_ready, numbered, seq_of};
use super::worker::Durability;
use super::{PageRequest, Store, StoreError, Timestamp, VersionRecord, tags};
use proto::api::Page;
use proto::ids::{EndpointName, RuntimeId, VersionNumber};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;
use std::collections::BTreeMap;

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRecord {
    /// Its runtime.
    pub runtime: RuntimeId,
    /// The runtime's ARN.
    pub runtime_arn: String,
    /// Its own.
    pub arn: String,
    /// Its name.
    pub name: EndpointName,
    /// `<name>-<10 characters>`.
    pub id: String,
    /// The version that takes calls; `None` if none of the runtime's can.
    pub live: Option<VersionNumber>,
    /// The version that it leads, or is to lead, to.
    pub target: VersionNumber,
    /// For people.
    pub description: Option<String>,
    /// As the AWS wire calls it.
    pub status: &'static str,
    /// Why DEFAULT does not lead to the newest version.
    pub failure: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last told something.
    pub updated_at: Timestamp,
}

/// What an endpoint is to be told.
#[derive(Debug, Clone)]
pub struct NewEndpoint {
    /// Of which runtime.
    pub runtime: RuntimeId,
    /// Its name.
    pub name: EndpointName,
    /// Where it leads; the newest version, or for one that is there the version it has, if absent.
    pub version: Option<VersionNumber>,
    /// For people; kept as it is if absent.
    pub description: Option<String>,
    /// Whether it must be new, or must be there; `None`: either.
    pub new: Option<bool>,
    /// Tags of a new one.
    pub tags: BTreeMap<String, String>,
    /// Most endpoints of a runtime.
    pub most: u32,
    /// The caller's token.
    pub once: Option<Once>,
}

const COLUMNS: &str = "name, id, version, description, created_at, updated_at";

impl Store {
    /// Makes or changes an endpoint.
    pub async fn put_endpoint(
        &self,
        new: NewEndpoint,
        told: fn(&EndpointRecord) -> Value,
    ) -> Result<Done<(EndpointRecord, bool)>, StoreError> {
        self.write_new(Durability::Durable, move |db| {
            once(
                db,
                new.once.as_ref(),
                || put(db, &new),
                |(record, _)| told(record),
            )
        })
        .await
    }

    /// An endpoint, DEFAULT included.
    pub async fn endpoint(
        &self,
        runtime: &RuntimeId,
        name: &EndpointName,
    ) -> Result<EndpointRecord, StoreError> {
        let (runtime, name) = (runtime.clone(), name.clone());
        self.read(move |db| {
            let seq = seq_of(db, &runtime)?;
            find(db, seq, &name)?.ok_or_else(|| unknown(&runtime, &name))
        })
        .await
    }

    /// A runtime's endpoints by name, DEFAULT included.
    pub async fn endpoints(
        &self,
        runtime: &RuntimeId,
        request: PageRequest,
    ) -> Result<Page<EndpointRecord>, StoreError> {
        let runtime = runtime.clone();
        self.read(move |db| {
            let seq = seq_of(db, &runtime)?;
            let newest = newest(db, seq)?;
            let after: String = request.after()?.unwrap_or_default();
            let mut rows = db
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM endpoints WHERE runtime = ?1 AND name > ?2 ORDER BY name LIMIT ?3"
                ))?
                .query_map(params![seq, after, request.limit()], |row| named(row, &newest))?
                .collect::<Result<Vec<_>, _>>()?;
            let default = default_endpoint(db, seq, &newest)?;
            if default.name.as_str() > after.as_str() {
                rows.push(default);
                rows.sort_by(|one, other| one.name.cmp(&other.name));
                rows.truncate(usize::try_from(request.limit()).unwrap_or(usize::MAX));
            }
            Ok(request.page(rows, |endpoint| endpoint.name.to_string()))
        })
        .await
    }

    /// Deletes a named endpoint.
    pub async fn delete_endpoint(
        &self,
        runtime: &RuntimeId,
        name: &EndpointName,
        caller: Option<Once>,
        told: fn(&EndpointRecord) -> Value,
    ) -> Result<Done<EndpointRecord>, StoreError> {
        let (runtime, name) = (runtime.clone(), name.clone());
        self.write(Durability::Durable, move |db| {
            let delete = || {
                let seq = seq_of(db, &runtime)?;
                if name == EndpointName::default_endpoint() {
                    return Err(StoreError::Conflict(
                        "the DEFAULT endpoint goes with its runtime and cannot be deleted"
                            .to_owned(),
                    ));
                }
                let record = find(db, seq, &name)?.ok_or_else(|| unknown(&runtime, &name))?;
                db.prepare_cached("DELETE FROM endpoints WHERE runtime = ?1 AND name = ?2")?
                    .execute(params![seq, name.as_str()])?;
                tags::forget(db, &record.arn)?;
                Ok(record)
            };
            once(db, caller.as_ref(), delete, told)
        })
        .await
    }
}

fn put(db: &Connection, new: &NewEndpoint) -> Result<(EndpointRecord, bool), StoreError> {
    let seq = seq_of(db, &new.runtime)?;
    let found = find(db, seq, &new.name)?;
    if new.name == EndpointName::default_endpoint() {
        return Err(StoreError::Conflict(
            "the DEFAULT endpoint always leads to the newest version that is READY; make an endpoint of your own"
                .to_owned(),
        ));
    }
    let created = match (&found, new.new) {
        (Some(_), Some(true)) => {
            return Err(StoreError::Conflict(format!(
                "runtime {} has an endpoint {} already",
                new.runtime, new.name
            )));
        }
        (None, Some(false)) => return Err(unknown(&new.runtime, &new.name)),
        (found, _) => found.is_none(),
    };
    let version = match (new.version, &found) {
        (Some(version), _) => Some(version),
        (None, Some(found)) => found.live,
        (None, None) => newest_ready(db, seq)?,
    };
    let version = match version {
        Some(version) => numbered(db, seq, version)?,
        None => newest(db, seq)?,
    };
    if version.state != State::Ready {
        return Err(StoreError::Conflict(format!(
            "version {} of runtime {} is {}, not READY",
            version.number,
            version.name,
            version.state.status(version.number)
        )));
    }
    let now = Timestamp::now();
    if created {
        room(db, seq, new.most)?;
        let id = format!("{}-{}", new.name, tail());
        db.prepare_cached(
            "INSERT INTO endpoints (runtime, name, id, version, description, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
        )?
        .execute(params![seq, new.name.as_str(), id, version.number.0, new.description, now])?;
    } else {
        db.prepare_cached(
            "UPDATE endpoints SET version = ?3, description = coalesce(?4, description), updated_at = ?5
             WHERE runtime = ?1 AND name = ?2",
        )?
        .execute(params![seq, new.name.as_str(), version.number.0, new.description, now])?;
    }
    let record = find(db, seq, &new.name)?.ok_or_else(|| unknown(&new.runtime, &new.name))?;
    if created {
        tags::add(db, &record.arn, &new.tags)?;
    }
    Ok((record, created))
}

fn room(db: &Connection, seq: i64, most: u32) -> Result<(), StoreError> {
    let count: u32 = db
        .prepare_cached("SELECT count(*) FROM endpoints WHERE runtime = ?1")?
        .query_row([seq], |row| row.get(0))?;
    if count < most {
        return Ok(());
    }
    Err(StoreError::Quota(format!(
        "the runtime has {count} endpoints beside DEFAULT, which is the most there can be (limits.max_endpoints)"
    )))
}

/// Names of a runtime's own endpoints, and where they lead.
pub(super) fn versions(
    db: &Connection,
    seq: i64,
) -> Result<Vec<(EndpointName, VersionNumber)>, StoreError> {
    Ok(db
        .prepare_cached("SELECT name, version FROM endpoints WHERE runtime = ?1 ORDER BY name")?
        .query_map([seq], |row| {
            Ok((
                parsed(row, 0, EndpointName::parse)?,
                VersionNumber(row.get(1)?),
            ))
        })?
        .collect::<Result<_, _>>()?)
}

/// An endpoint of a runtime, DEFAULT included.
pub(super) fn find(
    db: &Connection,
    seq: i64,
    name: &EndpointName,
) -> Result<Option<EndpointRecord>, StoreError> {
    let newest = newest(db, seq)?;
    if *name == EndpointName::default_endpoint() {
        return default_endpoint(db, seq, &newest).map(Some);
    }
    Ok(db
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM endpoints WHERE runtime = ?1 AND name = ?2"
        ))?
        .query_row(params![seq, name.as_str()], |row| named(row, &newest))
        .optional()?)
}

fn default_endpoint(
    db: &Connection,
    seq: i64,
    newest: &VersionRecord,
) -> Result<EndpointRecord, StoreError> {
    let name = EndpointName::default_endpoint();
    let live = newest_ready(db, seq)?;
    // The runtime's own ten characters: there is one such endpoint for each runtime.
    let (_, tail) = newest.runtime.as_str().rsplit_once('-').unwrap_or_default();
    Ok(EndpointRecord {
        runtime: newest.runtime.clone(),
        runtime_arn: newest.arn.clone(),
        arn: arn(&newest.arn, &name),
        id: format!("{name}-{tail}"),
        live,
        target: newest.number,
        description: None,
        status: newest.state.status(newest.number),
        failure: newest.state.failure().map(str::to_owned),
        created_at: newest.runtime_created_at,
        updated_at: newest.created_at,
        name,
    })
}

fn named(row: &Row<'_>, newest: &VersionRecord) -> rusqlite::Result<EndpointRecord> {
    let name = parsed(row, 0, EndpointName::parse)?;
    let version = VersionNumber(row.get(2)?);
    Ok(EndpointRecord {
        runtime: newest.runtime.clone(),
        runtime_arn: newest.arn.clone(),
        arn: arn(&newest.arn, &name),
        name,
        id: row.get(1)?,
        live: Some(version),
        target: version,
        description: row.get(3)?,
        status: "READY",
        failure: None,
        created_at: row.get(4)?,
        updated_at: row.get(5)?,
    })
}

fn arn(runtime: &str, name: &EndpointName) -> String {
    format!("{runtime}/runtime-endpoint/{name}")
}

fn unknown(runtime: &RuntimeId, name: &EndpointName) -> StoreError {
    StoreError::NotFound(format!("endpoint {name} of runtime {runtime}"))
}
