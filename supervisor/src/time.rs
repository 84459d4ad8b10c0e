//! Time for people (RFC 3339) and for decisions ([`Clock`] makes the [`Moment`]s that `session-core` takes).

use nix::time::{ClockId, clock_gettime};
use session_core::moment::Moment;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// This daemon's start on its clock: ages of sessions that are older than it have room below.
const BEGINNING: Moment = Moment(CENTURY.as_secs() * 1000);

const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

/// RFC 3339 with milliseconds, UTC.
#[must_use]
pub fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// The clock that processes' start times are told by, that steps of the wall clock do not move, and that goes on from one daemon
/// to the next.
#[must_use]
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(Duration::from)
        .unwrap_or_default()
}

/// The broker's monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Starts at [`BEGINNING`].
    #[must_use]
    pub fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    /// Now.
    #[must_use]
    pub fn now(self) -> Moment {
        BEGINNING + self.origin.elapsed()
    }

    /// When a moment is, for timers. A millisecond later than asked, so that the moment has passed when the timer fires.
    #[must_use]
    pub fn instant(self, moment: Moment) -> Instant {
        // Timers a century away are as good as none, and do not overflow.
        let ahead = (moment - BEGINNING).min(CENTURY);
        self.origin + ahead + Duration::from_millis(1)
    }
}
