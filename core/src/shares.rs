//! Who of the work in a session used its CPU time: by the time that each was in flight.
//!
//! A session has one counter, read every second. Between two readings its time is shared by all work that was in flight then,
//! each by how long: two invocations at once for the whole second have half of it each. What ran while nothing was in flight is
//! nobody's. So an invocation alone in its session has all that the session used meanwhile, its agent's own threads included,
//! and of several at once nobody can say more. The shares never add up to more than there was.

use std::collections::BTreeMap;

/// Names work among that of its session.
pub type WorkNumber = u64;

/// Work that ended, with its share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share<T> {
    /// CPU time, microseconds.
    pub cpu_us: u64,
    /// What the caller knows it by.
    pub of: T,
}

/// See the module. Times are microseconds since anything.
#[derive(Debug)]
pub struct Shares<T> {
    /// The last reading.
    since: u64,
    next: WorkNumber,
    running: BTreeMap<WorkNumber, Flight>,
    /// Since the last reading: how long each was in flight in that time, and what it had by then.
    ended: Vec<(u64, Share<T>)>,
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    began: u64,
    cpu_us: u64,
}

impl<T> Shares<T> {
    /// Nothing is in flight.
    #[must_use]
    pub fn new(now: u64) -> Self {
        Self {
            since: now,
            next: 0,
            running: BTreeMap::new(),
            ended: Vec::new(),
        }
    }

    /// Work begins.
    pub fn begin(&mut self, now: u64) -> WorkNumber {
        let number = self.next;
        self.next += 1;
        let flight = Flight {
            began: now,
            cpu_us: 0,
        };
        self.running.insert(number, flight);
        number
    }

    /// Work ends; it has its share with the next [`Self::settle`]. Work that is not in flight stays without one.
    pub fn end(&mut self, number: WorkNumber, now: u64, of: T) {
        if let Some(flight) = self.running.remove(&number) {
            let weight = now.saturating_sub(flight.began.max(self.since));
            let cpu_us = flight.cpu_us;
            self.ended.push((weight, Share { cpu_us, of }));
        }
    }

    /// Work ends that nobody is to be charged for: what it would have had is the others'.
    pub fn forget(&mut self, number: WorkNumber) {
        self.running.remove(&number);
    }

    /// Puts what ended last together with an earlier one that waits. `fold` adds what the caller knows.
    pub fn fold_last(&mut self, into: usize, fold: impl FnOnce(&mut T, T)) {
        if into + 1 >= self.ended.len() {
            return;
        }
        let last = self.ended.pop();
        if let (Some((weight, share)), Some((sum, place))) = (last, self.ended.get_mut(into)) {
            *sum = sum.saturating_add(weight);
            place.cpu_us = place.cpu_us.saturating_add(share.cpu_us);
            fold(&mut place.of, share.of);
        }
    }

    /// How many wait.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ended.len()
    }

    /// A reading: since the last one `cpu_us` were used. Gives what has ended, with its share.
    pub fn settle(&mut self, now: u64, cpu_us: u64) -> Vec<Share<T>> {
        let since = self.since;
        let flown = |flight: &Flight| now.saturating_sub(flight.began.max(since));
        let ended: u128 = self
            .ended
            .iter()
            .map(|(weight, _)| u128::from(*weight))
            .sum();
        let running: u128 = self.running.values().map(|f| u128::from(flown(f))).sum();
        let all = (ended + running).max(1);
        let part = |weight: u64| {
            let part = u128::from(cpu_us) * u128::from(weight) / all;
            u64::try_from(part).unwrap_or(u64::MAX)
        };
        for flight in self.running.values_mut() {
            flight.cpu_us = flight.cpu_us.saturating_add(part(flown(flight)));
        }
        self.since = self.since.max(now);
        let ended = std::mem::take(&mut self.ended).into_iter();
        ended
            .map(|(weight, share)| Share {
                cpu_us: share.cpu_us.saturating_add(part(weight)),
                of: share.of,
            })
            .collect()
    }
}
