//! How many bytes of a shim's words are written: the bound behind the shim's own, for a shim that has none any more.
//!
//! It is wide enough to be met by no shim that holds to `limits.log_rate`: a byte of output is at most [`LONGEST`] bytes of
//! the file, and a shim sends at most twice its burst at once (what it has kept, and what it may pass on).

use std::time::Instant;

/// Bytes of the file for one that counts at the shim: six for a control character (`\u0001`), and some for the time and the
/// stream of an empty line.
const LONGEST: u64 = 8;

/// A token bucket in bytes.
#[derive(Debug)]
pub(super) struct Allowance {
    per_s: u64,
    most: u64,
    left: u64,
    at: Instant,
}

impl Allowance {
    /// Of a shim with this rate and burst; full.
    pub(super) fn of_shim(per_s: u64, burst: u64, now: Instant) -> Self {
        let most = burst.saturating_mul(2 * LONGEST);
        Self {
            per_s: per_s.saturating_mul(LONGEST),
            most,
            left: most,
            at: now,
        }
    }

    /// Takes this much, or nothing.
    pub(super) fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_micros();
        let added = u128::from(self.per_s) * passed / 1_000_000;
        // Time that brought no whole byte is kept for the next call.
        if added > 0 {
            self.at = now;
            let left = u128::from(self.left) + added;
            self.left = u64::try_from(left).unwrap_or(u64::MAX).min(self.most);
        }
        let rest = u64::try_from(bytes)
            .ok()
            .and_then(|bytes| self.left.checked_sub(bytes));
        if let Some(rest) = rest {
            self.left = rest;
        }
        rest.is_some()
    }
}
