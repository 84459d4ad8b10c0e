//! A token bucket in bytes: how much output is passed on.

use std::time::Instant;

/// What a line costs beside its bytes: it becomes an object of its own on the wire, and an agent that prints empty lines
/// must not get those for nothing.
pub(super) const PER_LINE: u64 = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Bucket {
    per_s: u64,
    burst: u64,
    level: u64,
    at: Instant,
}

impl Bucket {
    /// Full.
    pub(super) fn new(per_s: u64, burst: u64, now: Instant) -> Self {
        Self {
            per_s,
            burst,
            level: burst,
            at: now,
        }
    }

    /// Adds what has come in since the last call.
    pub(super) fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_micros();
        let added = u128::from(self.per_s) * passed / 1_000_000;
        // Time that brought no whole byte is kept for the next call.
        if added > 0 {
            self.at = now;
            let level = u128::from(self.level) + added;
            self.level = u64::try_from(level).unwrap_or(u64::MAX).min(self.burst);
        }
    }

    pub(super) fn has(&self, cost: u64) -> bool {
        self.level >= cost
    }

    pub(super) fn spend(&mut self, cost: u64) {
        self.level = self.level.saturating_sub(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1000, 500, start);
        assert!(bucket.has(500) && !bucket.has(501));
        bucket.spend(500);
        assert!(!bucket.has(1));
        bucket.refill(start + Duration::from_millis(100));
        assert!(bucket.has(100) && !bucket.has(101));
        bucket.refill(start + Duration::from_secs(1000));
        assert!(bucket.has(500) && !bucket.has(501));
    }

    #[test]
    fn many_short_moments_add_up() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1000, 500, start);
        bucket.spend(500);
        for step in 1..=10_000 {
            bucket.refill(start + Duration::from_micros(10) * step);
        }
        assert!(bucket.has(99), "{bucket:?}");
    }
}
