//! Tier 1 (pure): a session's meter against sums made the slow way.
#![allow(missing_docs, reason = "a test")]

use proptest::prelude::*;
use session_core::meter::{Activity, Allocated, Meter, Reading, Totals};
use session_core::moment::Moment;
use std::time::Duration;

const ALLOCATED: Allocated = Allocated {
    memory_bytes: 512_000_000,
    cpu_millis: 1500,
};

fn reading(cpu_us: u64, memory_mb: u64, peak_mb: u64) -> Reading {
    Reading {
        cpu_us,
        memory_bytes: memory_mb * 1_000_000,
        peak_bytes: peak_mb * 1_000_000,
        tmp_bytes: None,
    }
}

#[test]
fn a_life_told_by_hand() {
    let mut meter = Meter::new(Moment(0), ALLOCATED);
    meter.read(Moment(1000), reading(10, 100, 100));
    meter.activity(Moment(1000), Activity::Active);
    // Its highest mark rose: the second's peak is known exactly.
    meter.read(Moment(2000), reading(500_010, 200, 300));
    meter.activity(Moment(2000), Activity::Idle);
    meter.read(Moment(3000), reading(500_020, 100, 300));
    meter.activity(Moment(3000), Activity::Frozen);
    meter.activity(Moment(13_000), Activity::Idle);
    meter.close(Moment(14_000), reading(500_030, 0, 300));
    let totals = meter.totals();
    assert_eq!(totals.wall_ms, 14_000);
    assert_eq!(totals.active_ms, 1000);
    assert_eq!(totals.frozen_ms, 10_000);
    assert_eq!(totals.cpu_us, 500_030);
    // 100 + 150 + 150 + 11 × 100 MB·s
    assert_eq!(totals.memory_kbs, 1_500_000);
    // 100 + 300 + 200 + 11 × 100
    assert_eq!(totals.memory_peak_kbs, 1_700_000);
    // 128 (the least) + 13 × 300
    assert_eq!(totals.memory_aws_kbs, 4_028_000);
    assert_eq!(totals.peak_bytes, 300_000_000);
    assert_eq!(totals.allocated_memory_kbs, 512_000);
    assert_eq!(totals.allocated_cpu_ms, 1500);
}

#[test]
fn a_session_that_nobody_looked_at_has_its_peak_for_a_second_at_aws() {
    let mut meter = Meter::new(Moment(5), ALLOCATED);
    meter.close(Moment(205), reading(7, 0, 200));
    let totals = meter.totals();
    assert_eq!(totals.wall_ms, 200);
    assert_eq!(totals.cpu_us, 7);
    assert_eq!(totals.memory_kbs, 40_000);
    assert_eq!(totals.memory_aws_kbs, 200_000);
}

#[test]
fn a_gap_is_active_only_between_two_active_ends() {
    for (before, after, active_ms) in [
        (Activity::Active, true, 7000),
        (Activity::Active, false, 2000),
        (Activity::Idle, true, 0),
    ] {
        let mut meter = Meter::new(Moment(0), ALLOCATED);
        meter.activity(Moment(0), before);
        meter.read(Moment(2000), reading(1, 100, 100));
        let saved = meter.saved();
        let gap = Duration::from_secs(5);
        let mut meter = Meter::resume(saved, Moment(90_000), gap, after);
        meter.read(Moment(90_000), reading(9, 200, 200));
        let totals = meter.totals();
        assert_eq!(totals.active_ms, active_ms, "{before:?} {after}");
        assert_eq!(totals.wall_ms, 7000);
        assert_eq!(totals.cpu_us, 9);
        assert_eq!(totals.memory_kbs, 200_000 + 5 * 150_000);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Read(u64, u64),
    Do(Activity),
    Settle,
    /// A part is recorded here.
    Cut,
    /// Another daemon takes over.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let activity = prop_oneof![
        Just(Activity::Idle),
        Just(Activity::Active),
        Just(Activity::Frozen)
    ];
    prop_oneof![
        4 => (0_u64..1000, 0_u64..500).prop_map(|(cpu, memory)| Step::Read(cpu, memory)),
        2 => activity.prop_map(Step::Do),
        1 => Just(Step::Settle),
        1 => Just(Step::Cut),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    /// Parts add up to the whole; no time is counted twice or left out, whatever clocks and readings do; each rule is between
    /// the bounds that the others set.
    #[test]
    fn a_meters_parts_are_the_whole(
        steps in prop::collection::vec((0_i64..3000, step()), 1..60),
        backwards in prop::collection::vec(any::<bool>(), 60),
    ) {
        let mut meter = Meter::new(Moment(1_000_000), ALLOCATED);
        let mut latest = 1_000_000_u64;
        let (mut cpu, mut peak) = (0_u64, 0_u64);
        let mut recorded = Totals::default();
        let mut parts = Totals::default();
        for ((passed, step), back) in steps.into_iter().zip(backwards) {
            // Now and then a moment is told late.
            let at = if back { latest.saturating_sub(passed.unsigned_abs()) } else { latest + passed.unsigned_abs() };
            latest = latest.max(at);
            match step {
                Step::Read(more, memory) => {
                    cpu += more;
                    peak = peak.max(memory);
                    meter.read(Moment(at), reading(cpu, memory, peak));
                }
                Step::Do(activity) => meter.activity(Moment(at), activity),
                Step::Settle => meter.settle(Moment(at)),
                Step::Cut => {
                    meter.settle(Moment(at));
                    let part = meter.totals().since(&recorded);
                    recorded = meter.totals();
                    parts = parts.plus(&part);
                }
                Step::Restart => {
                    meter.settle(Moment(latest));
                    meter = Meter::resume(meter.saved(), Moment(latest), Duration::ZERO, true);
                }
            }
        }
        meter.close(Moment(latest), reading(cpu, 0, peak));
        let whole = meter.totals();
        parts = parts.plus(&whole.since(&recorded));
        prop_assert_eq!(parts, whole);
        prop_assert_eq!(whole.wall_ms, latest - 1_000_000);
        prop_assert_eq!(whole.cpu_us, cpu);
        prop_assert!(whole.active_ms + whole.frozen_ms <= whole.wall_ms);
        prop_assert!(whole.memory_kbs <= whole.memory_peak_kbs);
        prop_assert!(whole.memory_peak_kbs <= whole.memory_aws_kbs);
        prop_assert!(whole.memory_aws_kbs <= (peak.max(128) * whole.wall_ms.max(1000)) + 1);
        prop_assert_eq!(whole.allocated_cpu_ms, whole.active_ms * 1500 / 1000);
    }

    /// The finer one looks, the nearer the plain integral is to the truth; and never further than the peak rule.
    #[test]
    fn readings_lie_around_the_integral(levels in prop::collection::vec(0_u64..1000, 2..50)) {
        let mut meter = Meter::new(Moment(0), ALLOCATED);
        let mut exact = 0_u64;
        let mut last = None;
        for (second, level) in levels.iter().enumerate() {
            let now = Moment(second as u64 * 1000);
            let peak = *levels[..=second].iter().max().expect("some");
            meter.read(now, reading(0, *level, peak));
            exact += last.map_or(0, |last: u64| (last + level) * 500);
            last = Some(*level);
        }
        prop_assert_eq!(meter.totals().memory_kbs, exact);
    }
}
