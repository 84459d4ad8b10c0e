//! When a callback that failed is tried again.

use std::time::{Duration, SystemTime};

/// Before the second attempt.
const FIRST: Duration = Duration::from_secs(2);

/// Between attempts, the longest.
const LONGEST: Duration = Duration::from_secs(3600);

/// Each wait is so many times the one before.
const FACTOR: u32 = 3;

/// When the next attempt is: after `attempts` that failed, of which the first could be made at `since`, the last one ended
/// `now`; `None` if it would be later than `retry_for`. `random` spreads those that failed together: a wait is between three
/// quarters and five quarters of its length.
#[must_use]
pub fn next(
    attempts: u32,
    since: SystemTime,
    now: SystemTime,
    retry_for: Duration,
    random: u8,
) -> Option<SystemTime> {
    let wait = FACTOR
        .checked_pow(attempts.saturating_sub(1))
        .and_then(|factor| FIRST.checked_mul(factor))
        .map_or(LONGEST, |wait| wait.min(LONGEST));
    let wait = wait * (3 * 256 + 2 * u32::from(random)) / (4 * 256);
    let at = now.checked_add(wait)?;
    // A clock that was set back gives it its whole time again, not more.
    let over = since.min(now).checked_add(retry_for)?;
    (at <= over).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn waits_grow_to_an_hour_and_end_with_the_time() {
        let since = SystemTime::UNIX_EPOCH + 365 * DAY;
        let mut now = since;
        let mut waits = Vec::new();
        for attempts in 1.. {
            let Some(at) = next(attempts, since, now, DAY, 128) else {
                break;
            };
            waits.push(at.duration_since(now).expect("later").as_secs());
            now = at;
        }
        assert_eq!(waits[..8], [2, 6, 18, 54, 162, 486, 1458, 3600]);
        assert!(waits[8..].iter().all(|wait| *wait == 3600));
        assert!(now <= since + DAY && now > since + DAY - LONGEST);
        assert_eq!(waits.len(), 30);
    }

    #[test]
    fn waits_are_spread_and_numbers_do_no_harm() {
        let now = SystemTime::now();
        let wait = |attempts, random| {
            let at = next(attempts, now, now, DAY, random).expect("another");
            at.duration_since(now).expect("later")
        };
        assert_eq!(wait(1, 0), FIRST * 3 / 4);
        assert!(wait(1, 255) < FIRST * 5 / 4 && wait(1, 255) > FIRST);
        assert!(wait(u32::MAX, 255) < LONGEST * 5 / 4);
        assert_eq!(wait(0, 128), FIRST);
        assert_eq!(next(1, now, now, Duration::ZERO, 0), None);
        assert_eq!(next(1, now + DAY, now, FIRST / 2, 255), None);
    }
}
