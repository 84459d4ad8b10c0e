//! Places for sessions to come: a name, and a stager parked in the cgroups of that name.
//!
//! Entering a cgroup costs milliseconds on cgroup v1 (the move of a process waits for an RCU grace period), so a few are
//! made ahead, off the request's path. A burst that empties the shelf makes its own. The usual six (`limits.prepared_launches`)
//! are enough that two cores launching at full speed find the next one made (a launch takes about as long as a preparation),
//! few enough that their processes do not matter.
//!
//! The launcher has one thread and the host perhaps few processors, so the shelf is filled up again, and whatever else is for
//! callers to come is done, when no session is starting ([`Underway`], [`Slots::calm`]): otherwise what is made for the next caller
//! is in the way of the present one.

use crate::broker::Broker;
use proto::ids::SessionId;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;

/// How long a shelf that is not full waits for launches to be over. An agent that takes seconds to start, or a stream of
/// launches without a pause, must not keep it empty.
const PATIENCE: Duration = Duration::from_millis(50);

/// How long a session is starting beyond its start, at most: until its first call is over, which is what its caller waits for. A
/// fork's copies page after page, and another's making would take turns with it.
const FIRST_CALL: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug, Default)]
pub struct Slots {
    shelf: Mutex<VecDeque<SessionId>>,
    taken: Notify,
    /// Names that were wanted when there was none.
    missed: AtomicU64,
    /// Sessions that are starting.
    starting: Arc<watch::Sender<usize>>,
}

/// A session is starting for as long as this lives.
#[derive(Debug)]
pub struct Underway(Arc<watch::Sender<usize>>);

/// The first call to a session that is ready: to be dropped when it is over.
#[derive(Debug)]
pub struct FirstCall {
    _over: oneshot::Sender<()>,
}

impl Underway {
    /// The session is ready, and counts as starting until its first call is over, though not for long.
    #[must_use]
    pub fn ready(self) -> FirstCall {
        let (over, called) = oneshot::channel();
        tokio::spawn(async move {
            let _ = timeout(FIRST_CALL, called).await;
            drop(self);
        });
        FirstCall { _over: over }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.send_modify(|starting| *starting -= 1);
    }
}

impl Slots {
    /// A name: of a prepared slot, or a fresh one.
    pub fn take(&self) -> SessionId {
        let ready = self
            .shelf
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front();
        self.taken.notify_one();
        ready.unwrap_or_else(|| {
            self.missed.fetch_add(1, Ordering::Relaxed);
            fresh_name()
        })
    }

    /// How often there was nothing on the shelf.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Names on the shelf.
    #[must_use]
    pub fn prepared(&self) -> usize {
        let shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.len()
    }

    /// Says that a session is starting.
    pub fn underway(&self) -> Underway {
        self.starting.send_modify(|starting| *starting += 1);
        Underway(Arc::clone(&self.starting))
    }

    /// Waits until no session is starting, though not for long.
    pub async fn calm(&self) {
        self.quiet(PATIENCE).await;
    }

    /// The same, for so long at most.
    pub async fn quiet(&self, patience: Duration) {
        let mut starting = self.starting.subscribe();
        // Late, or the sender is gone with the daemon: either way there is nothing more to wait for.
        let _ = timeout(patience, starting.wait_for(|starting| *starting == 0)).await;
    }

    /// Takes everything off the shelf (at shutdown).
    pub fn drain(&self) -> Vec<SessionId> {
        self.shelf
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .collect()
    }

    fn ready(&self) -> usize {
        self.shelf
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

/// Keeps the shelf full for as long as the broker lives. A failure is told once per streak and tried again with the next
/// launch, which meets the same fault on its own path and reports it to its caller.
pub async fn keep_full(broker: Arc<Broker>) {
    let wanted = broker.config().limits.prepared_launches;
    let mut failing = false;
    loop {
        while broker.slots.ready() < wanted && !broker.draining() {
            broker.slots.calm().await;
            match prepare(&broker).await {
                Ok(slot) => {
                    failing = false;
                    broker
                        .slots
                        .shelf
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push_back(slot);
                }
                Err(fault) => {
                    if !failing {
                        tracing::warn!(fault, "no slot could be prepared; launches make their own");
                    }
                    failing = true;
                    break;
                }
            }
        }
        broker.slots.taken.notified().await;
    }
}

async fn prepare(broker: &Broker) -> Result<SessionId, String> {
    let session = fresh_name();
    match broker.launcher.prepare(session.clone()).await {
        Ok(()) => Ok(session),
        Err(fault) => Err(crate::fault::chain(&fault)),
    }
}

/// `s` and 16 characters of a random number: unique without asking anyone, and not guessable.
pub fn fresh_name() -> SessionId {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let random = uuid::Uuid::new_v4().as_u128();
    let name: String = (0..16)
        .map(|at| char::from(ALPHABET[usize::try_from(random >> (at * 5) & 31).unwrap_or(0)]))
        .collect();
    SessionId::parse(format!("s{name}")).expect("17 characters of a-z and 2-7, a letter first")
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn what_is_for_those_to_come_waits_for_launches_and_first_calls() {
        let slots = Slots::default();
        let calm = || slots.calm().now_or_never().is_some();
        assert!(calm(), "nothing is starting");
        let (first, second) = (slots.underway(), slots.underway());
        drop(first);
        assert!(!calm(), "one still is");
        let call = second.ready();
        assert!(!calm(), "it has its first call before it");
        drop(call);
        let began = Instant::now();
        slots.calm().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        // A call that is long, and a start that never ends.
        let _long = slots.underway().ready();
        slots.calm().await;
        assert_eq!(began.elapsed(), FIRST_CALL);
        let _endless = slots.underway();
        slots.calm().await;
        assert_eq!(began.elapsed(), FIRST_CALL + PATIENCE);
    }

    #[test]
    fn names_are_well_formed_and_differ() {
        let names: std::collections::HashSet<_> = (0..1000).map(|_| fresh_name()).collect();
        assert_eq!(names.len(), 1000);
    }
}
