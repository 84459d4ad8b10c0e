//! What the daemon knows beyond its own life: artifacts, runtimes, versions, sessions (architecture §8).
//!
//! One SQLite file, `<state>/broker/agentcore.db`, in WAL mode. **One thread writes.** It takes queued jobs, runs as many
//! as wait in one transaction (each in a savepoint of its own, so that one that fails takes nothing with it), commits,
//! and only then answers: what was answered is on disk. A second thread with a connection of its own reads, so that
//! a list never waits for a disk.
//!
//! Two kinds of write. *Durable* ones (runtimes, versions, artifacts, the end of a session with its usage) are synced to
//! disk before their answer. *Volatile* ones (reserving a session, noting its pid) need to survive the daemon, not the
//! machine: after a power cut the sessions are gone as well. They skip the sync, which would be the larger part of a
//! launch's cost.
//!
//! A database that is damaged, foreign or newer is refused with what to do about it, never replaced by an empty one. A
//! full or read-only disk fails the one call with [`StoreError::Full`], and new work is refused until there is room
//! ([`reserve`]); an I/O error in a commit fails the whole store,
//! because nobody knows then what is on disk ([`Store::failed`]).
//!
//! Not for: deciding anything about sessions, and no bundle's bytes (those are `artifacts`).

mod artifacts;
mod audit;
mod backup;
mod budgets;
mod endpoints;
mod error;
mod frozen;
mod keys;
mod memo;
mod migrate;
mod objects;
mod once;
mod open;
mod page;
mod reserve;
mod runtimes;
mod sessions;
mod suspicion;
mod tags;
mod tasks;
mod timestamp;
mod upkeep;
mod usage;
mod versions;
mod worker;

pub use artifacts::NewArtifact;
pub use audit::{AuditRow, Refusal};
pub use backup::Copied;
pub use budgets::Approvals;
pub use endpoints::{EndpointRecord, NewEndpoint};
pub use error::StoreError;
pub use frozen::FrozenNote;
pub use keys::{KeyRow, NewKey};
pub use memo::Memo;
pub use objects::{Change, NewObject, ObjectRow};
pub use once::{Done, Once};
pub use page::PageRequest;
pub use reserve::Reserve;
pub use runtimes::Names;
pub use sessions::{
    ClaimedSession, Launched, LiveSession, NewSession, SessionEnd, SessionFilter, SessionRow,
    UidBlock,
};
pub use tasks::{
    Begun, Expired, Head, Inline, Known, NewTask, Over, Submitted, TaskFilter, TaskKind, TaskRow,
    Unfinished, Waits,
};
pub use timestamp::Timestamp;
pub use upkeep::{Keep, Retention, keep_tidy};
pub use usage::{
    ChainHead, ChainPage, Chained, InvocationRow, LiveUse, SumRow, UsageBy, UsageQuery, UsageRow,
};
pub(crate) use usage::{day_name, day_of, end_of};
pub use versions::{NewVersion, Quotas, Served, State, VersionOf, VersionRecord};

use crate::ledger::chain::ChainKey;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use worker::{Durability, Worker};

/// Handle to the store; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    writer: Worker,
    reader: Worker,
    names: Arc<Names>,
    reserve: Option<Reserve>,
    path: Arc<Path>,
    /// Refusals that are kept; whoever writes one holds to it, so that a flood of them has no time to fill the disk.
    refusals: Arc<AtomicU32>,
    commits: Histogram,
    /// Proves the records of usage.
    chain: Arc<ChainKey>,
}

impl Store {
    /// How long transactions take, for whoever shows it.
    #[must_use]
    pub fn commits(&self) -> &Histogram {
        &self.commits
    }

    /// Opens the database at `path` or makes it, checks and migrates it, and starts the threads. Blocks: call it at
    /// start-up. The parent directory must exist.
    pub fn open(path: &Path, names: Names) -> Result<Self, StoreError> {
        let chain = ChainKey::open(&path.with_file_name("ledger.key"));
        let chain = chain.map_err(|error| StoreError::Secret(Arc::new(error)))?;
        let writer = open::writer(path)?;
        let reader = open::reader(path)?;
        // From a tenth of a millisecond to some three seconds.
        let commits = Histogram::new(exponential_buckets(0.0001, 2.0, 16));
        Ok(Self {
            writer: Worker::start("store-writer", writer, Some(commits.clone()))?,
            reader: Worker::start("store-reader", reader, None)?,
            names: Arc::new(names),
            chain: Arc::new(chain),
            reserve: None,
            path: Arc::from(path),
            refusals: Arc::new(AtomicU32::new(Retention::BUILT_IN.refusals.most)),
            commits,
        })
    }

    /// With something kept back for what must be written, and no new work without room.
    #[must_use]
    pub fn with_reserve(self, reserve: Reserve) -> Self {
        Self {
            reserve: Some(reserve),
            ..self
        }
    }

    /// Refuses new work ([`StoreError::NoRoom`]) while the state directory has no room for it. To be asked before anything is
    /// begun that will have to be written down.
    pub fn room(&self) -> Result<(), StoreError> {
        self.reserve.as_ref().map_or(Ok(()), Reserve::room)
    }

    /// Why there is no room for new work, if there is none.
    #[must_use]
    pub fn short(&self) -> Option<Arc<str>> {
        self.reserve.as_ref().and_then(Reserve::short)
    }

    /// What proves the records of usage.
    #[must_use]
    pub fn chain(&self) -> &ChainKey {
        &self.chain
    }

    /// Resolves, with the reason, when the store can no longer be used: the daemon must then exit and start again.
    pub async fn failed(&self) -> StoreError {
        let error = tokio::select! {
            error = self.writer.failed() => error,
            error = self.reader.failed() => error,
        };
        // One that was closed has not failed.
        if error.is_fatal() {
            suspicion::note_failed(&self.path, &error);
        }
        error
    }

    /// Waits for what is queued and closes the file. Other handles of the same store find it stopped.
    pub async fn close(self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// Makes a number that no earlier daemon on this database has had: the epoch that fences older ones.
    pub async fn next_epoch(&self) -> Result<u64, StoreError> {
        self.write(Durability::Durable, |db| {
            let epoch: i64 = db.query_row(
                "INSERT INTO meta (key, value) VALUES ('epoch', 1)
                 ON CONFLICT (key) DO UPDATE SET value = value + 1 RETURNING value",
                [],
                |row| row.get(0),
            )?;
            Ok(epoch.cast_unsigned())
        })
        .await
    }

    async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        job: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let outcome = self.writer.run(durability, job).await;
        if let (Err(error @ StoreError::Full(_)), Some(reserve)) = (&outcome, &self.reserve) {
            // Whoever must have this written tries again.
            reserve.ran_out(error);
        }
        outcome
    }

    /// [`Self::write`] for new work, which is refused while there is no room for it.
    async fn write_new<T: Send + 'static>(
        &self,
        durability: Durability,
        job: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.room()?;
        self.write(durability, job).await
    }

    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.reader.run(Durability::ReadOnly, job).await
    }
}

#[cfg(test)]
mod tests;
