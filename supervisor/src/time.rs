//! Time for people (RFC 3339) and for decisions ([`Clock`] makes the [`Moment`]s that `session-core` takes).

use session_core::moment::Moment;
use std::time::SystemTime;
use tokio::time::Instant;

/// RFC 3339 with milliseconds, UTC.
#[must_use]
pub fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// The broker's monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Starts at zero.
    #[must_use]
    pub fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    /// Now.
    #[must_use]
    pub fn now(self) -> Moment {
        Moment(u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// When a moment is, for timers. A millisecond later than asked, so that the moment has passed when the timer fires.
    #[must_use]
    pub fn instant(self, moment: Moment) -> Instant {
        // Timers a century away are as good as none, and do not overflow.
        const CENTURY_MS: u64 = 100 * 365 * 86_400_000;
        self.origin + std::time::Duration::from_millis(moment.0.min(CENTURY_MS) + 1)
    }
}
