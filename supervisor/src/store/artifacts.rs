//! Which bundles there are. Their files are the business of `crate::artifacts`.

use super::worker::Durability;
use super::{PageRequest, Store, StoreError, Timestamp};
use proto::api::{Artifact, Page};
use proto::ids::ArtifactId;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Measures of a bundle that has just been unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewArtifact {
    /// SHA-256 of the packed bytes.
    pub id: ArtifactId,
    /// Packed bytes.
    pub packed_bytes: u64,
    /// Bytes of its files.
    pub unpacked_bytes: u64,
    /// Number of files, directories and links.
    pub entries: u64,
}

impl Store {
    /// Notes a bundle whose files are in place. The second part of the answer says whether it is new.
    pub async fn put_artifact(&self, new: NewArtifact) -> Result<(Artifact, bool), StoreError> {
        self.write_new(Durability::Durable, move |db| {
            let added = db
                .prepare_cached(
                    "INSERT INTO artifacts (id, packed_bytes, unpacked_bytes, entries, created_at)
                     VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (id) DO NOTHING",
                )?
                .execute(params![
                    new.id.as_str(),
                    new.packed_bytes.cast_signed(),
                    new.unpacked_bytes.cast_signed(),
                    new.entries.cast_signed(),
                    Timestamp::now(),
                ])?;
            Ok((one(db, &new.id)?, added == 1))
        })
        .await
    }

    /// A bundle.
    pub async fn artifact(&self, id: &ArtifactId) -> Result<Artifact, StoreError> {
        let id = id.clone();
        self.read(move |db| one(db, &id)).await
    }

    /// All bundles, by id.
    pub async fn artifacts(&self, request: PageRequest) -> Result<Page<Artifact>, StoreError> {
        self.read(move |db| {
            let after: Option<String> = request.after()?;
            let mut statement = db.prepare_cached(
                "SELECT id, packed_bytes, unpacked_bytes, entries, created_at FROM artifacts
                 WHERE id > ?1 ORDER BY id LIMIT ?2",
            )?;
            let rows = statement
                .query_map(
                    params![after.unwrap_or_default(), request.limit()],
                    from_row,
                )?
                .collect::<Result<Vec<_>, _>>()?;
            Ok(request.page(rows, |artifact| artifact.artifact_id.to_string()))
        })
        .await
    }

    /// Forgets a bundle; [`StoreError::Conflict`] while a version of a runtime or a live session uses it.
    pub async fn delete_artifact(&self, id: &ArtifactId) -> Result<(), StoreError> {
        let id = id.clone();
        self.write(Durability::Durable, move |db| {
            one(db, &id)?;
            if let Some(user) = user_of(db, &id)? {
                return Err(StoreError::Conflict(format!(
                    "artifact {id} is in use by {user}"
                )));
            }
            db.execute("DELETE FROM artifacts WHERE id = ?1", [id.as_str()])?;
            Ok(())
        })
        .await
    }
}

/// Refuses an id that no bundle has.
pub(super) fn one(db: &Connection, id: &ArtifactId) -> Result<Artifact, StoreError> {
    db.prepare_cached(
        "SELECT id, packed_bytes, unpacked_bytes, entries, created_at FROM artifacts WHERE id = ?1",
    )?
    .query_row([id.as_str()], from_row)
    .optional()?
    .ok_or_else(|| StoreError::NotFound(format!("artifact {id}; upload it first")))
}

fn user_of(db: &Connection, id: &ArtifactId) -> Result<Option<String>, StoreError> {
    let user = db
        .prepare_cached(
            "SELECT 'version ' || v.number || ' of runtime ' || r.name
             FROM versions v JOIN runtimes r ON r.seq = v.runtime
             WHERE v.artifact = ?1 AND (r.deleted_at IS NULL OR EXISTS (
                 SELECT 1 FROM sessions s
                 WHERE s.runtime = v.runtime AND s.version = v.number AND s.ended_at IS NULL))
             LIMIT 1",
        )?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    Ok(user)
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Artifact> {
    Ok(Artifact {
        artifact_id: super::runtimes::parsed(row, 0, ArtifactId::parse)?,
        packed_bytes: row.get::<_, i64>(1)?.cast_unsigned(),
        unpacked_bytes: row.get::<_, i64>(2)?.cast_unsigned(),
        entries: row.get::<_, i64>(3)?.cast_unsigned(),
        created_at: row.get::<_, Timestamp>(4)?.to_string(),
    })
}
