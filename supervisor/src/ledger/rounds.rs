//! Once a second: read what is awake, write down what has ended, and now and then meters and a checkpoint.

use super::checkpoint::Checkpoint;
use super::journal::Journalled;
use super::record::SavedMeter;
use super::{Account, DETAILED, DURABLE_EVERY, Ledger, checkpoint, locked};
use crate::broker::Broker;
use crate::fault::chain;
use crate::launcher::message::{MAX_METERED, Metered};
use crate::store::{StoreError, Timestamp};
use session_core::meter::Reading;
use session_core::moment::Moment;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// Between two readings.
const ROUND: Duration = Duration::from_secs(1);

/// Meters of sessions that only wait are written every so many rounds.
const SAVE_ROUNDS: u64 = 10;

/// A checkpoint is made every so many rounds, if there are records that it does not know.
const CHECKPOINT_ROUNDS: u64 = 10;

/// Old records and checkpoints are removed every so many rounds.
const SWEEP_ROUNDS: u64 = 600;

/// Invocations that wait for a disk that takes none, at most; beyond them the oldest are given up, which is logged. They are
/// in their sessions' sums all the same.
const MOST_WAITING: usize = 100_000;

/// Rows of one write; of invocations more, as many as their file of the journal has.
const BATCH: usize = 500;

/// Does rounds for as long as the daemon is there.
pub async fn keep_going(broker: Arc<Broker>) {
    let mut ticks = tokio::time::interval(ROUND);
    // A late round has read everything that a missed one would have.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rounds = Rounds::default();
    loop {
        ticks.tick().await;
        rounds.round(&broker).await;
    }
}

#[derive(Debug, Default)]
struct Rounds {
    number: u64,
    durably_saved: Option<Instant>,
    /// What a checkpoint knows.
    known: Option<Checkpoint>,
}

impl Rounds {
    async fn round(&mut self, broker: &Broker) {
        let ledger = &broker.ledger;
        self.number += 1;
        ledger.room.store(DETAILED, Ordering::Relaxed);
        let tmp = self.number % SAVE_ROUNDS == 1;
        take_ended(broker, tmp).await;
        ledger.cut_days(broker.clock.now()).await;
        let fresh = self.number % SAVE_ROUNDS == 1;
        ledger.look_at_budgets(broker, fresh).await;
        if self.number % SAVE_ROUNDS == 1 {
            let durable = self
                .durably_saved
                .is_none_or(|at| at.elapsed() >= DURABLE_EVERY);
            if durable {
                self.durably_saved = Some(Instant::now());
            }
            ledger.save(durable).await;
        } else {
            // A session that is new, or works, is written down each time: its daemon may be killed.
            ledger.save_urgent().await;
        }
        if self.number.is_multiple_of(CHECKPOINT_ROUNDS) {
            self.known = ledger.checkpoint(self.known).await;
        }
        if self.number % SWEEP_ROUNDS == 2 {
            ledger.sweep(broker, self.known).await;
        }
    }
}

/// Invocations that have ended and are in no record.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    all: Vec<Journalled>,
    /// Up to where the journal is on record.
    journal: i64,
}

impl Waiting {
    /// Adds to what could not be written, or not yet.
    pub(super) fn extend(&mut self, more: impl IntoIterator<Item = Journalled>) {
        self.all.extend(more);
    }

    /// Writes down what is in the journal's files up to this one, a file at a time or several, so that the journal can say of
    /// each that it is on record.
    pub(super) async fn write(&mut self, ledger: &Ledger, until: i64) {
        self.all.sort_by_key(|one| one.file);
        loop {
            let due = self.all.partition_point(|one| one.file <= until);
            let (some, whole) = match self.all.get(BATCH).filter(|_| due > BATCH) {
                Some(beyond) => {
                    let last = beyond.file;
                    (self.all.partition_point(|one| one.file <= last), last)
                }
                None => (due, until),
            };
            if some == 0 && whole <= self.journal {
                return;
            }
            let batch = self.all.iter().take(some).map(|one| one.of.clone());
            let written = ledger
                .store
                .record_invocations(batch.collect(), Some(whole));
            match written.await {
                Ok(()) => {
                    drop(self.all.drain(..some));
                    ledger.journal.recorded(whole);
                    self.journal = self.journal.max(whole);
                }
                Err(error) => {
                    tracing::error!(error = %chain(&error), waiting = self.all.len(), "invocations not recorded; tried again");
                    let over = self.all.len().saturating_sub(MOST_WAITING);
                    if over > 0 {
                        self.all.drain(..over);
                        tracing::error!(
                            given_up = over,
                            "records of invocations given up; their sessions' sums have them"
                        );
                    }
                    return;
                }
            }
        }
    }
}

/// Reads all sessions, and records what has ended in them.
async fn take_ended(broker: &Broker, tmp: bool) {
    let ledger = &broker.ledger;
    let mut waiting = ledger.waiting.lock().await;
    let until = ledger.journal.turn();
    // What is in the journal up to there is in an account that is read now, or among the ended after that.
    waiting.extend(read_all(broker, tmp).await);
    waiting.extend(std::mem::take(&mut *locked(&ledger.ended)));
    waiting.write(ledger, until).await;
    ledger.record_claimed().await;
}

/// Reads every account that is awake. Gives what has ended in all of them.
async fn read_all(broker: &Broker, tmp: bool) -> Vec<Journalled> {
    let (awake, asleep): (Vec<_>, Vec<_>) = broker
        .ledger
        .all()
        .into_iter()
        .partition(|account| account.awake());
    let mut ended: Vec<Journalled> = asleep.iter().flat_map(|account| account.unread()).collect();
    for some in awake.chunks(MAX_METERED) {
        let names = some.iter().map(|account| account.session.clone()).collect();
        let found = broker.launcher.meter(names, tmp).await;
        let now = broker.clock.now();
        match found {
            Ok(found) => {
                let found = found.into_iter().chain(std::iter::repeat(None));
                for (account, metered) in some.iter().zip(found) {
                    ended.extend(take(account, now, metered));
                }
            }
            Err(fault) => {
                tracing::warn!(fault = %fault, "sessions not read");
                ended.extend(some.iter().flat_map(|account| account.unread()));
            }
        }
    }
    ended
}

/// Reads one account, between rounds.
pub async fn read_one(broker: &Broker, account: &Account) {
    let metered = broker.launcher.meter(vec![account.session.clone()], false);
    if let Ok(found) = metered.await {
        let first = found.into_iter().next().flatten();
        // What has ended in it waits for the next round, and no round passes it by.
        let mut ended = locked(&broker.ledger.ended);
        ended.extend(take(account, broker.clock.now(), first));
    }
}

fn take(account: &Account, now: Moment, metered: Option<Metered>) -> Vec<Journalled> {
    match metered {
        Some(Metered {
            cpu_us,
            memory_bytes,
            peak_bytes,
            tmp_bytes,
        }) => account.read(
            now,
            Reading {
                cpu_us,
                memory_bytes,
                peak_bytes,
                tmp_bytes,
            },
        ),
        // On its way here or away: its end has the last reading.
        None => account.unread(),
    }
}

impl Ledger {
    /// Records what claimed sessions used while they waited. For one at a time.
    pub(super) async fn record_claimed(&self) {
        loop {
            let some: Vec<_> = locked(&self.claimed).iter().take(BATCH).cloned().collect();
            if some.is_empty() {
                return;
            }
            let count = some.len();
            if let Err(error) = self.store.record_last_parts(some).await {
                tracing::error!(error = %chain(&error), "parts of claimed sessions not recorded; tried again");
                return;
            }
            // Others come to the end only.
            locked(&self.claimed).drain(..count);
        }
    }

    /// Records the parts of a day that is over.
    async fn cut_days(&self, now: Moment) {
        let accounts = self.all();
        let (cut, parts): (Vec<_>, Vec<_>) = accounts
            .iter()
            .filter_map(|account| Some((account, account.part(now, &self.boot)?)))
            .unzip();
        if parts.is_empty() {
            return;
        }
        let saved: Vec<SavedMeter> = parts.iter().map(|(_, saved)| saved.clone()).collect();
        let told: Vec<_> = parts
            .iter()
            .map(|(part, _)| (part.subject.clone(), part.used))
            .collect();
        match self.store.record_parts(parts).await {
            Ok(()) => {
                for ((account, saved), (subject, used)) in cut.into_iter().zip(&saved).zip(told) {
                    self.budgets
                        .recording(|| (account.parted(saved), subject, used));
                }
            }
            Err(error) => {
                tracing::error!(error = %chain(&error), "parts of sessions not recorded; tried again");
            }
        }
    }

    /// Writes down the meters that changed.
    pub(super) async fn save(&self, durable: bool) {
        self.save_some(durable, |_| true).await;
    }

    async fn save_urgent(&self) {
        self.save_some(false, Account::is_urgent).await;
    }

    async fn save_some(&self, durable: bool, which: impl Fn(&Account) -> bool) {
        let accounts = self.all();
        let (from, meters): (Vec<_>, Vec<_>) = accounts
            .iter()
            .filter(|account| which(account))
            .filter_map(|account| Some((account, account.to_save(&self.boot)?)))
            .unzip();
        for (from, meters) in from.chunks(BATCH).zip(meters.chunks(BATCH)) {
            if let Err(error) = self.store.save_meters(meters.to_vec(), durable).await {
                tracing::error!(error = %chain(&error), "meters not written down; tried again");
                for account in from {
                    account.not_saved();
                }
            }
        }
    }

    /// Makes a checkpoint, if there are records that `known` does not know; gives the newest.
    pub(super) async fn checkpoint(&self, known: Option<Checkpoint>) -> Option<Checkpoint> {
        match self.try_checkpoint(known).await {
            Ok(newest) => newest,
            Err(error) => {
                tracing::error!(error = %chain(&error), "no checkpoint of the ledger; tried again");
                known
            }
        }
    }

    async fn try_checkpoint(
        &self,
        known: Option<Checkpoint>,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let heads = self.store.heads().await?;
        if known.is_some_and(|known| known.heads == heads) || heads.iter().all(|h| h.seq == 0) {
            return Ok(known);
        }
        let newest = Checkpoint {
            at: Timestamp::now(),
            heads: self.store.settled_heads().await?,
        };
        let file = self.checkpoints.clone();
        let store = self.store.clone();
        let added = tokio::task::spawn_blocking(move || file.add(&newest, store.chain())).await;
        match added {
            Ok(Ok(())) => {
                let [sessions, invocations] = newest.heads;
                tracing::debug!(
                    target: "ledger",
                    sessions = sessions.seq,
                    sessions_head = checkpoint::hex(&sessions.mac),
                    invocations = invocations.seq,
                    invocations_head = checkpoint::hex(&invocations.mac),
                    "checkpoint"
                );
                let at = u64::try_from(newest.at.0).unwrap_or(0);
                self.checkpointed.store(at, Ordering::Relaxed);
                Ok(Some(newest))
            }
            Ok(Err(source)) => Err(StoreError::File {
                verb: "add to",
                path: self.checkpoints.path().to_owned(),
                source: Arc::new(source),
            }),
            Err(_cancelled) => Ok(known),
        }
    }

    /// Before the daemon ends: writes down all there is.
    pub async fn settle(&self, broker: &Broker) {
        take_ended(broker, false).await;
        self.save(true).await;
        self.checkpoint(None).await;
    }

    /// Removes what is older than the operator wants to keep.
    async fn sweep(&self, broker: &Broker, known: Option<Checkpoint>) {
        let now = Timestamp::now();
        let config = broker.config();
        let keep = &config.ledger;
        if let Some(known) = known {
            for (chain_of, before, rows) in [
                (
                    super::chain::Chain::Sessions,
                    now.before(keep.keep),
                    i64::MAX,
                ),
                (
                    super::chain::Chain::Invocations,
                    now.before(keep.keep_invocations),
                    i64::try_from(keep.max_invocations).unwrap_or(i64::MAX),
                ),
            ] {
                let proven = known.of(chain_of).seq;
                loop {
                    match self.store.prune_usage(chain_of, before, rows, proven).await {
                        Ok(0) => break,
                        Ok(_) => tokio::task::yield_now().await,
                        Err(error) => {
                            tracing::error!(error = %chain(&error), "old records of usage not removed");
                            return;
                        }
                    }
                }
            }
        }
        let mut after = 0;
        while let Ok(Some(next)) = self.store.prune_subjects(after).await {
            after = next;
        }
        let file = self.checkpoints.clone();
        let store = self.store.clone();
        let thinned = tokio::task::spawn_blocking(move || file.thin(store.chain(), now)).await;
        if let Ok(Err(error)) = thinned {
            tracing::error!(error = %error, "old checkpoints of the ledger not removed");
        }
    }
}
