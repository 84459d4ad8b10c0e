//! How many sessions of a version wait, started and unclaimed, for callers to come.
//!
//! ```text
//! arrivals ─▶ Demand (the most that came within one replacement; after two minutes half forgotten every five)
//!                └─▶ wanted ─▶ Bounds ─▶ Pressure ─▶ target of a version ─▶ share_out: targets within what all may have
//! ```
//!
//! - **What is wanted** is what came at once: a member that is claimed is replaced in the time that a start takes (the *lead*), so
//!   as many must wait as come within one lead. That number is remembered for [`HOLD`] and then half forgotten every
//!   [`HALF_LIFE`]: who comes in bursts finds the next burst prepared, and one crowd that never comes again is not waited for for
//!   long. More than may wait is not remembered either.
//! - **Zero when unused**: after `unused_after` without a new session nothing is wanted. Only a floor that the operator or the
//!   runtime's owner asked for stays.
//! - **Pressure** comes before all of that: [`Pressure::Tense`] leaves the floor, [`Pressure::Severe`] leaves nothing. It takes
//!   effect at once; growth comes back only when it has been calm for [`RECOVERY`], or members would be made and ended in turns.
//! - Members are nobody's session yet, so they have what room sessions leave ([`share_out`]), floors first, then one each in turn.

use crate::moment::Moment;
use std::collections::VecDeque;
use std::time::Duration;

/// So long a peak counts whole.
pub const HOLD: Duration = Duration::from_secs(120);

/// After so long more it counts half.
pub const HALF_LIFE: Duration = Duration::from_secs(300);

/// How long it must have been calm before a pool grows again.
pub const RECOVERY: Duration = Duration::from_secs(30);

/// Shortest and longest lead that is believed.
const LEADS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];

/// Arrivals within one lead that are told apart; more are as many.
const MOST_RECENT: usize = 1024;

/// How few and how many may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    /// Even without demand.
    pub min: u32,
    /// Whatever the demand; 0: there is no pool.
    pub max: u32,
}

impl Bounds {
    /// Whether there is a pool at all.
    #[must_use]
    pub const fn is_off(self) -> bool {
        self.max == 0
    }
}

/// How short the host is of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Pressure {
    /// It is not.
    #[default]
    Calm,
    /// Processes wait for memory, or soon will: nothing is kept on suspicion.
    Tense,
    /// Whatever can go, goes.
    Severe,
}

/// What a host tells of its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// Share of the last ten seconds, in whole percent, in which some process waited for memory; absent where the kernel has no PSI.
    pub some: Option<u32>,
    /// In which all did.
    pub full: Option<u32>,
    /// Bytes that can be had without swapping, of all.
    pub available: u64,
    /// Bytes of memory.
    pub total: u64,
}

impl Pressure {
    /// The kernel's word where it gives one; else what is left. With next to nothing left it is severe whatever else is said:
    /// PSI tells only of what has been waited for.
    #[must_use]
    pub fn of(reading: &Reading) -> Self {
        let left = |percent: u64| {
            reading.total > 0
                && reading.available.saturating_mul(100) < reading.total.saturating_mul(percent)
        };
        let full = reading.full.unwrap_or(0);
        match reading.some {
            _ if left(5) => Self::Severe,
            Some(some) if some >= 40 || full >= 10 => Self::Severe,
            Some(some) if some >= 10 => Self::Tense,
            Some(_) => Self::Calm,
            None if left(8) => Self::Severe,
            None if left(15) => Self::Tense,
            None => Self::Calm,
        }
    }
}

/// Pressure as pools feel it: at once when it rises, and [`RECOVERY`] later when it falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Barometer {
    felt: Pressure,
    /// When it was last as high as it is felt.
    at: Moment,
}

impl Barometer {
    /// Takes the pressure of now, and says what is felt.
    pub fn feel(&mut self, now: Moment, pressure: Pressure) -> Pressure {
        if pressure >= self.felt || now - self.at >= RECOVERY {
            self.felt = pressure;
            self.at = now;
        }
        self.felt
    }
}

/// What is known of a version's arrivals.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Demand {
    /// Within one lead, oldest first.
    recent: VecDeque<Moment>,
    /// The most that there were within one lead, as of `at`.
    peak: f64,
    at: Moment,
    last: Option<Moment>,
}

impl Demand {
    /// A new session was wanted. `lead`: how long the replacement of a member takes; `most_waiting`: how many may.
    pub fn arrived(&mut self, now: Moment, lead: Duration, most_waiting: u32) {
        let [least, most] = LEADS;
        let lead = lead.clamp(least, most);
        while self
            .recent
            .front()
            .is_some_and(|at| now - *at > lead || self.recent.len() >= MOST_RECENT)
        {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        let together = u32::try_from(self.recent.len()).unwrap_or(u32::MAX);
        let together = f64::from(together.min(most_waiting));
        if together >= self.remembered(now) {
            self.peak = together;
            self.at = now;
        }
        self.last = Some(now);
    }

    /// When a new session was last wanted.
    #[must_use]
    pub fn last(&self) -> Option<Moment> {
        self.last
    }

    /// How many are to wait, before any bound.
    #[must_use]
    pub fn wanted(&self, now: Moment, unused_after: Duration) -> u32 {
        match self.last {
            Some(last) if now - last < unused_after => rounded_up(self.remembered(now)),
            Some(_) | None => 0,
        }
    }

    fn remembered(&self, now: Moment) -> f64 {
        let age = (now - self.at).saturating_sub(HOLD);
        let ages = age.as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.peak * (-ages).exp2()
    }
}

/// A number of members, of one that is not negative.
fn rounded_up(number: f64) -> u32 {
    // Not above MOST_RECENT, so every step is exact.
    (0..u32::try_from(MOST_RECENT).unwrap_or(u32::MAX))
        .find(|whole| f64::from(*whole) >= number)
        .unwrap_or(u32::MAX)
}

/// How many of a version are to wait now, as far as the version is concerned.
#[must_use]
pub fn target(
    demand: &Demand,
    now: Moment,
    bounds: Bounds,
    unused_after: Duration,
    pressure: Pressure,
) -> u32 {
    let min = bounds.min.min(bounds.max);
    match pressure {
        Pressure::Severe => 0,
        Pressure::Tense => min,
        Pressure::Calm => demand.wanted(now, unused_after).clamp(min, bounds.max),
    }
}

/// What one version asks for of what all may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Its floor.
    pub min: u32,
    /// Its target.
    pub target: u32,
}

/// Who gets how many of `room`: floors first, then one each in turn, until all have theirs or nothing is left. In the order of
/// the wishes, which is the order of precedence among equals.
#[must_use]
pub fn share_out(wishes: &[Wish], room: u32) -> Vec<u32> {
    let mut shares = vec![0; wishes.len()];
    let mut left = room;
    let floor = |wish: &Wish| wish.min.min(wish.target);
    for most in [floor as fn(&Wish) -> u32, |wish| wish.target] {
        loop {
            let before = left;
            for (share, wish) in shares.iter_mut().zip(wishes) {
                if *share < most(wish) && left > 0 {
                    *share += 1;
                    left -= 1;
                }
            }
            if left == before {
                break;
            }
        }
    }
    shares
}
