//! Warm pools: sessions that were started for nobody, and wait for whoever comes.
//!
//! ```text
//!  keeper: targets (core) ▸ start ──ready──▶ shelf of a version ──claim──▶ a caller's session
//!             ▲                                │ died │ surplus │ old │ version not served any more
//!             └────────── ring ────────────────┴──────▶ ended
//! ```
//!
//! A **shelf** is one version's: its members, its demand, and how starting them went. It is there from the first session that is
//! wanted of a version (or at once, where a floor is asked for), and goes with its last member and its demand. The **keeper** is one
//! task: it looks once a second while there is a shelf, and whenever something has changed. What is on a shelf is given once, under its
//! lock; nothing is awaited under it. A member is made as a caller's session would be: of a fork where its version has a template,
//! and replaced by one where it is not of the present template. docs/design.md, "Warm pool", has what can fail.
//!
//! Not for: how many are to wait ([`session_core::pool`]), and the change of hands (`session/driver/claim.rs`).

mod shelf;

use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::ledger;
use crate::session::driver::{self, Claimed};
use crate::session::handle::SessionHandle;
use crate::session::origin::Path;
use proto::api::{EndReason, PoolState};
use proto::ids::{RuntimeId, VersionNumber};
use session_core::moment::Moment;
use session_core::pool::{Barometer, Pressure, Wish, share_out};
use shelf::{Shelf, Sizes};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Between two looks while there is a shelf: demand fades, and pressure rises, without anybody's call.
const PAUSE: Duration = Duration::from_secs(1);

/// Members that start at once: each takes processor time from callers.
const AT_ONCE: usize = 2;

/// How long a daemon that stops waits for its members to end. The next one ends what is left.
const GOODBYE: Duration = Duration::from_secs(5);

type Key = (RuntimeId, VersionNumber);

/// See the module.
#[derive(Debug, Default)]
pub struct Pool {
    shelves: Mutex<Shelves>,
    /// Rung when a shelf may have to be filled, or emptied.
    ring: Notify,
}

#[derive(Debug, Default)]
struct Shelves {
    of: HashMap<Key, Shelf>,
    barometer: Barometer,
    /// The daemon stops.
    closed: bool,
}

/// What the keeper does next.
#[derive(Debug, Default)]
struct Plan {
    start: Vec<Arc<RuntimeVersion>>,
    stop: Vec<Arc<SessionHandle>>,
    /// Whether there is anything to look after.
    shelves: bool,
}

impl Pool {
    /// A member of this version, if one waits; in any case it is known that one was wanted.
    pub async fn claim(&self, version: &Arc<RuntimeVersion>, now: Moment) -> Option<Claimed> {
        self.with(version, |shelf| shelf.arrived(now));
        self.ring.notify_one();
        loop {
            let taken = Taken {
                pool: self,
                version,
                handle: Some(self.with(version, Shelf::take)??),
            };
            if let Some(claimed) = taken.hand_over().await {
                self.with(version, Shelf::hit);
                return Some(claimed);
            }
        }
    }

    /// One that was handed over and not used waits again.
    pub fn take_back(
        &self,
        broker: &Arc<Broker>,
        version: &Arc<RuntimeVersion>,
        handle: Arc<SessionHandle>,
    ) {
        let kept = self.known(version, |shelf| shelf.put(Arc::clone(&handle)));
        tokio::spawn(look_after(
            Arc::clone(broker),
            Arc::clone(version),
            handle,
            kept.is_some(),
        ));
    }

    /// Something has changed that the keeper should look at.
    pub fn ring(&self) {
        self.ring.notify_one();
    }

    /// Members of a runtime, of all its versions, and whether there may be any.
    #[must_use]
    pub fn state(&self, runtime: &RuntimeId) -> Option<PoolState> {
        let shelves = self.shelves();
        let of = shelves.of.iter().filter(|((of, _), _)| of == runtime);
        of.map(|(_, shelf)| shelf.state())
            .reduce(|sum, one| PoolState {
                ready: sum.ready + one.ready,
                starting: sum.starting + one.starting,
                target: sum.target + one.target,
                hits: sum.hits + one.hits,
                misses: sum.misses + one.misses,
                failure: sum.failure.or(one.failure),
            })
    }

    /// The same by name of runtime, for figures.
    #[must_use]
    pub fn states(&self) -> Vec<(Arc<RuntimeVersion>, PoolState)> {
        let shelves = self.shelves();
        let all = shelves.of.values();
        all.map(|shelf| (Arc::clone(&shelf.version), shelf.state()))
            .collect()
    }

    /// How many members are on shelves.
    #[must_use]
    pub fn members(&self) -> u32 {
        let shelves = self.shelves();
        let members = shelves.of.values().map(Shelf::members);
        u32::try_from(members.sum::<usize>()).unwrap_or(u32::MAX)
    }

    /// Takes this one off its shelf, so that nobody claims it; whether it was there.
    pub fn take_off(&self, member: &Arc<SessionHandle>) -> bool {
        self.known(&member.version, |shelf| shelf.take_off(member)) == Some(true)
    }

    /// Takes members off their shelves that hold so many bytes together, or all, and tells them to end. `u64::MAX` is a host that
    /// is short of memory, which is remembered for a while.
    pub async fn give_way(&self, now: Moment, bytes: u64) -> Vec<Arc<SessionHandle>> {
        let members = {
            let mut shelves = self.shelves();
            if bytes == u64::MAX {
                shelves.barometer.feel(now, Pressure::Severe);
            }
            // Those first whose last caller came the longest ago.
            let mut order: Vec<&mut Shelf> = shelves.of.values_mut().collect();
            order.sort_by_key(|shelf| shelf.last_wanted());
            let mut given = 0_u64;
            let mut members = Vec::new();
            for shelf in order {
                while given < bytes
                    && let Some(handle) = shelf.give()
                {
                    given = given.saturating_add(handle.weight().committed);
                    members.push(handle);
                }
            }
            members
        };
        for handle in &members {
            handle.stop(EndReason::Evicted).await;
        }
        members
    }

    /// Forgets a runtime's shelves. What was on them ends, and is given for waiting for it.
    pub async fn retire(&self, broker: &Broker, runtime: &RuntimeId) -> Vec<Arc<SessionHandle>> {
        self.shelves().of.retain(|(of, _), _| of != runtime);
        let mut members = broker.registry.waiting();
        members.retain(|handle| is_member(handle) && handle.key.runtime == *runtime);
        for handle in &members {
            handle.stop(EndReason::Stopped).await;
        }
        members
    }

    /// Ends all members: the daemon stops.
    pub async fn close(&self, broker: &Broker) {
        {
            let mut shelves = self.shelves();
            shelves.closed = true;
            shelves.of.clear();
        }
        let mut members = broker.registry.waiting();
        members.retain(is_member);
        for handle in &members {
            handle.stop(EndReason::DaemonStopped).await;
        }
        let over = async {
            for handle in &members {
                handle.over().await;
            }
        };
        if tokio::time::timeout(GOODBYE, over).await.is_err() {
            tracing::warn!(
                "sessions that waited in pools are still ending; the next daemon ends them"
            );
        }
    }

    /// What is to be done now.
    fn plan(&self, broker: &Broker, now: Moment, pressure: Pressure) -> Plan {
        let config = broker.config();
        let served = broker.catalogue.served();
        let sessions = u32::try_from(broker.registry.len()).unwrap_or(u32::MAX);
        let room = config.limits.max_sessions.saturating_sub(sessions);
        let room = room.min(config.pool.total);
        let sizes = Sizes {
            now,
            unused_after: config.pool.unused_after,
        };
        let mut plan = Plan::default();
        let mut shelves = self.shelves();
        if shelves.closed {
            return plan;
        }
        let felt = shelves.barometer.feel(now, pressure);
        let of = &mut shelves.of;
        // Versions that nobody can reach any more leave what is known of demand to their successor.
        let gone: Vec<Key> = of
            .keys()
            .filter(|key| served.get(*key).is_none_or(|v| v.spec.pool.is_off()))
            .cloned()
            .collect();
        for key in gone {
            if let Some(old) = of.remove(&key) {
                let default = broker.catalogue.by_id(&key.0).and_then(|of| of.default);
                if let Some(version) = default.filter(|version| !version.spec.pool.is_off()) {
                    let shelf = of
                        .entry((version.runtime.clone(), version.number))
                        .or_insert_with(|| Shelf::new(&version));
                    shelf.inherit(&old);
                    if let Some(last) = shelf.last_wanted() {
                        broker.templates.wanted(&version, last);
                    }
                }
                plan.stop.extend(old.into_members());
            }
        }
        for (key, version) in &served {
            match of.get_mut(key) {
                Some(shelf) => shelf.version = Arc::clone(version),
                None if version.spec.pool.min > 0 => {
                    of.insert(key.clone(), Shelf::new(version));
                }
                None => {}
            }
        }
        // In the order of their last caller: with too little room for all, those in use come first.
        let mut order: Vec<&mut Shelf> = of.values_mut().collect();
        order.sort_by_key(|shelf| std::cmp::Reverse(shelf.last_wanted()));
        let wishes: Vec<Wish> = order.iter().map(|shelf| shelf.wish(&sizes, felt)).collect();
        let mut starting: usize = order.iter().map(|shelf| shelf.starting()).sum();
        for (shelf, share) in order.iter_mut().zip(share_out(&wishes, room)) {
            plan.stop.extend(shelf.resize(share));
            let outlook = broker.templates.outlook(&shelf.version, now);
            if starting < AT_ONCE && shelf.wants_more(now, &outlook) {
                starting += 1;
                plan.start.push(Arc::clone(&shelf.version));
            }
        }
        of.retain(|_, shelf| !shelf.is_over(&sizes));
        plan.shelves = !of.is_empty();
        plan
    }

    /// On a version's shelf, which is made if it is not there; `None` if the daemon stops.
    fn with<T>(
        &self,
        version: &Arc<RuntimeVersion>,
        act: impl FnOnce(&mut Shelf) -> T,
    ) -> Option<T> {
        let mut shelves = self.shelves();
        if shelves.closed {
            return None;
        }
        let key = (version.runtime.clone(), version.number);
        let shelf = shelves.of.entry(key);
        Some(act(shelf.or_insert_with(|| Shelf::new(version))))
    }

    /// On a version's shelf, if it is there.
    fn known<T>(&self, version: &RuntimeVersion, act: impl FnOnce(&mut Shelf) -> T) -> Option<T> {
        let mut shelves = self.shelves();
        let shelf = shelves
            .of
            .get_mut(&(version.runtime.clone(), version.number));
        shelf.map(act)
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        // Nothing panics while it is held.
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it is a pool's, and no template.
fn is_member(handle: &Arc<SessionHandle>) -> bool {
    handle.path == Path::Waiting
}

/// A member that was taken off its shelf and is not handed over yet. If nobody waits for that any more it is put back.
struct Taken<'a> {
    pool: &'a Pool,
    version: &'a RuntimeVersion,
    handle: Option<Arc<SessionHandle>>,
}

impl Taken<'_> {
    async fn hand_over(mut self) -> Option<Claimed> {
        let handle = self.handle.clone()?;
        let claimed = handle.hand_over().await;
        self.handle = None;
        if claimed.is_none() {
            // It is ending, or somebody was there: nobody's to have, and replaced.
            handle.stop(EndReason::Stopped).await;
        }
        claimed
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            // Where its driver has handed over meanwhile this leads nowhere, and is swept.
            self.pool.known(self.version, |shelf| shelf.put(handle));
        }
    }
}

/// Keeps all shelves as they are to be, for as long as the daemon takes new sessions.
pub async fn keep(broker: Arc<Broker>) {
    let mut shelves = true;
    loop {
        tokio::select! {
            () = broker.pool.ring.notified() => {}
            () = tokio::time::sleep(PAUSE), if shelves => {}
            () = broker.stopping() => return,
        }
        let reading = broker.host.reading(&broker).for_pools();
        let pressure = Pressure::of(&reading);
        let plan = broker.pool.plan(&broker, broker.clock.now(), pressure);
        shelves = plan.shelves;
        for handle in plan.stop {
            handle.stop(EndReason::Idle).await;
        }
        for version in plan.start {
            // A caller's session comes first, and the disk must have room for what is to end again.
            broker.slots.calm().await;
            if broker.store.room().is_err() || broker.draining() {
                break;
            }
            // Nor is one begun that would have to give way to the next caller.
            let memory = version.spec.limits.memory;
            if !broker.admission.has_room_for_member(&broker, memory) {
                continue;
            }
            start(&broker, version).await;
        }
    }
}

async fn start(broker: &Arc<Broker>, version: Arc<RuntimeVersion>) {
    let lease = broker.templates.lease(&version);
    let short = broker.pool.known(&version, |shelf| shelf.is_short());
    if lease.is_none() && short != Some(true) {
        // What another was to be replaced for is not there any more.
        return;
    }
    let id = crate::slots::fresh_name();
    let handle = driver::wait(broker, id, Arc::clone(&version), lease);
    let kept = broker
        .pool
        .known(&version, |shelf| shelf.begin(Arc::clone(&handle)));
    if let Some(replaced) = kept.clone().flatten() {
        replaced.stop(EndReason::Idle).await;
    }
    tokio::spawn(look_after(
        Arc::clone(broker),
        version,
        handle,
        kept.is_some(),
    ));
}

/// Goes with a member from its start to its end, or to its claim.
async fn look_after(
    broker: Arc<Broker>,
    version: Arc<RuntimeVersion>,
    handle: Arc<SessionHandle>,
    kept: bool,
) {
    let pool = &broker.pool;
    let began = Instant::now();
    if kept && handle.settled().await {
        // What its start has cost is the pool's to pay.
        ledger::read_one(&broker, &handle.account).await;
        let took = began.elapsed();
        let wanted = pool.known(&version, |shelf| shelf.ready(&handle, took));
        pool.ring();
        if wanted.is_none() {
            handle.stop(EndReason::Stopped).await;
        }
    } else if !kept {
        handle.stop(EndReason::Stopped).await;
    }
    // Nothing more is heard of one that was handed over.
    let end = handle.ending().await;
    let now = broker.clock.now();
    pool.known(&version, |shelf| shelf.gone(&handle, end.as_ref(), now));
    pool.ring();
}
