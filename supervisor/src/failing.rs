//! How something that is tried again and again goes on failing: when the next try is due, and why the last one failed.

use session_core::moment::Moment;
use std::time::Duration;

/// After the first failure, and at most, until the next try.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Longest sentence about a failure.
const MAX_WHY: usize = 500;

/// See the module. Absent where nothing fails.
#[derive(Debug)]
pub(crate) struct Failing {
    /// Beyond the first.
    times: u32,
    until: Moment,
    why: String,
}

impl Failing {
    /// One more failure, at `now`; failures that come together count once. Whether it is the first.
    pub(crate) fn note(of: &mut Option<Self>, why: &str, now: Moment) -> bool {
        let why = why.chars().take(MAX_WHY).collect();
        match of {
            Some(failing) if failing.until > now => failing.why = why,
            Some(failing) => {
                failing.times += 1;
                let pause = FIRST_PAUSE.saturating_mul(1 << failing.times.min(16));
                failing.until = now + pause.min(LONGEST_PAUSE);
                failing.why = why;
            }
            None => {
                *of = Some(Self {
                    times: 0,
                    until: now + FIRST_PAUSE,
                    why,
                });
                return true;
            }
        }
        false
    }

    /// Whether it may be tried now.
    pub(crate) fn tries(of: Option<&Self>, now: Moment) -> bool {
        of.is_none_or(|failing| failing.until <= now)
    }

    /// Why the last try failed.
    pub(crate) fn why(&self) -> &str {
        &self.why
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_five_minutes_and_failures_at_once_count_once() {
        let mut failing = None;
        let mut now = Moment(0);
        assert!(Failing::tries(failing.as_ref(), now));
        let mut pauses = Vec::new();
        for round in 0..11 {
            assert_eq!(Failing::note(&mut failing, "a", now), round == 0);
            Failing::note(&mut failing, "b", now);
            let begun = now;
            while !Failing::tries(failing.as_ref(), now) {
                now = now + Duration::from_secs(1);
            }
            pauses.push((now - begun).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(failing.expect("fails").why(), "b");
    }
}
