//! Tier 1 (pure): CPU time among the work of a session.
#![allow(missing_docs, reason = "a test")]

use proptest::prelude::*;
use session_core::shares::Shares;

#[test]
fn work_has_what_was_used_while_it_was_in_flight() {
    let mut shares = Shares::new(0);
    let alone = shares.begin(0);
    assert!(shares.settle(1_000_000, 500_000).is_empty());
    let second = shares.begin(1_000_000);
    shares.end(alone, 1_500_000, "alone");
    shares.end(second, 2_000_000, "second");
    let ended = shares.settle(2_000_000, 300_000);
    let told: Vec<_> = ended.iter().map(|share| (share.of, share.cpu_us)).collect();
    // Half a second and a whole one.
    assert_eq!(told, [("alone", 600_000), ("second", 200_000)]);
    assert!(shares.settle(3_000_000, 99).is_empty(), "nobody's");
    shares.end(alone, 3_000_000, "again");
    assert_eq!(shares.count(), 0, "it has ended before");
}

#[test]
fn what_is_folded_is_a_sum() {
    let mut shares = Shares::new(0);
    for end in [100, 200, 300] {
        let number = shares.begin(0);
        shares.end(number, end, 1);
    }
    shares.fold_last(0, |sum, more| *sum += more);
    let ended = shares.settle(1000, 600);
    let told: Vec<_> = ended.iter().map(|share| (share.of, share.cpu_us)).collect();
    assert_eq!(told, [(2, 400), (1, 200)]);
}

proptest! {
    /// No more is shared than there was; and all of it, but for what rounding leaves, if something was in flight all the time.
    #[test]
    fn shares_never_add_up_to_more(
        steps in prop::collection::vec((0_u64..1_000_000, 0_u8..4, 0_u64..2_000_000), 1..80),
        always in any::<bool>(),
    ) {
        let mut shares = Shares::new(0);
        let (mut now, mut used, mut shared, mut readings, mut open) = (0, 0, 0, 0_u64, Vec::new());
        let whole = always.then(|| shares.begin(0));
        let mut begun = 0_u64;
        for (passed, what, cpu) in steps {
            now += passed + 1;
            match what {
                0 => { open.push(shares.begin(now)); begun += 1; }
                1 => if let Some(number) = open.pop() { shares.end(number, now, ()) },
                _ => {
                    used += cpu;
                    readings += 1;
                    shared += shares.settle(now, cpu).iter().map(|share| share.cpu_us).sum::<u64>();
                }
            }
        }
        for number in open.into_iter().chain(whole) {
            shares.end(number, now + 1, ());
        }
        shared += shares.settle(now + 1, 0).iter().map(|share| share.cpu_us).sum::<u64>();
        prop_assert!(shared <= used);
        if always {
            prop_assert!(used - shared <= readings * (begun + 1));
        }
    }
}
