//! Whether one more storage fits. Nothing is promised that is not there: what a session may still write counts as written.

/// What is on the shelf, and on the disk below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Census {
    /// Of [`Self::committed`], that of the caller who asks.
    pub(super) callers: u64,
    /// Bytes that idle storages take, and the whole size of those in use.
    pub(super) committed: u64,
    /// Bytes that those in use may still come to take.
    pub(super) growth: u64,
}

/// One image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its size.
    pub(super) bytes: u64,
    /// What it takes on the disk.
    pub(super) taken: u64,
    /// Whether a session has it.
    pub(super) in_use: bool,
    /// Whether it is the caller's who asks.
    pub(super) own: bool,
}

/// How much there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// In all.
    pub(super) total: u64,
    /// Of one caller.
    pub(super) per_caller: u64,
    /// On the disk.
    pub(super) free: u64,
}

impl Census {
    pub(super) fn add(&mut self, entry: Entry) {
        let committed = if entry.in_use {
            self.growth = self
                .growth
                .saturating_add(entry.bytes.saturating_sub(entry.taken));
            entry.bytes.max(entry.taken)
        } else {
            entry.taken
        };
        self.committed = self.committed.saturating_add(committed);
        if entry.own {
            self.callers = self.callers.saturating_add(committed);
        }
    }

    /// The sentence that says why it does not, if the storage `own` does not fit beside all these.
    pub(super) fn refuse(&self, own: Entry, bounds: Bounds) -> Option<String> {
        let Bounds {
            total,
            per_caller,
            free,
        } = bounds;
        let mut all = *self;
        all.add(Entry {
            in_use: true,
            own: true,
            ..own
        });
        if all.callers > per_caller {
            return Some(format!(
                "session storage of {} does not fit: {} of storage.per_caller ({}) are taken by this caller's other sessions' storage; it fits when some of them have ended, or with a larger storage.per_caller",
                told(own.bytes),
                told(self.callers),
                told(per_caller),
            ));
        }
        if all.committed > total {
            return Some(format!(
                "session storage of {} does not fit: {} of storage.total ({}) are taken by other sessions' storage; it fits when some of them have ended, or with a larger storage.total",
                told(own.bytes),
                told(self.committed),
                told(total),
            ));
        }
        (all.growth > free).then(|| {
            format!(
                "session storage of {} does not fit: the disk of the state directory has {} free, and sessions that run may still write {} of it",
                told(own.bytes),
                told(free),
                told(self.growth),
            )
        })
    }
}

/// In the words of people.
fn told(bytes: u64) -> String {
    match bytes {
        0..=0xF_FFFF => format!("{bytes} bytes"),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(bytes: u64, taken: u64, in_use: bool) -> Entry {
        Entry {
            bytes,
            taken,
            in_use,
            own: false,
        }
    }

    fn bounds(total: u64, free: u64) -> Bounds {
        Bounds {
            total,
            per_caller: total,
            free,
        }
    }

    #[test]
    fn what_a_session_may_still_write_counts_as_written() {
        let mut others = Census::default();
        others.add(entry(100, 10, false));
        assert_eq!((others.committed, others.growth), (10, 0));
        others.add(entry(100, 10, true));
        assert_eq!((others.committed, others.growth), (110, 90));
        let own = entry(50, 0, false);
        assert_eq!(others.refuse(own, bounds(160, 140)), None);
        let full = others.refuse(own, bounds(159, 140)).expect("a reason");
        assert!(full.contains("storage.total"), "{full}");
        let full = others.refuse(own, bounds(160, 139)).expect("a reason");
        assert!(full.contains("139 bytes free"), "{full}");
    }

    #[test]
    fn a_caller_has_its_share_whatever_is_left_of_the_whole() {
        let mut others = Census::default();
        others.add(entry(100, 10, true));
        others.add(Entry {
            own: true,
            ..entry(100, 30, false)
        });
        assert_eq!((others.committed, others.callers), (130, 30));
        let share = |per_caller| Bounds {
            per_caller,
            ..bounds(1000, 1000)
        };
        assert_eq!(others.refuse(entry(50, 0, false), share(80)), None);
        let full = others.refuse(entry(50, 0, false), share(79));
        let full = full.expect("a reason");
        assert!(full.contains("storage.per_caller (79 bytes)"), "{full}");
    }

    #[test]
    fn absurd_sizes_do_not_wrap_around() {
        let mut others = Census::default();
        for _ in 0..3 {
            others.add(Entry {
                own: true,
                ..entry(u64::MAX, 0, true)
            });
        }
        for per_caller in [1 << 40, u64::MAX] {
            let bounds = Bounds {
                per_caller,
                ..bounds(1 << 40, 1 << 40)
            };
            assert!(others.refuse(entry(1, 0, false), bounds).is_some());
        }
    }
}
