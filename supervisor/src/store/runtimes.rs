//! Runtimes and their immutable versions.

use super::versions::{self, state};
use super::worker::Durability;
use super::{PageRequest, Store, StoreError, Timestamp};
use proto::api::{Page, Runtime, Version};
use proto::config::RuntimeConfig;
use proto::ids::{ArtifactId, RuntimeId, RuntimeName, VersionNumber};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// What ARNs of this daemon are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Region.
    pub region: String,
    /// Account, twelve digits.
    pub account: String,
}

impl Names {
    fn arn(&self, id: &RuntimeId) -> String {
        let Self { region, account } = self;
        format!("arn:aws:bedrock-agentcore:{region}:{account}:runtime/{id}")
    }
}

/// Highest version number (contract §3.4: five digits).
const MAX_VERSION: u32 = 99_999;

const RUNTIME: &str =
    "SELECT r.id, r.arn, r.name, v.number, v.config, v.artifact, r.created_at, r.updated_at,
        (SELECT count(*) FROM sessions s WHERE s.runtime = r.seq AND s.ended_at IS NULL), v.state, v.failure
    FROM runtimes r JOIN versions v ON v.runtime = r.seq
        AND v.number = (SELECT max(n.number) FROM versions n WHERE n.runtime = r.seq)
    WHERE r.deleted_at IS NULL";

const VERSION: &str = "SELECT v.number, v.config, v.artifact, v.created_at, v.state, v.failure
    FROM versions v JOIN runtimes r ON r.seq = v.runtime
    WHERE r.deleted_at IS NULL AND r.name = ?1";

impl Store {
    /// A runtime, by name.
    pub async fn runtime(&self, name: &RuntimeName) -> Result<Runtime, StoreError> {
        let name = name.clone();
        self.read(move |db| by_name(db, &name)).await
    }

    /// A runtime, by id.
    pub async fn runtime_by_id(&self, id: &RuntimeId) -> Result<Runtime, StoreError> {
        let id = id.clone();
        self.read(move |db| {
            db.prepare_cached(&format!("{RUNTIME} AND r.id = ?1"))?
                .query_row([id.as_str()], runtime_row)
                .optional()?
                .ok_or_else(|| StoreError::NotFound(format!("runtime {id}")))
        })
        .await
    }

    /// All runtimes, by name.
    pub async fn runtimes(&self, request: PageRequest) -> Result<Page<Runtime>, StoreError> {
        self.read(move |db| {
            let after: Option<String> = request.after()?;
            let rows = db
                .prepare_cached(&format!(
                    "{RUNTIME} AND r.name > ?1 ORDER BY r.name LIMIT ?2"
                ))?
                .query_map(
                    params![after.unwrap_or_default(), request.limit()],
                    runtime_row,
                )?
                .collect::<Result<Vec<_>, _>>()?;
            Ok(request.page(rows, |runtime| runtime.name.to_string()))
        })
        .await
    }

    /// A version of a runtime.
    pub async fn version(
        &self,
        name: &RuntimeName,
        number: VersionNumber,
    ) -> Result<Version, StoreError> {
        let name = name.clone();
        self.read(move |db| {
            by_name(db, &name)?;
            db.prepare_cached(&format!("{VERSION} AND v.number = ?2"))?
                .query_row(params![name.as_str(), number.0], version_row)
                .optional()?
                .ok_or_else(|| StoreError::NotFound(format!("version {number} of runtime {name}")))
        })
        .await
    }

    /// A runtime's versions, newest first.
    pub async fn versions(
        &self,
        name: &RuntimeName,
        request: PageRequest,
    ) -> Result<Page<Version>, StoreError> {
        let name = name.clone();
        self.read(move |db| {
            by_name(db, &name)?;
            let after: Option<u32> = request.after()?;
            let rows = db
                .prepare_cached(&format!(
                    "{VERSION} AND v.number < ?2 ORDER BY v.number DESC LIMIT ?3"
                ))?
                .query_map(
                    params![name.as_str(), after.unwrap_or(u32::MAX), request.limit()],
                    version_row,
                )?
                .collect::<Result<Vec<_>, _>>()?;
            Ok(request.page(rows, |version| version.version.to_string()))
        })
        .await
    }

    /// Deletes a runtime with all its versions and endpoints; its name is free at once. Its live sessions go on until they
    /// are stopped.
    pub async fn delete_runtime(&self, name: &RuntimeName) -> Result<(), StoreError> {
        let name = name.clone();
        self.write(Durability::Durable, move |db| {
            let (seq, _) = seq_and_latest(db, &name)?.ok_or_else(|| unknown(&name))?;
            versions::delete(db, seq, &versions::newest(db, seq)?)
        })
        .await
    }
}

fn unknown(name: &RuntimeName) -> StoreError {
    StoreError::NotFound(format!("runtime {name}"))
}

/// Row number and newest version of a runtime that is there.
pub(super) fn seq_and_latest(
    db: &Connection,
    name: &RuntimeName,
) -> Result<Option<(i64, u32)>, StoreError> {
    Ok(db
        .prepare_cached("SELECT seq, latest FROM runtimes WHERE name = ?1 AND deleted_at IS NULL")?
        .query_row([name.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?)
}

pub(super) fn insert(
    db: &Connection,
    names: &Names,
    name: &RuntimeName,
    now: Timestamp,
) -> Result<i64, StoreError> {
    let id = new_id(name);
    db.prepare_cached(
        "INSERT INTO runtimes (id, name, arn, latest, created_at, updated_at)
         VALUES (?1, ?2, ?3, 1, ?4, ?4)",
    )?
    .execute(params![id.as_str(), name.as_str(), names.arn(&id), now])?;
    Ok(db.last_insert_rowid())
}

pub(super) fn bump(
    db: &Connection,
    seq: i64,
    latest: u32,
    now: Timestamp,
) -> Result<u32, StoreError> {
    let number = latest + 1;
    if number > MAX_VERSION {
        return Err(StoreError::Conflict(format!(
            "the runtime has {MAX_VERSION} versions, which is the most there can be; delete it and deploy it anew"
        )));
    }
    db.prepare_cached("UPDATE runtimes SET latest = ?2, updated_at = ?3 WHERE seq = ?1")?
        .execute(params![seq, number, now])?;
    Ok(number)
}

/// A name, a hyphen and ten characters of [a-zA-Z0-9] (contract §3.2).
fn new_id(name: &RuntimeName) -> RuntimeId {
    RuntimeId::parse(format!("{name}-{}", tail()))
        .expect("made of a name and ten letters or digits")
}

/// Ten random characters of [a-zA-Z0-9].
pub(super) fn tail() -> String {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = uuid::Uuid::new_v4().as_u128() >> 66;
    let mut tail = String::with_capacity(10);
    for _ in 0..10 {
        let digit = usize::try_from(random % 62).unwrap_or(0);
        tail.push(char::from(ALPHABET[digit]));
        random /= 62;
    }
    tail
}

fn by_name(db: &Connection, name: &RuntimeName) -> Result<Runtime, StoreError> {
    db.prepare_cached(&format!("{RUNTIME} AND r.name = ?1"))?
        .query_row([name.as_str()], runtime_row)
        .optional()?
        .ok_or_else(|| unknown(name))
}

fn runtime_row(row: &Row<'_>) -> rusqlite::Result<Runtime> {
    Ok(Runtime {
        runtime_id: parsed(row, 0, RuntimeId::parse)?,
        arn: row.get(1)?,
        name: parsed(row, 2, RuntimeName::parse)?,
        version: VersionNumber(row.get(3)?),
        status: state(row, 9)?.status(VersionNumber(row.get(3)?)).to_owned(),
        failure: state(row, 9)?.failure().map(str::to_owned),
        config: config(row, 4)?,
        artifact: parsed(row, 5, ArtifactId::parse)?,
        sessions: row.get(8)?,
        pool: None,
        created_at: row.get::<_, Timestamp>(6)?.to_string(),
        updated_at: row.get::<_, Timestamp>(7)?.to_string(),
    })
}

fn version_row(row: &Row<'_>) -> rusqlite::Result<Version> {
    Ok(Version {
        version: VersionNumber(row.get(0)?),
        status: state(row, 4)?.status(VersionNumber(row.get(0)?)).to_owned(),
        failure: state(row, 4)?.failure().map(str::to_owned),
        config: config(row, 1)?,
        artifact: parsed(row, 2, ArtifactId::parse)?,
        created_at: row.get::<_, Timestamp>(3)?.to_string(),
    })
}

/// A configuration column.
pub(super) fn config(row: &Row<'_>, column: usize) -> rusqlite::Result<RuntimeConfig> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
    })
}

/// A column that holds a checked name.
pub(super) fn parsed<T, E: std::error::Error + Send + Sync + 'static>(
    row: &Row<'_>,
    column: usize,
    parse: impl FnOnce(String) -> Result<T, E>,
) -> rusqlite::Result<T> {
    parse(row.get(column)?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
    })
}
