//! How many frames may begin: so many in a second, and a second's worth at once.

use std::time::Duration;
use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pace {
    per_second: u32,
    /// When all of them will be there again.
    full: Instant,
}

impl Pace {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            per_second: per_second.max(1),
            full: Instant::now(),
        }
    }

    /// Frames that may begin now.
    pub(crate) fn left(&self) -> u32 {
        let missing = self.full.saturating_duration_since(Instant::now());
        let taken = (missing.as_secs_f64() * f64::from(self.per_second)).ceil();
        // Between 0 and all of them, whatever the clock says.
        let left = (f64::from(self.per_second) - taken).max(0.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let left = left as u32;
        left
    }

    /// Takes some of those that are left.
    pub(crate) fn take(&mut self, frames: u32) {
        self.full = self.full.max(Instant::now()) + self.each() * frames;
    }

    /// How long one takes to come back.
    pub(crate) fn each(&self) -> Duration {
        Duration::from_secs(1) / self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_seconds_worth_at_once_and_then_one_at_a_time() {
        let mut pace = Pace::new(250);
        assert_eq!(pace.left(), 250);
        pace.take(250);
        assert_eq!(pace.left(), 0);
        tokio::time::advance(Duration::from_millis(3)).await;
        assert_eq!(pace.left(), 0);
        tokio::time::advance(Duration::from_millis(5)).await;
        assert_eq!(pace.left(), 2);
        pace.take(1);
        assert_eq!(pace.left(), 1);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(pace.left(), 250);
    }
}
