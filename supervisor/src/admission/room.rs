//! Room for new sessions: the daemon's places and the host's memory and calm, given to callers in the order they came.
//!
//! One caller at a time has its turn, and asks `session_core::admission` until it is let in or refused; the others queue behind
//! it, so that a thousand of them cost no more than one. Members of pools and idle sessions that are to give way are told here.

use super::Refused;
use crate::broker::Broker;
use crate::session::handle::SessionHandle;
use futures_util::future::join_all;
use session_core::admission::{
    Decision, Idle, Limit, Policy, Readings, Wanted, decide, has_room_for_member,
};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// How often whoever has the turn looks again where nothing tells of a change: pressure, memory, sessions that become idle.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// When to come again to a daemon that does not come to the end of its queue.
const TURN_AGAIN: Duration = Duration::from_secs(1);

/// How long an idle session may take to say whether it ends. It says so at once, on a host that is not starved.
const EVICTION: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Room {
    turn: tokio::sync::Mutex<()>,
    /// Who wants some, the one whose turn it is included.
    queue: Mutex<Queue>,
    /// Memory of sessions that were let in and are not there yet.
    promised: Arc<AtomicU64>,
    /// Rung when something is given back.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    callers: u32,
    memory: u64,
    /// What those in front last had to wait for, since there was no queue.
    short: Option<(Limit, Duration)>,
}

/// Memory that a session to come may use, until it counts by itself.
#[derive(Debug)]
pub(super) struct Promise {
    of: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Room {
    /// Something may be had now that could not be before.
    pub(super) fn changed(&self) {
        self.changed.notify_waiters();
    }

    /// Waits for a place, and for memory and calm.
    pub(super) async fn take(
        &self,
        broker: &Arc<Broker>,
        places: &Arc<Semaphore>,
        memory: u64,
        until: Instant,
    ) -> Result<(OwnedSemaphorePermit, Promise), Refused> {
        let _queued = Queued::enter(self, memory);
        let Ok(_turn) = timeout_at(until, self.turn.lock()).await else {
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            return Err(match queue.short {
                Some((limit, again)) => Refused::Room(limit, again),
                // Those in front did not have to wait, there were just too many of them.
                None => Refused::Pace(TURN_AGAIN),
            });
        };
        let clock = broker.clock;
        let patience = until.saturating_duration_since(Instant::now());
        let last = clock.now() + patience;
        loop {
            let mut changed = pin!(self.changed.notified());
            // Before the look, or what is given back between the two would be missed.
            changed.as_mut().enable();
            let policy = broker.config().admission;
            let wanted = Wanted {
                until: last,
                ..self.wanted(memory)
            };
            let limit = match self.look(broker, &policy, &wanted, places).await {
                Decision::Admit => match Arc::clone(places).try_acquire_owned() {
                    Ok(place) => return Ok((place, self.promise(memory))),
                    Err(_taken) => Limit::Places,
                },
                Decision::GiveWay(_, limit) | Decision::Evict(_, limit) | Decision::Wait(limit) => {
                    limit
                }
                Decision::Refuse { limit, again } => return Err(Refused::Room(limit, again)),
            };
            self.note(limit);
            let next = (Instant::now() + LOOK_AGAIN).min(until);
            // Either way it looks again.
            let _ = timeout_at(next, changed).await;
        }
    }

    /// Decides, and ends whoever is to give way.
    async fn look(
        &self,
        broker: &Arc<Broker>,
        policy: &Policy,
        wanted: &Wanted,
        places: &Semaphore,
    ) -> Decision {
        let now = broker.clock.now();
        let (mut readings, idle) = self.readings(broker);
        readings.free_places = u32::try_from(places.available_permits()).unwrap_or(u32::MAX);
        let could: Vec<Idle> = idle.iter().map(|(one, _)| *one).collect();
        let decision = decide(now, policy, &readings, wanted, &could);
        match &decision {
            Decision::GiveWay(bytes, limit) => {
                let members = broker.pool.give_way(now, *bytes).await;
                let told = members.iter().map(|handle| async move {
                    let _ = tokio::time::timeout(EVICTION, handle.ending()).await;
                });
                join_all(told).await;
                let members = members.len();
                tracing::info!(members, ?limit, "members of pools give way to new sessions");
            }
            Decision::Evict(who, limit) => {
                let handles = who.iter().filter_map(|at| idle.get(*at));
                let evictions = handles.map(|(_, handle)| async move {
                    let told = tokio::time::timeout(EVICTION, handle.evict()).await;
                    if told == Ok(true) {
                        tracing::info!(session_id = %handle.id, ?limit, "an idle session gives way to new ones");
                    }
                });
                join_all(evictions).await;
            }
            Decision::Admit | Decision::Wait(_) | Decision::Refuse { .. } => {}
        }
        decision
    }

    /// What there is but for places, and the idle sessions.
    fn readings(&self, broker: &Arc<Broker>) -> (Readings, Vec<(Idle, Arc<SessionHandle>)>) {
        let host = broker.host.reading(broker);
        // Before the sessions, and what waits before both: what begins or is claimed meanwhile counts twice rather than not at all.
        let promised = self.promised.load(Ordering::Relaxed);
        let waiting = broker.registry.waiting();
        let mut readings = Readings {
            free_places: 0,
            committed: promised,
            members: broker.pool.members(),
            members_leaving: 0,
            leaving: 0,
            leaving_bytes: 0,
            host_memory: host.memory,
            available: host.available,
            pressure: host.pressure,
        };
        for handle in &waiting {
            let weight = handle.weight();
            readings.committed = readings.committed.saturating_add(weight.committed);
            if weight.leaving {
                readings.members_leaving += 1;
                readings.leaving_bytes += weight.committed;
            }
        }
        let mut idle = Vec::new();
        for handle in broker.registry.all() {
            let weight = handle.weight();
            readings.committed = readings.committed.saturating_add(weight.committed);
            if weight.leaving {
                readings.leaving += 1;
                readings.leaving_bytes += weight.committed;
            } else if let Some(since) = weight.idle_since {
                let one = Idle {
                    since,
                    frozen: weight.frozen,
                    committed: weight.committed,
                };
                idle.push((one, handle));
            }
        }
        (readings, idle)
    }

    /// Whether a member of a pool may begin.
    pub(super) fn has_room_for_member(&self, broker: &Arc<Broker>, memory: u64) -> bool {
        let queued = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let nobody_waits = queued.callers == 0;
        drop(queued);
        let policy = broker.config().admission;
        nobody_waits && has_room_for_member(&policy, &self.readings(broker).0, memory)
    }

    fn wanted(&self, memory: u64) -> Wanted {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        Wanted {
            memory,
            until: session_core::moment::Moment(0),
            behind: queue.callers.saturating_sub(1),
            behind_memory: queue.memory.saturating_sub(memory),
        }
    }

    fn note(&self, limit: Limit) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.short = Some((limit, limit.again()));
    }

    fn promise(&self, bytes: u64) -> Promise {
        self.promised.fetch_add(bytes, Ordering::Relaxed);
        Promise {
            of: Arc::clone(&self.promised),
            bytes,
        }
    }
}

/// A caller in the queue.
struct Queued<'a> {
    room: &'a Room,
    memory: u64,
}

impl<'a> Queued<'a> {
    fn enter(room: &'a Room, memory: u64) -> Self {
        let mut queue = room.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.callers += 1;
        queue.memory = queue.memory.saturating_add(memory);
        drop(queue);
        Self { room, memory }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut queue = self
            .room
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        queue.callers -= 1;
        if queue.callers == 0 {
            queue.short = None;
        }
        queue.memory = queue.memory.saturating_sub(self.memory);
    }
}
