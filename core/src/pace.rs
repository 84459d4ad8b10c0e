//! How fast new sessions, or one caller's calls, may begin: so many a second on average, so many at once. Whoever comes too early waits its turn; whoever
//! would wait too long is told when to come again, and takes no turn.
//!
//! The generic cell rate algorithm: [`Pace::due`] is when the next one would begin if nothing were allowed at once.

use crate::moment::Moment;
use std::time::Duration;

/// The rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// A second, on average; 0 is any number.
    pub per_second: u32,
    /// At once; at least one.
    pub burst: u32,
}

impl Rate {
    /// Microseconds from one to the next.
    fn interval(self) -> u64 {
        1_000_000 / u64::from(self.per_second.max(1))
    }
}

/// What has begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// In microseconds.
    due: u64,
}

impl Pace {
    /// Whether it is as one that has begun nothing: then it need not be kept.
    #[must_use]
    pub const fn is_at_rest(self, now: Moment) -> bool {
        self.due <= now.0.saturating_mul(1000)
    }

    /// A turn for one more: how long until it may begin. An error says when one could be had, and has taken none.
    pub fn take(
        &mut self,
        now: Moment,
        rate: Rate,
        patience: Duration,
    ) -> Result<Duration, Duration> {
        if rate.per_second == 0 {
            return Ok(Duration::ZERO);
        }
        let now = now.0.saturating_mul(1000);
        let interval = rate.interval();
        let ahead = interval.saturating_mul(u64::from(rate.burst.max(1) - 1));
        let wait = self.due.saturating_sub(ahead).saturating_sub(now);
        let wait = Duration::from_micros(wait);
        if wait > patience {
            return Err(wait - patience);
        }
        self.due = self.due.max(now).saturating_add(interval);
        Ok(wait)
    }

    /// Gives a turn back that was taken and not used.
    pub fn give_back(&mut self, rate: Rate) {
        if rate.per_second > 0 {
            self.due = self.due.saturating_sub(rate.interval());
        }
    }
}
