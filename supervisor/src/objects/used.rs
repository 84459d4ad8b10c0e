//! How many bytes of objects there are, each caller's and all together, those on their way included.

use super::ObjectError;
use crate::owner::Principal;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What every object counts beside its bytes: a row, a file, a block. Empty ones would have no bound otherwise.
pub(super) const OVERHEAD: u64 = 4096;

/// How many bytes there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Of all objects (`limits.objects`).
    pub all: u64,
    /// Of those of one caller (`limits.objects_per_caller`).
    pub each: u64,
}

/// See the module; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Used(Arc<Mutex<Sums>>);

#[derive(Debug, Default)]
struct Sums {
    all: u64,
    /// Nobody is in it with nothing, so it is no larger than the number of objects.
    of: HashMap<Principal, u64>,
}

impl Used {
    fn sums(&self) -> MutexGuard<'_, Sums> {
        // Nothing panics while it holds the lock; the sums are right in any case.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what is there already, whatever the bounds are now.
    pub(super) fn found(&self, maker: &Principal, bytes: u64) {
        let mut sums = self.sums();
        sums.all = sums.all.saturating_add(bytes);
        let own = sums.of.entry(maker.clone()).or_default();
        *own = own.saturating_add(bytes);
    }

    pub(super) fn take(
        &self,
        maker: &Principal,
        bytes: u64,
        room: Room,
    ) -> Result<(), ObjectError> {
        let mut sums = self.sums();
        let own = sums.of.get(maker).copied().unwrap_or(0);
        let fits = |sum: u64, most: u64| sum.checked_add(bytes).filter(|sum| *sum <= most);
        let all = fits(sums.all, room.all).ok_or(ObjectError::Full(room.all))?;
        let own = fits(own, room.each).ok_or(ObjectError::Share(room.each))?;
        sums.all = all;
        sums.of.insert(maker.clone(), own);
        Ok(())
    }

    pub(super) fn give_back(&self, maker: &Principal, bytes: u64) {
        let mut sums = self.sums();
        sums.all = sums.all.saturating_sub(bytes);
        if let Some(own) = sums.of.get_mut(maker) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                sums.of.remove(maker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_has_a_share_and_all_have_the_whole() {
        let used = Used::default();
        let (a, b, c) = (
            Principal::key("a"),
            Principal::key("b"),
            Principal::key("c"),
        );
        let room = Room { all: 100, each: 60 };
        used.take(&a, 60, room).expect("its share");
        assert!(matches!(
            used.take(&a, 1, room),
            Err(ObjectError::Share(60))
        ));
        used.take(&b, 40, room).expect("the rest");
        assert!(matches!(
            used.take(&c, 1, room),
            Err(ObjectError::Full(100))
        ));
        used.give_back(&a, 10);
        used.take(&c, 10, room).expect("what was given back");
        assert!(matches!(
            used.take(&a, 1, room),
            Err(ObjectError::Full(100))
        ));
        for (who, bytes) in [(&a, 50), (&b, 40), (&c, 10)] {
            used.give_back(who, bytes);
        }
        assert!(used.sums().of.is_empty() && used.sums().all == 0);
        // What was found counts, though it is more than there may be now.
        used.found(&b, 1000);
        assert!(used.take(&b, 1, room).is_err());
        assert!(used.take(&c, u64::MAX, room).is_err(), "it does not wrap");
    }
}
