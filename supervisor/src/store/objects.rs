//! Rows of the S3 subset's objects. Their files are the business of `crate::objects`.

use super::worker::Durability;
use super::{Store, StoreError, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// An object whose file is in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewObject {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// The principal that puts it.
    pub maker: String,
    /// Name of its file, and its version id on the wire.
    pub version: String,
    /// ETag, without quotes.
    pub etag: String,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// How many bytes.
    pub size: u64,
    /// Media type.
    pub content_type: Option<String>,
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRow {
    /// Key.
    pub key: String,
    /// The principal that put it; empty for those from before that was noted.
    pub maker: String,
    /// Name of its file, and its version id on the wire.
    pub version: String,
    /// ETag, without quotes.
    pub etag: String,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// How many bytes.
    pub size: u64,
    /// Media type.
    pub content_type: Option<String>,
    /// When it was put.
    pub created_at: Timestamp,
}

/// What came of a change to a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<T> {
    /// It was made.
    Done(T),
    /// The object of that name is somebody else's, and was left alone.
    NotYours,
}

const OBJECT: &str =
    "SELECT key, maker, version, etag, sha256, size, content_type, created_at FROM objects";

impl Store {
    /// Notes an object, in the place of another one if that is `only`'s, or there is no such limit. The second part of the
    /// answer is the one whose place it took.
    pub async fn put_object(
        &self,
        new: NewObject,
        only: Option<String>,
    ) -> Result<Change<(ObjectRow, Option<ObjectRow>)>, StoreError> {
        self.write_new(Durability::Durable, move |db| {
            let replaced = find(db, &new.bucket, &new.key)?;
            if is_not(&replaced, only.as_ref()) {
                return Ok(Change::NotYours);
            }
            db.prepare_cached(
                "INSERT OR REPLACE INTO objects
                     (bucket, key, maker, version, etag, sha256, size, content_type, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                new.bucket,
                new.key,
                new.maker,
                new.version,
                new.etag,
                new.sha256,
                new.size.cast_signed(),
                new.content_type,
                Timestamp::now()
            ])?;
            let row = find(db, &new.bucket, &new.key)?
                .ok_or_else(|| StoreError::NotFound(format!("object {}", new.key)))?;
            Ok(Change::Done((row, replaced)))
        })
        .await
    }

    /// An object; only one of `only`'s, if there is that limit.
    pub async fn object(
        &self,
        bucket: &str,
        key: &str,
        only: Option<String>,
    ) -> Result<Option<ObjectRow>, StoreError> {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        self.read(move |db| {
            let found = find(db, &bucket, &key)?;
            Ok(found.filter(|row| only.is_none_or(|only| only == row.maker)))
        })
        .await
    }

    /// Some object with these bytes.
    pub async fn object_of_bytes(&self, sha256: &str) -> Result<Option<ObjectRow>, StoreError> {
        let sha256 = sha256.to_owned();
        self.read(move |db| {
            Ok(db
                .prepare_cached(&format!("{OBJECT} WHERE sha256 = ?1 LIMIT 1"))?
                .query_row([sha256], from_row)
                .optional()?)
        })
        .await
    }

    /// All objects.
    pub async fn objects(&self) -> Result<Vec<ObjectRow>, StoreError> {
        self.read(|db| {
            Ok(db
                .prepare_cached(OBJECT)?
                .query_map([], from_row)?
                .collect::<Result<_, _>>()?)
        })
        .await
    }

    /// A bucket's objects by key, from the one after `after`; `only` as for [`Store::object`].
    pub async fn objects_of(
        &self,
        bucket: &str,
        prefix: &str,
        after: &str,
        most: u16,
        only: Option<String>,
    ) -> Result<Vec<ObjectRow>, StoreError> {
        let (bucket, prefix, after) = (bucket.to_owned(), prefix.to_owned(), after.to_owned());
        self.read(move |db| {
            Ok(db
                .prepare_cached(&format!(
                    "{OBJECT} WHERE bucket = ?1 AND substr(key, 1, length(?2)) = ?2 AND key > ?3
                         AND (?5 IS NULL OR maker = ?5)
                     ORDER BY key LIMIT ?4"
                ))?
                .query_map(params![bucket, prefix, after, most, only], from_row)?
                .collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Forgets an object, if there is one, and it is `only`'s where there is that limit; what it was.
    pub async fn delete_object(
        &self,
        bucket: &str,
        key: &str,
        version: Option<String>,
        only: Option<String>,
    ) -> Result<Change<Option<ObjectRow>>, StoreError> {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        self.write(Durability::Durable, move |db| {
            let found = find(db, &bucket, &key)?;
            if is_not(&found, only.as_ref()) {
                return Ok(Change::NotYours);
            }
            let another =
                |row: &ObjectRow| version.as_ref().is_some_and(|asked| row.version != *asked);
            if found.as_ref().is_none_or(another) {
                return Ok(Change::Done(None));
            }
            db.prepare_cached("DELETE FROM objects WHERE bucket = ?1 AND key = ?2")?
                .execute(params![bucket, key])?;
            Ok(Change::Done(found))
        })
        .await
    }
}

/// Whether what was found is somebody else's than the one whose it must be.
fn is_not(found: &Option<ObjectRow>, only: Option<&String>) -> bool {
    match (found, only) {
        (Some(row), Some(only)) => row.maker != *only,
        (None, _) | (_, None) => false,
    }
}

fn find(db: &Connection, bucket: &str, key: &str) -> Result<Option<ObjectRow>, StoreError> {
    Ok(db
        .prepare_cached(&format!("{OBJECT} WHERE bucket = ?1 AND key = ?2"))?
        .query_row(params![bucket, key], from_row)
        .optional()?)
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<ObjectRow> {
    Ok(ObjectRow {
        key: row.get(0)?,
        maker: row.get(1)?,
        version: row.get(2)?,
        etag: row.get(3)?,
        sha256: row.get(4)?,
        size: row.get::<_, i64>(5)?.cast_unsigned(),
        content_type: row.get(6)?,
        created_at: row.get(7)?,
    })
}
