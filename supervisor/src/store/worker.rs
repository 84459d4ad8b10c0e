//! A thread that owns a connection and runs jobs on it, several in one transaction.

use super::{StoreError, open};
use crate::ask::ask;
use prometheus_client::metrics::histogram::Histogram;
use rusqlite::Connection;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{mpsc, oneshot, watch};

/// Jobs that may wait. Whoever finds the queue full waits in his own task, so the bound is on memory only: a job is a few
/// hundred bytes, and the broker has at most some thousand calls in flight.
const QUEUE: usize = 256;

/// Most jobs in one transaction: enough that a burst shares one disk sync, few enough that the first of them is not kept
/// waiting for the work of all others (a job takes some 20 µs).
const BATCH: usize = 64;

/// What a job's answer promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// On disk: survives a power cut.
    Durable,
    /// With the kernel: survives the daemon.
    Volatile,
    /// Changes nothing.
    ReadOnly,
}

/// Handle to a worker; cheap to clone. The thread ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    jobs: mpsc::Sender<Message>,
    /// Why the thread has given up. Its sender ends with the thread.
    failure: watch::Receiver<Option<StoreError>>,
}

/// What a worker can be told.
enum Message {
    /// Do this.
    Run(Queued),
    /// Close the file, then drop this.
    Close(oneshot::Sender<()>),
}

struct Queued {
    durability: Durability,
    job: Box<dyn Job>,
}

/// Work whose answer is held back until its transaction's outcome is known.
trait Job: Send {
    /// Does the work; true if its changes are to be kept.
    fn run(&mut self, db: &Connection) -> bool;
    /// The error that the work ended with, if it was the database's.
    fn error(&self) -> Option<&StoreError>;
    /// Answers.
    fn answer(self: Box<Self>, commit: Result<(), StoreError>);
}

struct Task<T, F> {
    work: Option<F>,
    outcome: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Job for Task<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, db: &Connection) -> bool {
        self.outcome = self.work.take().map(|work| work(db));
        matches!(self.outcome, Some(Ok(_)))
    }

    fn error(&self) -> Option<&StoreError> {
        self.outcome.as_ref()?.as_ref().err()
    }

    fn answer(self: Box<Self>, commit: Result<(), StoreError>) {
        let outcome = match (self.outcome, commit) {
            (Some(Ok(_)) | None, Err(error)) => Err(error),
            (Some(outcome), _) => outcome,
            (None, Ok(())) => Err(StoreError::Stopped),
        };
        // Whoever asked may have gone away; what was done stays done.
        let _ = self.answer.send(outcome);
    }
}

impl Worker {
    /// Starts the thread.
    pub(super) fn start(
        name: &str,
        db: Connection,
        commits: Option<Histogram>,
    ) -> Result<Self, StoreError> {
        let (jobs, mut queue) = mpsc::channel(QUEUE);
        let (tell, failure) = watch::channel(None);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Taken apart so that the file is closed before whoever asked for that hears of it.
                let closed = serve(&db, &mut queue, &tell, commits.as_ref());
                drop(db);
                drop((closed, queue));
            })
            .map_err(|source: io::Error| StoreError::File {
                verb: "start the thread of",
                path: PathBuf::from(name),
                source: Arc::new(source),
            })?;
        Ok(Self { jobs, failure })
    }

    /// Queues a job and waits for its answer. A job whose caller goes away is done all the same once it is queued.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let job = |answer| {
            let job = Box::new(Task {
                work: Some(work),
                outcome: None,
                answer,
            });
            Message::Run(Queued { durability, job })
        };
        ask(&self.jobs, job)
            .await
            .unwrap_or(Err(StoreError::Stopped))
    }

    /// Ends the thread after what is queued, and waits until its file is closed.
    pub(super) async fn close(&self) {
        // Never answered, only dropped.
        let _ = ask(&self.jobs, Message::Close).await;
    }

    /// Resolves when the thread has given up.
    pub(super) async fn failed(&self) -> StoreError {
        let mut failure = self.failure.clone();
        let told = failure.wait_for(Option::is_some).await;
        told.ok()
            .and_then(|told| told.clone())
            .unwrap_or(StoreError::Stopped)
    }
}

/// Runs until it is told to close, fails, or has no handle left. Whoever asked for the close is given back.
fn serve(
    db: &Connection,
    queue: &mut mpsc::Receiver<Message>,
    failure: &watch::Sender<Option<StoreError>>,
    commits: Option<&Histogram>,
) -> Option<oneshot::Sender<()>> {
    let mut synced = None;
    let mut held = None;
    loop {
        let first = match held.take().or_else(|| queue.blocking_recv())? {
            Message::Run(first) => first,
            Message::Close(closing) => return Some(closing),
        };
        let durability = first.durability;
        let mut jobs = vec![first.job];
        // Jobs run in the order in which they came; a batch ends where the promise changes.
        while jobs.len() < BATCH && held.is_none() {
            match queue.try_recv() {
                Ok(Message::Run(next)) if next.durability == durability => jobs.push(next.job),
                Ok(other) => held = Some(other),
                Err(_) => break,
            }
        }
        let outcome = match durability {
            Durability::ReadOnly => run_each(db, &mut jobs),
            Durability::Durable | Durability::Volatile => {
                let began = Instant::now();
                let outcome = set_sync(db, durability, &mut synced)
                    .and_then(|()| transact(db, &mut jobs))
                    .map_err(|error| open::read_only_told(db, error));
                if let Some(commits) = commits {
                    commits.observe(began.elapsed().as_secs_f64());
                }
                outcome
            }
        };
        let fatal = outcome
            .as_ref()
            .err()
            .into_iter()
            .chain(jobs.iter().filter_map(|job| job.error()))
            .find(|error| error.is_fatal())
            .cloned();
        let over = fatal.is_some();
        if over {
            // Told before anyone is answered, so that whoever sees the error also sees the store stop.
            failure.send_replace(fatal);
        }
        for job in jobs {
            job.answer(outcome.clone());
        }
        if over {
            return None;
        }
    }
}

/// Reads run without a transaction: each statement sees one snapshot, and no read spans several that must agree.
fn run_each(db: &Connection, jobs: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
    for job in jobs {
        job.run(db);
    }
    Ok(())
}

/// `FULL` syncs the log at each commit; `NORMAL` at checkpoints only (<https://sqlite.org/pragma.html#pragma_synchronous>).
fn set_sync(
    db: &Connection,
    durability: Durability,
    current: &mut Option<Durability>,
) -> Result<(), StoreError> {
    if *current != Some(durability) {
        let level = if durability == Durability::Durable {
            "FULL"
        } else {
            "NORMAL"
        };
        db.pragma_update(None, "synchronous", level)?;
        *current = Some(durability);
    }
    Ok(())
}

fn transact(db: &Connection, jobs: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
    let outcome = run_in_transaction(db, jobs);
    if outcome.is_err() && !db.is_autocommit() {
        // SQLite rolls back by itself on some errors (full disk); where it did not, nothing may be left half done.
        run_again(db, "ROLLBACK")?;
    }
    outcome
}

fn run_in_transaction(db: &Connection, jobs: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
    run_again(db, "BEGIN IMMEDIATE")?;
    for job in jobs.iter_mut() {
        run_again(db, "SAVEPOINT job")?;
        if !job.run(db) && !db.is_autocommit() {
            run_again(db, "ROLLBACK TO job")?;
        }
        if db.is_autocommit() {
            // A full disk in the middle took the whole transaction back, earlier jobs included: none may be acknowledged.
            return Err(job.error().cloned().unwrap_or(StoreError::Stopped));
        }
        run_again(db, "RELEASE job")?;
    }
    run_again(db, "COMMIT")
}

/// Runs a statement that every transaction has; it stays compiled.
fn run_again(db: &Connection, statement: &'static str) -> Result<(), StoreError> {
    db.prepare_cached(statement)?.execute([])?;
    Ok(())
}
