//! Places for sessions to come: a name, a reserved uid range, and a stager parked in the session's cgroups.
//!
//! Names come before things: the store has the name and the uid range on disk before the launcher makes anything. Both
//! cost milliseconds (an fsync; on cgroup v1 the move of a process), so a few slots are made ahead, off the request's
//! path. A burst that empties the shelf makes its own.

use crate::broker::Broker;
use proto::ids::SessionId;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Slots kept ready. Enough that two cores launching at full speed find the next one made (a launch takes about as long
/// as a preparation), few enough that their processes do not matter (one small parked process each).
pub const SHELF: usize = 6;

/// A place for one session.
#[derive(Debug)]
pub struct Slot {
    /// Its name.
    pub session: SessionId,
    /// First uid of its range, if it is reserved already.
    pub uid_base: Option<u32>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Slots {
    shelf: Mutex<VecDeque<Slot>>,
    taken: Notify,
}

impl Slots {
    /// A slot: a prepared one, or a fresh name.
    pub fn take(&self) -> Slot {
        let ready = self.shelf.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        self.taken.notify_one();
        ready.unwrap_or_else(|| Slot { session: fresh_name(), uid_base: None })
    }

    /// Takes everything off the shelf (at shutdown).
    pub fn drain(&self) -> Vec<Slot> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    fn missing(&self) -> bool {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner).len() < SHELF
    }
}

/// Keeps the shelf full for as long as the broker lives. A failure is told once per streak and tried again with the next
/// launch, which meets the same fault on its own path and reports it to its caller.
pub async fn keep_full(broker: Arc<Broker>) {
    let mut failing = false;
    loop {
        while broker.slots.missing() {
            match prepare(&broker).await {
                Ok(slot) => {
                    failing = false;
                    broker
                        .slots
                        .shelf
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push_back(slot);
                }
                Err(fault) => {
                    if !failing {
                        tracing::warn!(fault, "no slot could be prepared; launches make their own");
                    }
                    failing = true;
                    break;
                }
            }
        }
        broker.slots.taken.notified().await;
    }
}

async fn prepare(broker: &Broker) -> Result<Slot, String> {
    let session = fresh_name();
    let uid_base = broker.reserve(&session).await.map_err(|error| crate::fault::chain(&error))?;
    if let Err(fault) = broker.launcher.prepare(session.clone()).await {
        broker.unreserve(&session).await;
        return Err(crate::fault::chain(&fault));
    }
    Ok(Slot { session, uid_base: Some(uid_base) })
}

/// `s` and 16 characters of a random number: unique without asking anyone, and not guessable.
fn fresh_name() -> SessionId {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let random = uuid::Uuid::new_v4().as_u128();
    let name: String = (0..16)
        .map(|at| char::from(ALPHABET[usize::try_from(random >> (at * 5) & 31).unwrap_or(0)]))
        .collect();
    SessionId::parse(format!("s{name}")).expect("17 characters of a-z and 2-7, a letter first")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_well_formed_and_differ() {
        let names: std::collections::HashSet<_> = (0..1000).map(|_| fresh_name()).collect();
        assert_eq!(names.len(), 1000);
    }
}
