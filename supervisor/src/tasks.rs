//! Asynchronous tasks: a request that is on disk before its caller is answered, run when its turn comes, with one outcome.
//!
//! ```text
//!  submit ▸ store ─▶ [`queue`] ─▶ [`dispatch`]: a place ─▶ [`run`]: STARTING ▸ obtain ▸ RUNNING ▸ [`exchange`] ▸ outcome
//!             ▲                        ▲                       │ each change durable before the next step
//!             └── a daemon that starts ┴─ waits again ─────────┘
//! ```
//!
//! What a task may do next is decided in `session_core::task`; what is written down is the store's to guard. A task that runs is
//! owned by one future ([`run`]); everybody else cancels it, watches it, or reads its answer ([`answer`]) as it grows.
//!
//! Not for: how tasks look on the wire (`api::tasks`), nor calls to whoever waits for an outcome.

pub mod answer;
mod dispatch;
mod end;
mod exchange;
mod queue;
mod release;
mod retention;
mod run;
mod stored;
mod submit;
mod watchers;

pub use dispatch::{keep_running, recover, thawed};
pub use end::{cancel, runtime_deleted};
pub use retention::keep_swept;
pub use run::attended;
pub use submit::{BODY_TIME, Order, submit};

use crate::broker::Broker;
use crate::owner::{Owner, Principal};
use crate::progress::{Reported, carry_checkpoint};
use crate::store::{Store, StoreError, TaskRow, Timestamp};
use answer::Answer;
use proto::api::Task;
use proto::ids::{RuntimeId, SessionId, TaskId};
use queue::Queue;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use stored::{OVERHEAD, Stored};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use watchers::Watchers;

/// Between two attempts to write down what must be: a full disk has room again some time.
const WRITE_AGAIN: Duration = Duration::from_secs(2);

/// Shared state of all tasks.
#[derive(Debug)]
pub struct Tasks {
    directory: PathBuf,
    state: Mutex<State>,
    /// There may be something to begin.
    wake: Notify,
    stored: Stored,
    unfinished: AtomicU64,
    watchers: Watchers,
    /// Rung whenever a callback may have become due.
    pub callbacks_due: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    /// The newest task that was read from the store.
    seen: i64,
    running: HashMap<i64, Arc<Running>>,
    /// Tasks of an earlier daemon in sessions that were found frozen: what those have kept is known when they are thawed.
    frozen: Vec<TaskRow>,
    /// How many of those have one of the places.
    places: u32,
    /// Of one runtime.
    places_of: HashMap<RuntimeId, u32>,
}

/// A task that runs, to everybody but its owner.
#[derive(Debug)]
pub struct Running {
    seq: i64,
    runtime: RuntimeId,
    /// Whether it has one of the places.
    placed: bool,
    id: OnceLock<TaskId>,
    session: OnceLock<SessionId>,
    cancelled: CancellationToken,
    why: OnceLock<String>,
    /// The newest progress record.
    reported: Mutex<Option<Map<String, Value>>>,
    /// The same, while it is not written down yet.
    progress: watch::Sender<Option<String>>,
    /// The answer of the attempt that goes on.
    answer: watch::Sender<Option<Arc<Answer>>>,
}

impl Running {
    fn new(seq: i64, runtime: RuntimeId, placed: bool) -> Arc<Self> {
        Arc::new(Self {
            seq,
            runtime,
            placed,
            id: OnceLock::new(),
            session: OnceLock::new(),
            cancelled: CancellationToken::new(),
            why: OnceLock::new(),
            reported: Mutex::default(),
            progress: watch::Sender::new(None),
            answer: watch::Sender::new(None),
        })
    }

    /// Ends it; the first reason counts.
    fn cancel(&self, why: &str) {
        let _ = self.why.set(why.to_owned());
        self.cancelled.cancel();
    }

    /// What it reported before this run.
    fn reported(&self, row: &TaskRow) {
        let record = row.progress.as_deref();
        *self.newest() = record.and_then(|text| serde_json::from_str(text).ok());
    }

    /// Takes a progress record.
    fn report(&self, mut record: Map<String, Value>) {
        let mut newest = self.newest();
        if let Some(older) = &*newest {
            carry_checkpoint(older, &mut record);
        }
        if let Ok(text) = serde_json::to_string(&record) {
            *newest = Some(record);
            self.progress.send_replace(Some(text));
        }
    }

    fn newest(&self) -> MutexGuard<'_, Option<Map<String, Value>>> {
        // Nothing panics while it holds the lock.
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its answer, as soon as it has begun; `None` if the attempt ends without one.
    pub async fn answer(&self) -> Option<Arc<Answer>> {
        let mut answer = self.answer.subscribe();
        tokio::select! {
            biased;
            found = answer.wait_for(Option::is_some) => found.ok()?.clone(),
            () = self.cancelled.cancelled() => None,
        }
    }
}

impl Tasks {
    /// Opens their directory below the broker's own, counts what there is, and removes files that belong to none.
    pub async fn open(directory: &Path, store: &Store) -> Result<Self, OpenError> {
        let directory = directory.join("tasks");
        let files = store.tasks_with_files().await?;
        let sweep = directory.clone();
        answer::blocking(move || retention::sweep_strays(&sweep, &files))
            .await
            .map_err(|source| OpenError::Directory {
                path: directory.clone(),
                source,
            })?;
        let stored = Stored::default();
        let mut unfinished = 0;
        for known in store.tasks_by_owner().await? {
            unfinished += known.unfinished;
            stored.found(
                &principal(&known.owner),
                known.bytes + known.tasks * OVERHEAD,
            );
        }
        Ok(Self {
            directory,
            state: Mutex::default(),
            wake: Notify::new(),
            stored,
            unfinished: AtomicU64::new(unfinished),
            watchers: Watchers::default(),
            callbacks_due: Notify::new(),
        })
    }

    /// There may be something to begin.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Takes a place among tasks without an outcome; `None` if there are `most` of them.
    pub fn enter(self: &Arc<Self>, most: u64) -> Option<Place> {
        let one_more = |now: u64| (now < most).then_some(now + 1);
        self.unfinished
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()
            .map(|_| Place(Some(Arc::clone(self))))
    }

    /// Tasks without an outcome.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        self.unfinished.load(Ordering::Relaxed)
    }

    /// Tasks that have a session, or are getting one.
    #[must_use]
    pub fn running(&self) -> usize {
        self.state().running.len()
    }

    /// Tasks that wait for their turn.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.state().queue.len()
    }

    /// How long the one has waited that has waited longest since it may begin.
    #[must_use]
    pub fn longest_wait(&self, now: Timestamp) -> Duration {
        self.state().queue.longest_wait(now)
    }

    /// Where a task's payload is that is too large for the database.
    #[must_use]
    pub fn payload_path(&self, id: &TaskId) -> PathBuf {
        self.directory.join(format!("{id}.payload"))
    }

    /// Where a task's answer is that is too large for the database, or a stream.
    #[must_use]
    pub fn result_path(&self, id: &TaskId) -> PathBuf {
        self.directory.join(format!("{id}.result"))
    }

    /// Hears of everything that happens to a task from now on.
    pub fn watch(&self, seq: i64) -> watch::Receiver<()> {
        self.watchers.watch(seq)
    }

    /// A task that runs now.
    #[must_use]
    pub fn find(&self, seq: i64) -> Option<Arc<Running>> {
        self.state().running.get(&seq).cloned()
    }

    /// A task as the API shows it: what is written down, and how far its answer is.
    #[must_use]
    pub fn view(&self, row: &TaskRow) -> Task {
        let mut task = row.to_api();
        if !row.status.is_final()
            && let Some(running) = self.find(row.seq)
            && let Some(answer) = running.answer.borrow().as_ref()
        {
            let bytes = answer.told().bytes;
            task.usage.bytes_out = bytes;
            task.result = Some(proto::api::TaskResult {
                status: answer.head.status,
                content_type: answer.head.content_type.clone(),
                bytes,
                complete: false,
            });
        }
        task
    }

    /// Takes progress records that a session's agent printed. One is of the task that it names, or of the only one that runs in
    /// this session; of no other session's. What is of none is only in the log. Of several in a short time the newest is
    /// written down, with the checkpoint of those before it.
    pub fn progress(&self, session: &SessionId, records: Vec<Reported>) {
        for Reported { task, record } in records {
            let state = self.state();
            let mut theirs = state
                .running
                .values()
                .filter(|running| running.session.get() == Some(session))
                .filter(|running| task.is_none() || running.id.get() == task.as_ref());
            if let (Some(running), None) = (theirs.next(), theirs.next()) {
                running.report(record);
            }
        }
    }

    /// Takes a task out of those whose session was found frozen.
    fn take_frozen(&self, seq: i64) -> Option<TaskRow> {
        self.state().take_frozen(|row| row.seq == seq)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened to a task.
    fn tell(&self, seq: i64) {
        self.watchers.tell(seq);
    }

    /// A task has its outcome.
    fn ended(&self, row: &TaskRow) {
        self.unfinished.fetch_sub(1, Ordering::Relaxed);
        self.stored.give(&row.owner.principal, row.payload_bytes);
        if row.callback.is_some() {
            self.callbacks_due.notify_one();
        }
        self.tell(row.seq);
    }

    /// Removes a task's file that is not needed any more, if there is one.
    async fn remove(path: PathBuf) {
        let shown = path.clone();
        let removed = answer::blocking(move || match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        });
        if let Err(error) = removed.await {
            // The next daemon's sweep finds it.
            tracing::warn!(path = %shown.display(), %error, "file of a task not removed");
        }
    }
}

impl State {
    fn may_have_one(&self, runtime: &RuntimeId, most: u32) -> bool {
        self.places_of.get(runtime).is_none_or(|now| *now < most)
    }

    fn take_frozen(&mut self, which: impl Fn(&TaskRow) -> bool) -> Option<TaskRow> {
        let at = self.frozen.iter().position(which)?;
        Some(self.frozen.swap_remove(at))
    }

    /// When somebody has to look at them again, if nothing happens before.
    fn next_moment(&self) -> Option<Timestamp> {
        let deadlines = self.frozen.iter().map(|row| row.deadline_at);
        deadlines.chain(self.queue.next_moment()).min()
    }

    fn insert(&mut self, running: &Arc<Running>) {
        if running.placed {
            self.places += 1;
            *self.places_of.entry(running.runtime.clone()).or_default() += 1;
        }
        self.running.insert(running.seq, Arc::clone(running));
    }

    fn remove(&mut self, running: &Running) {
        if self.running.remove(&running.seq).is_none() || !running.placed {
            return;
        }
        self.places = self.places.saturating_sub(1);
        if let Some(now) = self.places_of.get_mut(&running.runtime) {
            *now = now.saturating_sub(1);
            if *now == 0 {
                self.places_of.remove(&running.runtime);
            }
        }
    }
}

/// A place among tasks without an outcome, for one that is not written down yet. Dropping it gives it back.
#[derive(Debug)]
pub struct Place(Option<Arc<Tasks>>);

impl Place {
    /// It is written down: its outcome gives the place back.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(tasks) = &self.0 {
            tasks.unfinished.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Why tasks could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Their directory.
    #[error("cannot open the directory of tasks, {}", .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whose an [`Owner::key`] is.
fn principal(key: &str) -> Principal {
    Owner::from_key(key).map_or_else(Principal::local, |owner| owner.principal)
}

/// Does what must be written down until it is, or this daemon stops: then the next one finds the task as it was.
async fn written<T, F>(broker: &Broker, seq: i64, mut write: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Result<T, StoreError>>,
{
    loop {
        match write().await {
            Ok(done) => return Some(done),
            Err(error) => {
                let id = broker
                    .tasks
                    .find(seq)
                    .and_then(|task| task.id.get().cloned());
                let id = id.as_ref().map(TaskId::as_str);
                tracing::error!(task_id = id, number = seq, error = %crate::fault::chain(&error), "a task's change is not written down yet");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(WRITE_AGAIN) => {}
            () = broker.stopping() => return None,
        }
    }
}
