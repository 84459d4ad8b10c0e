//! How fast one caller may call on the AWS wire (contract §6): so many calls of each kind a second, a second's worth of them at
//! once. Who comes too early waits for its turn, no longer than `limits.admission_wait`; beyond that it is refused, and takes none.
//!
//! Not for: how many sessions begin ([`crate::admission`]), and `/v1`, which is the operators'.

use crate::config::Limits;
use crate::owner::Principal;
use crate::time::Clock;
use session_core::moment::Moment;
use session_core::pace::{Pace, Rate};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Maps that callers are spread over, so that their calls do not wait for one lock.
const SHARDS: usize = 16;

/// Callers in one map before those are looked for that have called at no more than their rate.
const CROWD: usize = 256;

/// What is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Calls of the data plane.
    Data,
    /// Calls of the control plane that change something.
    Mutation,
    /// Calls of the control plane that read one thing.
    Get,
    /// Calls of the control plane that list things.
    List,
}

impl Kind {
    /// The key of its bound.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Data => "limits.data_plane_rate",
            Self::Mutation => "limits.control_mutation_rate",
            Self::Get => "limits.control_get_rate",
            Self::List => "limits.control_list_rate",
        }
    }

    const fn per_second(self, limits: &Limits) -> u32 {
        match self {
            Self::Data => limits.rates.data_plane,
            Self::Mutation => limits.rates.control_mutation,
            Self::Get => limits.rates.control_get,
            Self::List => limits.rates.control_list,
        }
    }
}

/// Calls of one caller a second, of each kind; 0 is any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerCaller {
    /// [`Kind::Data`].
    pub data_plane: u32,
    /// [`Kind::Mutation`].
    pub control_mutation: u32,
    /// [`Kind::Get`].
    pub control_get: u32,
    /// [`Kind::List`].
    pub control_list: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Rates {
    shard_of: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

/// Some callers' paces. A caller at rest is as one that never called, so it is forgotten at no loss: what stays are callers
/// of the last second.
#[derive(Debug)]
struct Shard {
    paces: HashMap<Principal, [Pace; 4]>,
    /// How many there may be before the next look for those at rest.
    crowd: usize,
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            paces: HashMap::new(),
            crowd: CROWD,
        }
    }
}

impl Rates {
    /// Waits for the caller's turn. An error says when one could be had.
    pub async fn turn(
        &self,
        kind: Kind,
        caller: Principal,
        limits: &Limits,
        clock: Clock,
    ) -> Result<(), Duration> {
        let wait = self.take(kind, caller, limits, clock.now())?;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    fn take(
        &self,
        kind: Kind,
        caller: Principal,
        limits: &Limits,
        now: Moment,
    ) -> Result<Duration, Duration> {
        let per_second = kind.per_second(limits);
        if per_second == 0 {
            return Ok(Duration::ZERO);
        }
        let rate = Rate {
            per_second,
            burst: per_second,
        };
        let shard = usize::try_from(self.shard_of.hash_one(&caller)).unwrap_or(0) % SHARDS;
        let mut shard = self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        shard
            .pace(caller, kind, now)
            .take(now, rate, limits.admission_wait)
    }
}

impl Shard {
    fn pace(&mut self, caller: Principal, kind: Kind, now: Moment) -> &mut Pace {
        if self.paces.len() >= self.crowd && !self.paces.contains_key(&caller) {
            self.paces
                .retain(|_, paces| !paces.iter().all(|pace| pace.is_at_rest(now)));
            // So that the look costs each newcomer a constant.
            self.crowd = CROWD.max(2 * self.paces.len());
        }
        let [data, mutation, get, list] = self.paces.entry(caller).or_default();
        match kind {
            Kind::Data => data,
            Kind::Mutation => mutation,
            Kind::Get => get,
            Kind::List => list,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Args, load_from};
    use std::path::Path;

    fn limits(data_plane: u32, wait: Duration) -> Limits {
        let config = load_from(&Args::default(), [], Path::new("/nowhere")).expect("defaults");
        let mut limits = config.limits;
        limits.rates.data_plane = data_plane;
        limits.admission_wait = wait;
        limits
    }

    #[tokio::test(start_paused = true)]
    async fn each_caller_has_a_rate_of_its_own_and_waits_for_its_turn_first() {
        let (rates, clock) = (Rates::default(), Clock::start());
        let limits = limits(10, Duration::from_secs(1));
        let call = |kind, uid| rates.turn(kind, Principal::user(uid), &limits, clock);
        let begun = tokio::time::Instant::now();
        for _ in 0..10 {
            call(Kind::Data, 1).await.expect("a second's worth at once");
        }
        assert!(begun.elapsed().is_zero());
        let turns = futures_util::future::join_all((0..12).map(|_| call(Kind::Data, 1))).await;
        assert_eq!(turns.iter().filter(|turn| turn.is_ok()).count(), 10);
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
        for again in turns.iter().filter_map(|turn| turn.err()) {
            assert!(again <= Duration::from_millis(100), "{again:?}");
        }
        // Others, and calls of another kind, are not concerned.
        let begun = tokio::time::Instant::now();
        call(Kind::Data, 2).await.expect("another caller");
        call(Kind::Get, 1).await.expect("another kind");
        assert!(begun.elapsed().is_zero());
    }

    #[test]
    fn callers_at_rest_are_forgotten_and_a_rate_of_none_is_not_counted() {
        let rates = Rates::default();
        let at = |ms| Moment(1_000_000 + ms);
        let many = limits(10, Duration::ZERO);
        let kept = |rates: &Rates| -> usize {
            let each = rates.shards.iter();
            each.map(|shard| shard.lock().expect("sound").paces.len())
                .sum()
        };
        for n in 0..200_000_u32 {
            let now = at(u64::from(n));
            rates
                .take(Kind::Data, Principal::user(n), &many, now)
                .expect("the first of its caller");
        }
        // Those of the last tenth of a second are not at rest.
        assert!(kept(&rates) <= SHARDS * (CROWD + 1), "{}", kept(&rates));
        let none = Rates::default();
        let unbounded = limits(0, Duration::ZERO);
        for _ in 0..100 {
            let call = none.take(Kind::Data, Principal::user(1), &unbounded, at(0));
            assert_eq!(call, Ok(Duration::ZERO));
        }
        assert_eq!(kept(&none), 0);
    }
}
