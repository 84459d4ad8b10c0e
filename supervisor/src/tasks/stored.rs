//! Bytes that tasks take on disk, and whose they are. The rule is that of [`crate::room`]: whoever takes some must leave at
//! least as much free as is theirs then, so that nobody can have all of it. Nobody waits here: what is stored stays for hours.

use crate::owner::Principal;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What a task takes beside its payload and its answer: its row, its places in indexes, its events.
pub(super) const OVERHEAD: u64 = 2048;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Stored(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    all: u64,
    each: HashMap<Principal, u64>,
}

impl Stored {
    /// Counts what is there already.
    pub(super) fn found(&self, whose: &Principal, bytes: u64) {
        self.held().add(whose, bytes);
    }

    /// Takes `bytes` more out of `room` in all; false if there is not enough for this caller.
    #[must_use]
    pub(super) fn take(&self, whose: &Principal, bytes: u64, room: u64) -> bool {
        let mut held = self.held();
        let theirs = held.each.get(whose).copied().unwrap_or(0);
        let Some(left) = room.checked_sub(held.all.saturating_add(bytes)) else {
            return false;
        };
        // What is larger than half of all gets in when nobody else has anything.
        let fits = theirs.saturating_add(bytes) <= left || held.all == 0;
        if fits {
            held.add(whose, bytes);
        }
        fits
    }

    /// Takes bytes that are given back unless they are kept.
    #[must_use]
    pub(super) fn charge(&self, whose: &Principal, bytes: u64, room: u64) -> Option<Charge> {
        self.take(whose, bytes, room).then(|| Charge {
            stored: self.clone(),
            whose: whose.clone(),
            bytes,
        })
    }

    /// Gives bytes back.
    pub(super) fn give(&self, whose: &Principal, bytes: u64) {
        let mut held = self.held();
        held.all = held.all.saturating_sub(bytes);
        if let Some(theirs) = held.each.get_mut(whose) {
            *theirs = theirs.saturating_sub(bytes);
            if *theirs == 0 {
                held.each.remove(whose);
            }
        }
    }

    /// All bytes.
    #[cfg(test)]
    fn all(&self) -> u64 {
        self.held().all
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        // Nothing panics while it holds the lock; the numbers are whole in any case.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn add(&mut self, whose: &Principal, bytes: u64) {
        self.all = self.all.saturating_add(bytes);
        let theirs = self.each.entry(whose.clone()).or_default();
        *theirs = theirs.saturating_add(bytes);
    }
}

/// Bytes of something that is being made. Dropping it gives them back.
#[derive(Debug)]
pub(super) struct Charge {
    stored: Stored,
    whose: Principal,
    bytes: u64,
}

impl Charge {
    /// More of them; false if there is not enough.
    #[must_use]
    pub(super) fn more(&mut self, bytes: u64, room: u64) -> bool {
        let taken = self.stored.take(&self.whose, bytes, room);
        self.bytes += if taken { bytes } else { 0 };
        taken
    }

    /// It is made: the bytes stay taken, until somebody gives them back. How many.
    pub(super) fn keep(mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.stored.give(&self.whose, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Principal {
        Principal::user(uid)
    }

    #[test]
    fn one_caller_has_half_and_the_next_finds_half_of_the_rest() {
        let stored = Stored::default();
        let mut taken = [0_u64; 2];
        for (uid, taken) in (0..).zip(&mut taken) {
            while stored.take(&user(uid), 10, 1000) {
                *taken += 10;
            }
        }
        assert_eq!(taken, [500, 250]);
        stored.give(&user(0), 500);
        assert!(stored.take(&user(1), 100, 1000));
        assert_eq!(stored.all(), 350);
    }

    #[test]
    fn what_is_not_kept_is_given_back() {
        let stored = Stored::default();
        let mut charge = stored.charge(&user(1), 10, 100).expect("room");
        assert!(charge.more(10, 100));
        assert!(!charge.more(1000, 100));
        drop(charge);
        assert_eq!(stored.all(), 0);
        let charge = stored.charge(&user(1), 10, 100).expect("room");
        assert_eq!(charge.keep(), 10);
        assert_eq!(stored.all(), 10);
    }
}
