//! Tags of runtimes and endpoints, by ARN.

use super::worker::Durability;
use super::{Store, StoreError, endpoints, versions};
use proto::ids::{EndpointName, RuntimeId};
use rusqlite::{Connection, params};
use std::collections::BTreeMap;

/// Most tags of a resource (contract §3.2).
const MOST: usize = 50;

impl Store {
    /// The tags of a resource.
    pub async fn tags(&self, arn: &str) -> Result<BTreeMap<String, String>, StoreError> {
        let arn = arn.to_owned();
        self.read(move |db| {
            require(db, &arn)?;
            of(db, &arn)
        })
        .await
    }

    /// Adds tags to a resource, or changes them.
    pub async fn tag(&self, arn: &str, new: BTreeMap<String, String>) -> Result<(), StoreError> {
        let arn = arn.to_owned();
        self.write_new(Durability::Durable, move |db| {
            require(db, &arn)?;
            add(db, &arn, &new)
        })
        .await
    }

    /// Takes tags away from a resource; those that it does not have do not matter.
    pub async fn untag(&self, arn: &str, keys: Vec<String>) -> Result<(), StoreError> {
        let arn = arn.to_owned();
        self.write(Durability::Durable, move |db| {
            require(db, &arn)?;
            let mut delete = db.prepare_cached("DELETE FROM tags WHERE arn = ?1 AND key = ?2")?;
            for key in &keys {
                delete.execute(params![arn, key])?;
            }
            Ok(())
        })
        .await
    }
}

fn of(db: &Connection, arn: &str) -> Result<BTreeMap<String, String>, StoreError> {
    Ok(db
        .prepare_cached("SELECT key, value FROM tags WHERE arn = ?1")?
        .query_map([arn], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?)
}

/// Adds tags to a resource that is there.
pub(super) fn add(
    db: &Connection,
    arn: &str,
    new: &BTreeMap<String, String>,
) -> Result<(), StoreError> {
    let mut insert = db.prepare_cached(
        "INSERT INTO tags (arn, key, value) VALUES (?1, ?2, ?3)
         ON CONFLICT (arn, key) DO UPDATE SET value = excluded.value",
    )?;
    for (key, value) in new {
        insert.execute(params![arn, key, value])?;
    }
    let count = of(db, arn)?.len();
    if count > MOST {
        return Err(StoreError::Quota(format!(
            "the resource would have {count} tags; at most {MOST}"
        )));
    }
    Ok(())
}

/// Forgets the tags of a resource and of what is below it.
pub(super) fn forget(db: &Connection, arn: &str) -> Result<(), StoreError> {
    db.prepare_cached(
        "DELETE FROM tags WHERE arn = ?1 OR substr(arn, 1, length(?1) + 1) = ?1 || '/'",
    )?
    .execute([arn])?;
    Ok(())
}

/// Refuses an ARN that nothing here has.
fn require(db: &Connection, arn: &str) -> Result<(), StoreError> {
    let unknown = || StoreError::NotFound(format!("resource {arn}"));
    let (runtime, endpoint) = match arn.split_once("/runtime-endpoint/") {
        None => (arn, None),
        Some((runtime, name)) => (
            runtime,
            Some(EndpointName::parse(name).map_err(|_| unknown())?),
        ),
    };
    let id = runtime
        .rsplit_once(":runtime/")
        .and_then(|(_, id)| RuntimeId::parse(id).ok())
        .ok_or_else(unknown)?;
    let seq = versions::seq_of(db, &id).map_err(|_| unknown())?;
    if versions::newest(db, seq)?.arn != runtime {
        return Err(unknown());
    }
    match endpoint {
        Some(name) if endpoints::find(db, seq, &name)?.is_none() => Err(unknown()),
        Some(_) | None => Ok(()),
    }
}
