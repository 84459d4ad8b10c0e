//! Who may begin a session: places of its caller and of its runtime, then what the daemon and the host have ([`room`]), then its
//! turn at the pace of new sessions and a place among those that start, which it has until it is ready. Each is waited for, all of
//! them together for `limits.admission_wait`; a refusal names the one that was not to be had.
//!
//! A caller's and a runtime's places are quotas: nobody's session ends for them. For room, members of pools end, then idle sessions.
//! Of the places among those that start each runtime has one of its own, and all share the others ([`crate::room`]): however many
//! runtimes there are whose agents never come up, those of the next one do.

mod room;

use crate::broker::Broker;
use crate::config::Limits;
use crate::owner::Principal;
use crate::room::{Holder, Room as Shared, Taken};
use crate::session::handle::SessionKey;
use proto::ids::RuntimeId;
use proto::units::MemoryBytes;
use room::{Promise, Room};
use session_core::admission::Limit;
use session_core::pace::{Pace, Rate};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Owners without any session that are kept until somebody looks.
const IDLE_OWNERS: usize = 1024;

/// The right to one live session. Dropping it gives its places back.
#[derive(Debug)]
pub struct Permit {
    /// Of its caller and its runtime, and of the daemon.
    places: [Option<OwnedSemaphorePermit>; 3],
    /// Memory that it may use, until its session is there and counted.
    promise: Option<Promise>,
    /// Among those that start, until its session is ready or fails.
    start: Option<Start>,
    /// Those who wait for room.
    room: Arc<Room>,
}

impl Permit {
    /// Its session is there, and counts by itself.
    pub fn begun(&mut self) {
        self.promise = None;
    }

    /// Its session does not start any more.
    pub fn settled(&mut self) {
        self.start = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.promise = None;
        for place in &mut self.places {
            *place = None;
        }
        self.room.changed();
    }
}

/// A place among those that start.
#[derive(Debug)]
#[expect(dead_code, reason = "held for their drop")]
enum Start {
    /// The one of its runtime.
    Own(Option<OwnedSemaphorePermit>),
    /// One of those that all share.
    Shared(Taken),
}

/// What was not to be had in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// A place of the caller.
    Caller,
    /// A place of the runtime.
    Runtime,
    /// Room; when there may be some.
    Room(Limit, Duration),
    /// A turn; when there is one.
    Pace(Duration),
    /// A place among those that start.
    Start,
}

/// See the module.
#[derive(Debug)]
pub struct Admission {
    daemon: Arc<Semaphore>,
    room: Arc<Room>,
    callers: Places<Principal>,
    runtimes: Places<RuntimeId>,
    pace: Mutex<Pace>,
    starts: Arc<Shared>,
    /// One more for each runtime.
    own_starts: Places<RuntimeId>,
    /// Nothing begins that is nobody's.
    held: AtomicBool,
}

/// While this lives nothing begins that is nobody's.
#[derive(Debug)]
pub struct Held<'a>(&'a AtomicBool);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Places for each of many.
#[derive(Debug)]
struct Places<K> {
    /// For each; `None` is any number.
    most: Option<usize>,
    taken: Mutex<HashMap<K, Arc<Semaphore>>>,
}

impl Admission {
    /// All places free.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let places = |most: u32| usize::try_from(most).unwrap_or(Semaphore::MAX_PERMITS);
        let each = |most: u32| (most > 0).then(|| places(most));
        Self {
            daemon: Arc::new(Semaphore::new(places(limits.max_sessions))),
            room: Arc::default(),
            callers: Places::new(each(limits.max_sessions_per_caller)),
            runtimes: Places::new(each(limits.max_sessions_per_runtime)),
            pace: Mutex::default(),
            starts: Shared::new(limits.max_starting_sessions.into()),
            own_starts: Places::new(Some(1)),
            held: AtomicBool::new(false),
        }
    }

    /// Waits for everything that a session of this key needs, which may use so much memory.
    pub async fn admit(
        &self,
        broker: &Arc<Broker>,
        key: &SessionKey,
        memory: MemoryBytes,
    ) -> Result<Permit, Refused> {
        let config = broker.config();
        let (limits, clock) = (&config.limits, broker.clock);
        let until = Instant::now() + limits.admission_wait;
        let [caller, runtime, _] = self.places(key);
        let caller = place(caller, until).await.ok_or(Refused::Caller)?;
        let runtime = place(runtime, until).await.ok_or(Refused::Runtime)?;
        let (daemon, promise) = self
            .room
            .take(broker, &self.daemon, memory.0, until)
            .await?;
        let mut permit = Permit {
            places: [caller, runtime, Some(daemon)],
            promise: Some(promise),
            start: None,
            room: Arc::clone(&self.room),
        };
        let rate = Rate {
            per_second: limits.new_session_rate,
            burst: limits.new_session_burst,
        };
        let wait = {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            let patience = until.saturating_duration_since(Instant::now());
            pace.take(clock.now(), rate, patience)
        };
        let wait = wait.map_err(Refused::Pace)?;
        let turn = Turn { of: self, rate };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        permit.start = Some(self.start(&key.runtime, until).await?);
        std::mem::forget(turn);
        Ok(permit)
    }

    async fn start(&self, runtime: &RuntimeId, until: Instant) -> Result<Start, Refused> {
        let holder = Holder::Runtime(runtime.clone());
        let patience = until.saturating_duration_since(Instant::now());
        tokio::select! {
            biased;
            Some(own) = place(self.own_starts.of(runtime), until) => Ok(Start::Own(own)),
            Ok(taken) = self.starts.take(&holder, None, 1, patience) => Ok(Start::Shared(taken)),
            else => Err(Refused::Start),
        }
    }
}

/// A turn that is not used yet. Whoever goes away, or is refused, leaves it to the others.
struct Turn<'a> {
    of: &'a Admission,
    rate: Rate,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut pace = self.of.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.give_back(self.rate);
    }
}

impl Admission {
    /// For a session that lives already. Where limits were lowered meanwhile it is one too many, and holds no place.
    pub fn adopt(&self, key: &SessionKey) -> Permit {
        let taken = |places: Option<Arc<Semaphore>>| places?.try_acquire_owned().ok();
        Permit {
            places: self.places(key).map(taken),
            promise: None,
            start: None,
            room: Arc::clone(&self.room),
        }
    }

    /// Of what is nobody's session: it takes no place, and nothing is promised it. What it holds it gives back.
    pub fn nobodys(&self) -> Permit {
        Permit {
            places: [None, None, None],
            promise: None,
            start: None,
            room: Arc::clone(&self.room),
        }
    }

    /// For whoever has those that are nobody's give way, one at a time: that no others take their place meanwhile.
    #[must_use]
    pub fn hold_members(&self) -> Held<'_> {
        self.held.store(true, Ordering::SeqCst);
        Held(&self.held)
    }

    /// Whether what is nobody's may begin, of which a session of so much memory may be made: nobody waits, and nobody would have
    /// to give way to it.
    pub fn has_room_for_member(&self, broker: &Arc<Broker>, memory: MemoryBytes) -> bool {
        !self.held.load(Ordering::SeqCst) && self.room.has_room_for_member(broker, memory.0)
    }

    /// Where it is counted: its caller's, its runtime's and the daemon's sessions.
    fn places(&self, key: &SessionKey) -> [Option<Arc<Semaphore>>; 3] {
        // A session that is everybody's counts for nobody.
        let caller = Some(&key.owner.principal).filter(|of| **of != Principal::everybody());
        [
            caller.and_then(|caller| self.callers.of(caller)),
            self.runtimes.of(&key.runtime),
            Some(Arc::clone(&self.daemon)),
        ]
    }
}

impl<K: Clone + Eq + Hash> Places<K> {
    fn new(most: Option<usize>) -> Self {
        Self {
            most,
            taken: Mutex::default(),
        }
    }

    /// Those of `owner`, if they are counted.
    fn of(&self, owner: &K) -> Option<Arc<Semaphore>> {
        let most = self.most?;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.len() >= IDLE_OWNERS && !taken.contains_key(owner) {
            // A place that is taken, or waited for, holds its semaphore.
            taken.retain(|_, places| Arc::strong_count(places) > 1);
        }
        let places = taken.entry(owner.clone());
        Some(Arc::clone(
            places.or_insert_with(|| Arc::new(Semaphore::new(most))),
        ))
    }
}

/// A place, in time; of what is not counted there is always one.
async fn place(
    places: Option<Arc<Semaphore>>,
    until: Instant,
) -> Option<Option<OwnedSemaphorePermit>> {
    let Some(places) = places else {
        return Some(None);
    };
    let taken = tokio::time::timeout_at(until, places.acquire_owned()).await;
    taken.ok()?.ok().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn owners_that_hold_nothing_are_forgotten_and_others_are_not() {
        let places: Places<usize> = Places::new(Some(1));
        let held = place(places.of(&0), Instant::now()).await.expect("free");
        for owner in 1..5000 {
            drop(
                place(places.of(&owner), Instant::now())
                    .await
                    .expect("free"),
            );
        }
        assert!(places.taken.lock().expect("sound").len() <= IDLE_OWNERS + 1);
        assert!(place(places.of(&0), Instant::now()).await.is_none());
        drop(held);
        assert!(place(places.of(&0), Instant::now()).await.is_some());
    }
}
