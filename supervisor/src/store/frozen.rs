//! That a live session is frozen: what a restarted daemon has to know of it before it speaks to its shim, which cannot answer.

use super::worker::Durability;
use super::{Store, StoreError, Timestamp};
use proto::api::{FreezeCause, Frozen};
use proto::ids::SessionId;
use rusqlite::{Row, params};
use std::time::Duration;

/// Why a session is frozen, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrozenNote {
    /// Never empty.
    pub causes: Vec<FreezeCause>,
    /// When the first of them came.
    pub at: Timestamp,
    /// The same by [`crate::time::since_boot`], which no step of the wall clock moves; not known of what an older daemon has noted.
    pub since_boot: Option<Duration>,
    /// In the words of whoever froze it.
    pub reason: Option<String>,
}

impl FrozenNote {
    /// As the API tells it.
    #[must_use]
    pub fn to_api(&self) -> Frozen {
        Frozen {
            causes: self.causes.clone(),
            since: self.at.to_string(),
            reason: self.reason.clone(),
        }
    }
}

impl Store {
    /// Notes that a live session is (about to be) frozen, or is so no more. Survives the daemon, not the machine: after a
    /// power cut no session is left.
    pub async fn session_frozen(
        &self,
        id: &SessionId,
        frozen: Option<FrozenNote>,
    ) -> Result<(), StoreError> {
        let id = id.clone();
        self.write(Durability::Volatile, move |db| {
            let causes = frozen.as_ref().map(|note| words(&note.causes));
            let changed = db
                .prepare_cached(
                    "UPDATE sessions SET frozen_by = ?2, frozen_at = ?3, frozen_reason = ?4, frozen_boot_ms = ?5
                     WHERE id = ?1 AND ended_at IS NULL",
                )?
                .execute(params![
                    id.as_str(),
                    causes,
                    frozen.as_ref().map(|note| note.at),
                    frozen.as_ref().and_then(|note| note.reason.as_deref()),
                    frozen
                        .as_ref()
                        .and_then(|note| i64::try_from(note.since_boot?.as_millis()).ok()),
                ])?;
            match changed {
                0 => Err(StoreError::NotFound(format!("live session {id}"))),
                _ => Ok(()),
            }
        })
        .await
    }
}

const WORDS: [(FreezeCause, &str); 3] = [
    (FreezeCause::Operator, "operator"),
    (FreezeCause::Budget, "budget"),
    (FreezeCause::Idle, "idle"),
];

fn words(causes: &[FreezeCause]) -> String {
    let known = WORDS.iter().filter(|(cause, _)| causes.contains(cause));
    known.map(|(_, word)| *word).collect::<Vec<_>>().join(",")
}

/// The note in four columns from `first`. One of which no cause is understood is an operator's: it keeps the session frozen
/// until somebody looks.
pub(super) fn read(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<FrozenNote>> {
    let Some(text) = row.get::<_, Option<String>>(first)? else {
        return Ok(None);
    };
    let known = WORDS
        .iter()
        .filter(|(_, word)| text.split(',').any(|each| each == *word));
    let mut causes: Vec<FreezeCause> = known.map(|(cause, _)| *cause).collect();
    if causes.is_empty() {
        causes.push(FreezeCause::Operator);
    }
    Ok(Some(FrozenNote {
        causes,
        at: row
            .get::<_, Option<Timestamp>>(first + 1)?
            .unwrap_or(Timestamp(0)),
        reason: row.get(first + 2)?,
        since_boot: row
            .get::<_, Option<u64>>(first + 3)?
            .map(Duration::from_millis),
    }))
}
