//! Access keys. Secrets are sealed before they come here (`crate::keys`).

use super::worker::Durability;
use super::{PageRequest, Store, StoreError, Timestamp};
use crate::permit::{Grant, ObjectPattern, Pattern};
use proto::api::Page;
use proto::ids::RuntimeName;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Most keys that are not revoked: they are all in memory.
const MAX_KEYS: i64 = 10_000;

/// Revoked keys remembered; the oldest are forgotten.
const REVOKED_KEPT: i64 = 1000;

/// A key to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Its id.
    pub id: String,
    /// For people.
    pub name: String,
    /// Its secret, sealed.
    pub sealed: Vec<u8>,
    /// What it may do.
    pub grant: Grant,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

/// A key as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Its id.
    pub id: String,
    /// For people.
    pub name: String,
    /// Its secret, sealed; empty once it is revoked.
    pub sealed: Vec<u8>,
    /// What it may do.
    pub grant: Grant,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    seq: i64,
}

const KEY: &str = "SELECT seq, id, name, sealed, runtimes, actions, objects, created_at, expires_at, revoked_at FROM access_keys";

impl Store {
    /// Notes a new key.
    pub async fn put_key(&self, new: NewKey) -> Result<KeyRow, StoreError> {
        self.write_new(Durability::Durable, move |db| {
            let live: i64 = db.query_row(
                "SELECT count(*) FROM access_keys WHERE revoked_at IS NULL",
                [],
                |row| row.get(0),
            )?;
            if live >= MAX_KEYS {
                return Err(StoreError::Conflict(format!(
                    "there are {live} access keys, as many as there may be; revoke some"
                )));
            }
            db.execute(
                "INSERT INTO access_keys (id, name, sealed, runtimes, actions, objects, created_at, expires_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    new.id,
                    new.name,
                    new.sealed,
                    new.grant.runtimes.as_ref().map(|names| list(names)),
                    new.grant.actions.as_ref().map(|patterns| list(patterns)),
                    new.grant.objects.as_ref().map(|patterns| list(patterns)),
                    Timestamp::now(),
                    new.expires_at,
                ],
            )?;
            one(db, &new.id)
        })
        .await
    }

    /// All keys that are not revoked.
    pub async fn live_keys(&self) -> Result<Vec<KeyRow>, StoreError> {
        self.read(|db| {
            let mut statement =
                db.prepare(&format!("{KEY} WHERE revoked_at IS NULL ORDER BY seq"))?;
            let rows = statement.query_map([], from_row)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Keys, in the order in which they were made.
    pub async fn keys(&self, page: PageRequest) -> Result<Page<KeyRow>, StoreError> {
        self.read(move |db| {
            let after: i64 = page.after()?.unwrap_or(0);
            let mut statement =
                db.prepare_cached(&format!("{KEY} WHERE seq > ?1 ORDER BY seq LIMIT ?2"))?;
            let rows = statement.query_map(params![after, page.limit()], from_row)?;
            let rows = rows.collect::<Result<Vec<_>, _>>()?;
            Ok(page.page(rows, |row: &KeyRow| row.seq.to_string()))
        })
        .await
    }

    /// Ends a key and forgets its secret.
    pub async fn revoke_key(&self, id: String) -> Result<(), StoreError> {
        self.write(Durability::Durable, move |db| {
            let changed = db.execute(
                "UPDATE access_keys SET revoked_at = ?2, sealed = x''
                 WHERE id = ?1 AND revoked_at IS NULL",
                params![id, Timestamp::now()],
            )?;
            if changed == 0 {
                return Err(StoreError::NotFound(format!(
                    "access key {id} that could be revoked"
                )));
            }
            db.execute(
                "DELETE FROM access_keys WHERE revoked_at IS NOT NULL AND seq NOT IN (
                     SELECT seq FROM access_keys WHERE revoked_at IS NOT NULL
                     ORDER BY revoked_at DESC, seq DESC LIMIT ?1)",
                [REVOKED_KEPT],
            )?;
            Ok(())
        })
        .await
    }
}

fn one(db: &Connection, id: &str) -> Result<KeyRow, StoreError> {
    db.query_row(&format!("{KEY} WHERE id = ?1"), [id], from_row)
        .optional()?
        .ok_or_else(|| StoreError::NotFound(format!("access key {id}")))
}

fn list(items: &[impl ToString]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    serde_json::json!(texts).to_string()
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<KeyRow> {
    let names = |text: &str| RuntimeName::parse(text).map_err(|error| error.to_string());
    Ok(KeyRow {
        seq: row.get(0)?,
        id: row.get(1)?,
        name: row.get(2)?,
        sealed: row.get(3)?,
        grant: Grant {
            runtimes: listed(row, 4, names)?,
            actions: listed(row, 5, Pattern::parse)?,
            objects: listed(row, 6, ObjectPattern::parse)?,
        },
        created_at: row.get(7)?,
        expires_at: row.get(8)?,
        revoked_at: row.get(9)?,
    })
}

/// A limit that cannot be read is damage: never no limit.
fn listed<T>(
    row: &Row<'_>,
    column: usize,
    parse: impl Fn(&str) -> Result<T, String>,
) -> rusqlite::Result<Option<Vec<T>>> {
    let Some(text) = row.get::<_, Option<String>>(column)? else {
        return Ok(None);
    };
    let fault = |message: String| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, message.into())
    };
    let texts: Vec<String> =
        serde_json::from_str(&text).map_err(|error| fault(error.to_string()))?;
    let items: Result<Vec<T>, String> = texts.iter().map(|text| parse(text)).collect();
    items.map(Some).map_err(fault)
}
