//! Tier 1 (pure): the pace of new sessions against its own rule, over random arrivals.
#![allow(missing_docs, reason = "a test")]

use proptest::prelude::*;
use session_core::moment::Moment;
use session_core::pace::{Pace, Rate};
use std::time::Duration;

proptest! {
    /// In every stretch of time at most its share and one burst begin; in the order in which they came; nobody waits longer than
    /// its patience; a refusal takes nothing, and names a time after which the same caller is served.
    #[test]
    fn never_faster_than_the_rate(
        gaps in prop::collection::vec(0_u64..400, 1..200),
        per_second in 1_u32..50,
        burst in 1_u32..20,
        patience in 0_u64..2000,
    ) {
        let rate = Rate { per_second, burst };
        let patience = Duration::from_millis(patience);
        let mut pace = Pace::default();
        let mut now = 0;
        let mut begun: Vec<u64> = Vec::new();
        for gap in gaps {
            now += gap;
            let before = pace;
            match pace.take(Moment(now), rate, patience) {
                Ok(wait) => {
                    prop_assert!(wait <= patience);
                    let at = now * 1000 + u64::try_from(wait.as_micros()).expect("short");
                    prop_assert!(begun.last().is_none_or(|last| *last <= at));
                    begun.push(at);
                }
                Err(later) => {
                    prop_assert_eq!(pace, before);
                    // Moments are whole milliseconds.
                    let then = now + u64::try_from(later.as_millis()).expect("short") + 1;
                    prop_assert!(before.clone().take(Moment(then), rate, patience).is_ok());
                }
            }
        }
        for (first, from) in begun.iter().enumerate() {
            for (last, to) in begun.iter().enumerate().skip(first) {
                let share = (to - from) * u64::from(per_second) / 1_000_000;
                let most = share + u64::from(burst) + 1;
                prop_assert!((last - first + 1) as u64 <= most, "{} in {} us", last - first + 1, to - from);
            }
        }
    }

    /// Whoever keeps to the rate never waits.
    #[test]
    fn no_wait_within_the_rate(per_second in 1_u32..200, burst in 1_u32..20, count in 1_u64..200) {
        let mut pace = Pace::default();
        let apart = 1000_u64.div_ceil(u64::from(per_second));
        for number in 0..count {
            let taken = pace.take(Moment(number * apart), Rate { per_second, burst }, Duration::ZERO);
            prop_assert_eq!(taken, Ok(Duration::ZERO));
        }
    }
}

#[test]
fn no_rate_is_no_wait() {
    let mut pace = Pace::default();
    let any = Rate {
        per_second: 0,
        burst: 1,
    };
    for _ in 0..1000 {
        assert_eq!(
            pace.take(Moment(1), any, Duration::ZERO),
            Ok(Duration::ZERO)
        );
    }
}

#[test]
fn a_turn_that_was_given_back_is_the_next_ones() {
    let mut pace = Pace::default();
    let rate = Rate {
        per_second: 10,
        burst: 1,
    };
    let now = Moment(1000);
    let patience = Duration::from_secs(1);
    assert_eq!(pace.take(now, rate, patience), Ok(Duration::ZERO));
    // Who waits and goes away, however often, costs nobody anything.
    for _ in 0..1000 {
        let wait = pace.take(now, rate, patience);
        assert_eq!(wait, Ok(Duration::from_millis(100)));
        pace.give_back(rate);
    }
    assert_eq!(
        pace.take(now, rate, patience),
        Ok(Duration::from_millis(100))
    );
    // Nobody takes any where there is no pace.
    let before = pace;
    pace.give_back(Rate {
        per_second: 0,
        burst: 1,
    });
    assert_eq!(pace, before);
}
