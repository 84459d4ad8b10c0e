//! Tier 1 (pure): how pools are sized, simulated over arrivals: steady, bursts, by day, a herd, and a recorded trace.
//!
//! The simulation is the shell around the decisions as `supervisor/src/pool.rs` is: one look a second and after each claim, two
//! starts at a time, and a start takes its time.
#![allow(missing_docs, reason = "a test")]

use proptest::prelude::*;
use session_core::moment::Moment;
use session_core::pool::{
    Barometer, Bounds, Demand, HALF_LIFE, Pressure, RECOVERY, Reading, Wish, share_out, target,
};
use std::collections::VecDeque;
use std::time::Duration;

const UNUSED_AFTER: Duration = Duration::from_secs(600);
const AT_ONCE: usize = 2;

/// What became of a trace.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    hits: u32,
    misses: u32,
    /// Seconds that members waited, all together.
    idle: f64,
    most: usize,
    /// Members there at the very end.
    left: usize,
}

impl Outcome {
    fn hit_rate(&self) -> f64 {
        f64::from(self.hits) / f64::from(self.hits + self.misses)
    }
}

/// Plays arrivals (ms, in order) until `until`, with members that take `start` to become ready.
fn play(arrivals: &[u64], until: u64, start: u64, bounds: Bounds) -> Outcome {
    let mut demand = Demand::default();
    let mut arrivals = arrivals.iter().copied().peekable();
    let mut waiting = 0_usize;
    let mut starting: VecDeque<u64> = VecDeque::new();
    let (mut hits, mut misses, mut idle_ms, mut most) = (0, 0, 0_u64, 0);
    let lead = Duration::from_millis(start);
    let mut now = 0;
    while now < until {
        // The next thing that happens.
        let look = (now / 1000 + 1) * 1000;
        let next = [
            Some(look),
            arrivals.peek().copied(),
            starting.front().copied(),
        ];
        let next = next.into_iter().flatten().min().unwrap_or(look).min(until);
        idle_ms += u64::try_from(waiting).expect("few") * (next - now);
        now = next;
        while starting.front().is_some_and(|at| *at <= now) {
            starting.pop_front();
            waiting += 1;
        }
        while arrivals.peek().is_some_and(|at| *at <= now) {
            arrivals.next();
            demand.arrived(Moment(now), lead, bounds.max);
            if waiting > 0 {
                waiting -= 1;
                hits += 1;
            } else {
                misses += 1;
            }
        }
        let wanted = target(&demand, Moment(now), bounds, UNUSED_AFTER, Pressure::Calm);
        let wanted = usize::try_from(wanted).expect("few");
        while waiting + starting.len() < wanted && starting.len() < AT_ONCE {
            starting.push_back(now + start);
        }
        waiting = waiting.min(wanted);
        most = most.max(waiting + starting.len());
    }
    Outcome {
        hits,
        misses,
        idle: Duration::from_millis(idle_ms).as_secs_f64(),
        most,
        left: waiting + starting.len(),
    }
}

/// Numbers in (0, 1), the same ones each time.
fn uniform(seed: u64) -> impl Iterator<Item = f64> {
    let mut state = seed;
    std::iter::from_fn(move || {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let bits = u32::try_from(state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32).ok()?;
        Some((f64::from(bits) + 0.5) / (f64::from(u32::MAX) + 1.0))
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "milliseconds of some days"
)]
fn ms(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}

/// Arrivals at a rate (1/s) that changes with time, by thinning.
fn poisson(seed: u64, until: f64, highest: f64, rate: impl Fn(f64) -> f64) -> Vec<u64> {
    let mut random = uniform(seed);
    let mut next = || random.next().expect("endless");
    let mut at = 0.0;
    let mut arrivals = Vec::new();
    loop {
        at -= next().ln() / highest;
        if at >= until {
            return arrivals;
        }
        if next() * highest < rate(at) {
            arrivals.push(ms(at));
        }
    }
}

const POOL: Bounds = Bounds { min: 0, max: 16 };

#[test]
fn steady_callers_find_a_member_ready() {
    let hour = 3600.0;
    for (rate, least, most_waiting) in [(0.1, 0.95, 3.0), (1.0, 0.98, 5.0), (3.0, 0.95, 9.0)] {
        let arrivals = poisson(1, hour, rate, |_| rate);
        let out = play(&arrivals, ms(hour), 500, POOL);
        println!("steady {rate}/s: {out:?} {:.3}", out.hit_rate());
        assert!(out.hit_rate() >= least, "{rate}/s: {out:?}");
        let on_average = out.idle / hour;
        assert!(
            on_average <= most_waiting,
            "{rate}/s: {on_average} wait: {out:?}"
        );
    }
}

#[test]
fn bursts_are_prepared_for_once_they_are_known() {
    // Eight at once every minute, for an hour.
    let arrivals: Vec<u64> = (0..60)
        .flat_map(|minute| (0..8).map(move |one| minute * 60_000 + one * 20))
        .collect();
    let out = play(&arrivals, 3_600_000, 500, POOL);
    println!("burst: {out:?} {:.3}", out.hit_rate());
    // All but the first burst.
    assert_eq!(out.misses, 8, "{out:?}");
    assert!(out.idle / 3600.0 <= 8.0, "{out:?}");
}

#[test]
fn a_day_has_a_night_without_a_process() {
    let day = 86_400.0;
    // Two a second at noon, none from 18 to 6 h.
    let rate = |at: f64| {
        let hour = (at / 3600.0) % 24.0;
        2.0 * (std::f64::consts::PI * (hour - 6.0) / 12.0).sin().max(0.0)
    };
    let arrivals = poisson(3, 2.0 * day, 2.0, rate);
    let out = play(&arrivals, ms(2.0 * day), 500, POOL);
    println!("diurnal: {out:?} {:.3}", out.hit_rate());
    assert!(out.hit_rate() >= 0.97, "{out:?}");
    assert_eq!(out.left, 0, "at midnight: {out:?}");
    // As many as by day never wait by night.
    assert!(out.idle / (2.0 * day) <= 3.0, "{out:?}");
}

#[test]
fn a_herd_that_comes_once_is_not_waited_for_for_long() {
    let arrivals: Vec<u64> = (0..100).map(|one| 60_000 + one).collect();
    let out = play(&arrivals, 3_600_000, 500, POOL);
    println!("herd: {out:?}");
    assert_eq!((out.hits, out.misses), (0, 100), "nobody knew: {out:?}");
    assert_eq!(out.most, 16, "{out:?}");
    assert_eq!(out.left, 0, "{out:?}");
    // The ceiling is not held until it is unused.
    let held = 16.0 * UNUSED_AFTER.as_secs_f64();
    assert!(out.idle <= 0.75 * held, "{out:?}");
    // A herd that comes again within minutes finds most of as many as may wait.
    let again: Vec<u64> = (0..5)
        .flat_map(|time| (0..100).map(move |one| time * 180_000 + one))
        .collect();
    let out = play(&again, 900_000, 500, POOL);
    println!("herds: {out:?}");
    assert!(out.hits >= 4 * 13, "{out:?}");
}

#[test]
fn a_recorded_trace() {
    let trace = include_str!("traces/commits.txt");
    let seconds = trace.lines().filter(|line| !line.starts_with('#'));
    let arrivals: Vec<u64> = seconds
        .map(|line| line.parse::<u64>().expect("a number") * 1000)
        .collect();
    let until = arrivals.last().expect("some") + 3_600_000;
    let out = play(&arrivals, until, 500, POOL);
    println!("recorded: {out:?} {:.3}", out.hit_rate());
    let all = Duration::from_millis(until).as_secs_f64();
    // What one member that always waits would cost, and more hits than a session kept for a minute would give.
    assert!(out.idle <= 0.75 * all, "{} of {all}: {out:?}", out.idle);
    assert!(out.hit_rate() >= 0.5, "{:.3} {out:?}", out.hit_rate());
    assert_eq!(out.left, 0);
}

#[test]
fn pressure_is_the_kernels_word_where_it_gives_one() {
    let gib = 1 << 30;
    let reading = |some, full, available| Reading {
        some,
        full,
        available,
        total: 100 * gib,
    };
    for (given, expected) in [
        (reading(Some(0), Some(0), 90 * gib), Pressure::Calm),
        // The page cache of a busy host is no pressure if nobody waits.
        (reading(Some(0), Some(0), 9 * gib), Pressure::Calm),
        (reading(Some(12), Some(1), 90 * gib), Pressure::Tense),
        (reading(Some(50), Some(1), 90 * gib), Pressure::Severe),
        (reading(Some(15), Some(11), 90 * gib), Pressure::Severe),
        (reading(Some(0), Some(0), 4 * gib), Pressure::Severe),
        (reading(None, None, 16 * gib), Pressure::Calm),
        (reading(None, None, 14 * gib), Pressure::Tense),
        (reading(None, None, 7 * gib), Pressure::Severe),
        // Nothing is known of the host.
        (Reading::default(), Pressure::Calm),
    ] {
        assert_eq!(Pressure::of(&given), expected, "{given:?}");
    }
}

#[test]
fn pressure_is_felt_at_once_and_lets_go_later() {
    let mut barometer = Barometer::default();
    let at = |s: u64| Moment(1_000_000 + s * 1000);
    assert_eq!(barometer.feel(at(0), Pressure::Calm), Pressure::Calm);
    assert_eq!(barometer.feel(at(1), Pressure::Severe), Pressure::Severe);
    assert_eq!(barometer.feel(at(2), Pressure::Calm), Pressure::Severe);
    assert_eq!(barometer.feel(at(5), Pressure::Severe), Pressure::Severe);
    let recovery = RECOVERY.as_secs();
    assert_eq!(
        barometer.feel(at(4 + recovery), Pressure::Calm),
        Pressure::Severe
    );
    assert_eq!(
        barometer.feel(at(5 + recovery), Pressure::Calm),
        Pressure::Calm
    );
}

fn pressures() -> impl Strategy<Value = Pressure> {
    prop_oneof![
        Just(Pressure::Calm),
        Just(Pressure::Tense),
        Just(Pressure::Severe)
    ]
}

proptest! {
    /// Whatever came, and whatever is asked for.
    #[test]
    fn never_beyond_the_ceiling_nor_without_need(
        gaps in prop::collection::vec(0_u64..20_000, 0..300),
        lead in 0_u64..100_000,
        (min, max) in (0_u32..20, 0_u32..20),
        later in 0_u64..2_000_000,
        pressure in pressures(),
    ) {
        let bounds = Bounds { min, max };
        let mut demand = Demand::default();
        let mut now = 0;
        for gap in &gaps {
            now += gap;
            demand.arrived(Moment(now), Duration::from_millis(lead), max);
        }
        let last = now;
        now += later;
        let wanted = target(&demand, Moment(now), bounds, UNUSED_AFTER, pressure);
        prop_assert!(wanted <= max, "beyond the ceiling");
        prop_assert!(wanted >= min.min(max) || pressure == Pressure::Severe, "below the floor");
        let unused = gaps.is_empty() || now - last >= 600_000;
        if unused || pressure == Pressure::Tense {
            prop_assert!(wanted <= min, "more than the floor: {}", wanted);
        }
        if pressure == Pressure::Severe {
            prop_assert_eq!(wanted, 0, "at once");
        }
        if min == 0 && unused {
            prop_assert_eq!(wanted, 0, "zero when unused");
        }
        // Never more than ever came.
        prop_assert!(wanted <= min.max(u32::try_from(gaps.len()).expect("few")));
        // Half a peak later, half of it.
        let one_sided = target(&demand, Moment(now) + HALF_LIFE, bounds, UNUSED_AFTER, pressure);
        prop_assert!(one_sided <= wanted, "it grows without a caller");
    }

    #[test]
    fn the_room_is_shared_out_and_never_exceeded(
        wishes in prop::collection::vec((0_u32..8, 0_u32..12), 0..20),
        room in 0_u32..80,
    ) {
        let wishes: Vec<Wish> = wishes
            .into_iter()
            .map(|(min, target)| Wish { min, target })
            .collect();
        let shares = share_out(&wishes, room);
        prop_assert_eq!(shares.len(), wishes.len());
        let given: u32 = shares.iter().sum();
        let asked: u32 = wishes.iter().map(|wish| wish.target).sum();
        prop_assert_eq!(given, asked.min(room), "all of the room, and no more");
        let floors: u32 = wishes.iter().map(|wish| wish.min.min(wish.target)).sum();
        for (share, wish) in shares.iter().zip(&wishes) {
            prop_assert!(*share <= wish.target);
            if floors <= room {
                prop_assert!(*share >= wish.min.min(wish.target), "a floor is not kept");
            }
        }
        // Nobody has two more than another who would have liked one.
        for (one, mine) in shares.iter().zip(&wishes) {
            for (other, theirs) in shares.iter().zip(&wishes) {
                let above = one.saturating_sub(mine.min.min(mine.target));
                let theirs_above = other.saturating_sub(theirs.min.min(theirs.target));
                prop_assert!(above <= (*other).max(theirs_above) + 1 || *other == theirs.target);
            }
        }
    }
}
