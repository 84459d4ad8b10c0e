//! A caller's token (contract §3.2, `clientToken`): the same request again is answered as the first was, and does nothing.

use super::{StoreError, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;
use std::time::Duration;

/// How long a token is remembered: longer than any SDK tries again.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// Most tokens of one caller; of those beyond it the oldest are forgotten.
const MOST: u32 = 10_000;

/// A request that is to be done once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// Who asks.
    pub caller: String,
    /// For what: tokens of different operations have nothing to do with each other.
    pub operation: &'static str,
    /// The token.
    pub token: String,
    /// Of everything else in the request.
    pub digest: String,
}

/// How a request was done.
#[derive(Debug, Clone, PartialEq)]
pub enum Done<T> {
    /// Now.
    Now(T),
    /// Earlier; what was answered then.
    Before(Value),
}

/// Does `work` unless it was done before; `told` is what will be answered if it is asked again.
pub(super) fn once<T>(
    db: &Connection,
    once: Option<&Once>,
    work: impl FnOnce() -> Result<T, StoreError>,
    told: impl FnOnce(&T) -> Value,
) -> Result<Done<T>, StoreError> {
    let Some(once) = once else {
        return work().map(Done::Now);
    };
    if let Some(answer) = before(db, once)? {
        return Ok(Done::Before(answer));
    }
    let done = work()?;
    let now = Timestamp::now();
    db.prepare_cached("DELETE FROM client_tokens WHERE created_at < ?1")?
        .execute([now.before(REMEMBERED)])?;
    db.prepare_cached(
        "DELETE FROM client_tokens WHERE (caller, operation, token) IN (
             SELECT caller, operation, token FROM client_tokens WHERE caller = ?1
             ORDER BY created_at DESC LIMIT -1 OFFSET ?2)",
    )?
    .execute(params![once.caller, MOST - 1])?;
    db.prepare_cached(
        "INSERT INTO client_tokens (caller, operation, token, digest, answer, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        once.caller,
        once.operation,
        once.token,
        once.digest,
        told(&done).to_string(),
        now
    ])?;
    Ok(Done::Now(done))
}

/// What was answered to this request before, if it was made.
pub(super) fn before(db: &Connection, once: &Once) -> Result<Option<Value>, StoreError> {
    let found: Option<(String, String)> = db
        .prepare_cached(
            "SELECT digest, answer FROM client_tokens
             WHERE caller = ?1 AND operation = ?2 AND token = ?3",
        )?
        .query_row(params![once.caller, once.operation, once.token], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    match found {
        Some((digest, answer)) if digest == once.digest => {
            let answer = serde_json::from_str(&answer).map_err(|error| {
                rusqlite::Error::FromSqlConversionFailure(
                    1,
                    rusqlite::types::Type::Text,
                    error.into(),
                )
            })?;
            Ok(Some(answer))
        }
        Some(_) => Err(StoreError::TokenReused),
        None => Ok(None),
    }
}
