//! The ledger: what every session and every invocation used, in records that nobody can change unseen.
//!
//! ```text
//! launcher ──one order a second for all that are awake──▶ round ──▶ account (a meter, work in flight)
//!                                                          │             │ end of the session: its last part,
//!                     invocations · meters · checkpoints ◀─┘             ▼ in the transaction of the end
//!                                     store: two chains, sums by day ◀───┘
//! ```
//!
//! **What is promised.** A session's CPU time is the kernel's counter at its end, exact whatever happened between; its end is not
//! told before its record is on disk. A daemon that is killed loses at most what its last round did not see: a second's readings
//! of memory (the readings on both sides stand in for them), and the CPU time of the invocations that ended in its last second,
//! which is in the session's all the same; the invocations themselves are in the [`journal`]. A power cut ends all sessions, and what is left of each is its meter as it was
//! written down durably, at most [`DURABLE_EVERY`] before.
//!
//! Nothing here is on an invocation's way but a lock of its session's account, at its begin and at its end.

pub mod account;
pub mod budgets;
pub mod chain;
pub mod checkpoint;
mod journal;
pub mod record;
mod rounds;
pub mod verdict;

pub use account::{Account, Charge};
pub use rounds::{keep_going, read_one};

use crate::launcher::message::Counters;
use crate::store::{LiveUse, Store, StoreError, Timestamp};
use crate::time::since_boot;
use account::Boot;
use budgets::Budgets;
use checkpoint::Checkpoints;
use journal::{Journal, Journalled, Left};
use proto::api::EndReason;
use proto::ids::SessionId;
use record::{SavedMeter, SessionPart, Subject};
use rounds::Waiting;
use session_core::meter::{Allocated, Meter, Reading, Totals};
use session_core::moment::Moment;
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often meters are written so that they survive a power cut.
pub const DURABLE_EVERY: Duration = Duration::from_secs(60);

/// Invocations that have a record of their own, in one round; the others of a session share one. It bounds what a flood costs.
const DETAILED: usize = 1000;

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    store: Store,
    boot: Boot,
    checkpoints: Checkpoints,
    /// Of live sessions.
    accounts: Mutex<HashMap<SessionId, Arc<Account>>>,
    /// Meters that an earlier daemon left, until their session is taken over or buried.
    left: Mutex<HashMap<SessionId, SavedMeter>>,
    /// Last parts of sessions that waited in a pool and were claimed, until the next round records them. Their meters are
    /// written down as closed, so that the next daemon records them if this one is killed.
    claimed: Mutex<Vec<SessionPart>>,
    /// Invocations of sessions that are over.
    ended: Mutex<Vec<Journalled>>,
    /// Held while what has ended is collected and written: what one round has taken, no other passes by.
    waiting: tokio::sync::Mutex<Waiting>,
    journal: Arc<Journal>,
    /// What sessions counted of which an earlier daemon had written down no meter.
    early: Mutex<HashMap<SessionId, Totals>>,
    room: Arc<AtomicUsize>,
    budgets: Budgets,
    /// When this daemon signed a checkpoint last, milliseconds since 1970; 0 is never.
    checkpointed: AtomicU64,
}

impl Ledger {
    /// Opens it on the broker's directory and reads what an earlier daemon left.
    pub async fn open(directory: &Path, store: Store, boot_id: &str) -> Result<Self, StoreError> {
        let journal = journalled(directory, &store).await?;
        let early = store.unmetered().await?.into_iter().collect();
        let (left, changed) = store.left_meters().await?;
        for session in changed {
            tracing::error!(
                session_id = session,
                "the meter of a session was changed by somebody else; it begins anew"
            );
        }
        let (closed, left): (Vec<_>, Vec<_>) = left.into_iter().partition(|saved| saved.closed);
        if !closed.is_empty() {
            let parts = closed.iter().map(SavedMeter::last_part).collect();
            store.record_last_parts(parts).await?;
        }
        let budgets = Budgets::open(&store).await?;
        let left = left
            .into_iter()
            .map(|saved| (saved.subject.session.clone(), saved))
            .collect();
        Ok(Self {
            store,
            boot: Boot {
                id: boot_id.to_owned(),
            },
            checkpoints: Checkpoints::at(directory),
            accounts: Mutex::default(),
            left: Mutex::new(left),
            claimed: Mutex::default(),
            ended: Mutex::default(),
            waiting: tokio::sync::Mutex::default(),
            journal: Arc::new(journal),
            early: Mutex::new(early),
            room: Arc::new(AtomicUsize::new(DETAILED)),
            budgets,
            checkpointed: AtomicU64::new(0),
        })
    }

    /// Opens a session's account.
    pub fn begin(&self, subject: Subject, allocated: Allocated, now: Moment) -> Arc<Account> {
        let session = subject.session.clone();
        let meter = Meter::new(now, allocated);
        self.add(session, subject, meter, Default::default())
    }

    /// Opens the account of a session that waits in its pool: what it uses there is the pool's.
    pub fn wait(&self, subject: Subject, allocated: Allocated, now: Moment) -> Arc<Account> {
        let session = subject.session.clone();
        let meter = Meter::new(now, allocated);
        self.add(session, subject.waiting(), meter, Default::default())
    }

    /// Closes the account of a session that waited, which is `subject`'s from now on. Gives the meter of its waiting, to be written
    /// down with the claim; the next round records it.
    pub fn claim(
        &self,
        waited: &Account,
        subject: Subject,
        allocated: Allocated,
        now: Moment,
    ) -> (Arc<Account>, SavedMeter) {
        let session = subject.session.clone();
        // Nothing of the counter is lost and nothing is charged twice: it goes on from what was read of it last.
        let last = waited.used(now);
        let reading = Reading {
            cpu_us: last.cpu_us,
            memory_bytes: 0,
            peak_bytes: 0,
            tmp_bytes: None,
        };
        // Until it is among the claimed, no query passes it by.
        let mut all_claimed = locked(&self.claimed);
        let closed = self.budgets.recording(|| {
            let closed = waited.close_waiting(now, reading, &self.boot);
            let part = closed.last_part();
            all_claimed.push(part.clone());
            (closed, part.subject, part.used)
        });
        drop(all_claimed);
        let meter = Meter::claimed(now, allocated, last.cpu_us);
        let account = self.add(session, subject, meter, Default::default());
        (account, closed)
    }

    /// Goes on with the account of a session that is taken over.
    pub fn resume(
        &self,
        subject: Subject,
        allocated: Allocated,
        now: Moment,
        found: Resumed,
    ) -> Arc<Account> {
        let session = subject.session.clone();
        let subject = match subject.owner.is_nobody() {
            true => subject.waiting(),
            false => subject,
        };
        // By the name that it is charged under, as it was written down.
        let left = locked(&self.left).remove(&subject.session);
        match left.filter(|saved| saved.boot_id == self.boot.id) {
            Some(saved) => {
                let gap = since_boot_ms().saturating_sub(saved.boot_ms);
                let gap = Duration::from_millis(gap);
                let meter = Meter::resume(saved.meter, now, gap, found.active);
                self.add(session, subject, meter, (saved.counted, saved.recorded))
            }
            // Its daemon was killed in its first second.
            None => {
                let meter = Meter::claimed(now.before(found.age), allocated, found.cpu_before);
                let counted = self.counted_early(&subject.session);
                self.add(session, subject, meter, (counted, Totals::default()))
            }
        }
    }

    fn add(
        &self,
        session: SessionId,
        subject: Subject,
        meter: Meter,
        sums: (Totals, Totals),
    ) -> Arc<Account> {
        let shared = (Arc::clone(&self.room), Arc::clone(&self.journal));
        let account = Account::new(session.clone(), subject, meter, sums, shared);
        let account = Arc::new(account);
        locked(&self.accounts).insert(session, Arc::clone(&account));
        account
    }

    /// A session is over: what to record with its end.
    pub fn close(
        &self,
        account: &Account,
        now: Moment,
        last: Counters,
        reason: EndReason,
    ) -> SessionPart {
        // Until it is among the ended, no round passes it by.
        let mut all_ended = locked(&self.ended);
        let (part, ended) = self.budgets.recording(|| {
            let (part, ended) = account.close(now, reading(last), reason);
            let (subject, used) = (part.subject.clone(), part.used);
            ((part, ended), subject, used)
        });
        all_ended.extend(ended);
        locked(&self.accounts).remove(&account.session);
        part
    }

    /// The same of one that ended while no daemon was there. `until_now`: it was there until now; otherwise nobody knows when it
    /// ended, and it is charged until it was read last. `cpu_before`: as of [`Resumed`].
    pub fn bury(
        &self,
        (subject, cpu_before): (Subject, u64),
        last: Counters,
        reason: EndReason,
        until_now: bool,
    ) -> SessionPart {
        let left = locked(&self.left).remove(&subject.session);
        let now = Moment(u64::MAX / 2);
        let (mut meter, counted, recorded, at) = match left {
            Some(saved) => {
                let same_boot = saved.boot_id == self.boot.id;
                let gap = since_boot_ms().saturating_sub(saved.boot_ms);
                let gap = Duration::from_millis(if same_boot && until_now { gap } else { 0 });
                let at = if until_now {
                    Timestamp::now()
                } else {
                    saved.saved_at
                };
                let meter = Meter::resume(saved.meter, now, gap, false);
                (meter, saved.counted, saved.recorded, at)
            }
            None => {
                let nothing = Allocated {
                    memory_bytes: 0,
                    cpu_millis: 0,
                };
                let meter = Meter::claimed(now, nothing, cpu_before);
                let counted = self.counted_early(&subject.session);
                (meter, counted, Totals::default(), Timestamp::now())
            }
        };
        meter.close(now, reading(last));
        SessionPart {
            subject,
            at,
            reason: Some(reason),
            used: meter.totals().plus(&counted).since(&recorded),
        }
    }

    fn counted_early(&self, session: &SessionId) -> Totals {
        locked(&self.early).remove(session).unwrap_or_default()
    }

    /// What live sessions have used that is in no record.
    #[must_use]
    pub fn live(&self, now: Moment) -> Vec<LiveUse> {
        // Held while the accounts are asked: of one that is claimed meanwhile both parts are here.
        let claimed = locked(&self.claimed);
        let claimed = claimed.iter().map(|part| LiveUse {
            subject: part.subject.clone(),
            used: part.used,
        });
        let accounts = self.all();
        let live = accounts.iter();
        let live = live.filter_map(|account| account.unrecorded(now));
        claimed.chain(live).collect()
    }

    /// The account of a live session.
    #[must_use]
    pub fn of(&self, session: &SessionId) -> Option<Arc<Account>> {
        locked(&self.accounts).get(session).cloned()
    }

    /// When this daemon signed a checkpoint last, since 1970; zero is never.
    #[must_use]
    pub fn checkpointed_at(&self) -> Duration {
        Duration::from_millis(self.checkpointed.load(Ordering::Relaxed))
    }

    /// The accounts of live sessions.
    pub fn all(&self) -> Vec<Arc<Account>> {
        locked(&self.accounts).values().cloned().collect()
    }
}

/// What is known of a session that is taken over.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resumed {
    /// Since when it is its caller's.
    pub age: Duration,
    /// CPU time that it used before, µs: somebody else pays for it.
    pub cpu_before: u64,
    /// Work is in flight in it.
    pub active: bool,
}

/// Opens the journal and records what an earlier daemon left in it.
async fn journalled(directory: &Path, store: &Store) -> Result<Journal, StoreError> {
    let recorded = store.journal_recorded().await?;
    let opened = Journal::open(directory, recorded).map_err(|source| StoreError::File {
        verb: "read the ledger's journal in",
        path: directory.to_owned(),
        source: Arc::new(source),
    });
    let (journal, left) = opened?;
    if !left.invocations.is_empty() {
        tracing::info!(
            invocations = left.invocations.len(),
            "recording invocations of an earlier daemon"
        );
        let Left { invocations, until } = left;
        store.record_invocations(invocations, Some(until)).await?;
        journal.recorded(until);
    }
    Ok(journal)
}

fn reading(last: Counters) -> Reading {
    Reading {
        cpu_us: last.cpu_us,
        memory_bytes: 0,
        peak_bytes: last.memory_peak_bytes,
        tmp_bytes: None,
    }
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held.
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

fn since_boot_ms() -> u64 {
    u64::try_from(since_boot().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod speed;
#[cfg(test)]
mod tests;
