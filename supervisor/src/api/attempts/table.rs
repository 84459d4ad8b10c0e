//! All runs by their key, and the memory that their answers hold: one bound for all, the oldest finished one goes first.

use super::Key;
use super::run::{Attendance, Run};
use crate::config::Config;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Runs that nobody waits for, at most: beyond it a call whose client goes away is cancelled at once.
const MOST_DESERTED: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    runs: Mutex<Runs>,
    /// Bytes held by answers, those of runs under way included.
    held: AtomicU64,
    deserted: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Runs {
    by_key: HashMap<Arc<Key>, Arc<Run>>,
    /// In the order of their ends.
    finished: VecDeque<Finished>,
    /// Whether a task waits for the first of them to be old.
    swept: bool,
}

#[derive(Debug)]
struct Finished {
    until: Instant,
    run: Arc<Run>,
}

/// What an attempt finds.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing: it begins the run.
    New(Arc<Run>, Attendance),
    /// The run of its call.
    Old(Arc<Run>, Attendance),
}

impl Default for Table {
    fn default() -> Self {
        Self {
            runs: Mutex::default(),
            held: AtomicU64::new(0),
            deserted: Arc::new(Semaphore::new(MOST_DESERTED)),
        }
    }
}

impl Table {
    /// The run of this key.
    pub(super) fn find_or_insert(self: &Arc<Self>, key: &Key, config: &Config) -> Found {
        let mut runs = self.runs();
        if let Some(run) = runs.by_key.get(key) {
            return Found::Old(Arc::clone(run), run.attend());
        }
        let key = Arc::new(key.clone());
        let run = Run::new(Arc::clone(self), Arc::clone(&key), &config.limits);
        runs.by_key.insert(key, Arc::clone(&run));
        let attendance = run.attend();
        Found::New(run, attendance)
    }

    /// Forgets a run: the next attempt begins anew.
    pub(super) fn forget(&self, run: &Run) {
        let forgotten = self.runs().take(run);
        // Its answer is given back outside of the lock.
        drop(forgotten);
    }

    /// Keeps a run whose answer is complete for a while.
    pub(super) fn keep(self: &Arc<Self>, run: &Arc<Run>, window: Duration) {
        let mut runs = self.runs();
        let known = runs.by_key.get(&run.key);
        if !known.is_some_and(|known| Arc::ptr_eq(known, run)) {
            return;
        }
        runs.finished.push_back(Finished {
            until: Instant::now() + window,
            run: Arc::clone(run),
        });
        if !runs.swept {
            runs.swept = true;
            tokio::spawn(sweep(Arc::clone(self)));
        }
    }

    /// Takes memory for an answer, if need be from answers that are older than it. `false`: there is none.
    pub(super) fn take(&self, bytes: u64, most: u64) -> bool {
        loop {
            let held = self.held.fetch_add(bytes, Ordering::Relaxed);
            if held.saturating_add(bytes) <= most {
                return true;
            }
            self.held.fetch_sub(bytes, Ordering::Relaxed);
            let oldest = self.runs().take_oldest();
            if oldest.is_none() {
                return false;
            }
        }
    }

    /// Gives memory back.
    pub(super) fn give_back(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A place for a run that nobody waits for.
    pub(super) fn desert(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.deserted).try_acquire_owned().ok()
    }

    fn runs(&self) -> MutexGuard<'_, Runs> {
        // Nothing panics while it holds the lock; the maps are whole in any case.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runs {
    fn take(&mut self, run: &Run) -> Option<Arc<Run>> {
        // The key may already belong to the next run of the same call.
        let known = self.by_key.get(&run.key);
        if known.is_some_and(|known| std::ptr::eq(Arc::as_ptr(known), run)) {
            return self.by_key.remove(&run.key);
        }
        None
    }

    fn take_oldest(&mut self) -> Option<Finished> {
        let oldest = self.finished.pop_front()?;
        self.take(&oldest.run);
        Some(oldest)
    }
}

/// Forgets answers as they get old, until there is none.
async fn sweep(table: Arc<Table>) {
    loop {
        let until = {
            let mut runs = table.runs();
            match runs.finished.front() {
                Some(first) => first.until,
                None => {
                    runs.swept = false;
                    return;
                }
            }
        };
        tokio::time::sleep_until(until).await;
        let now = Instant::now();
        loop {
            let old = {
                let mut runs = table.runs();
                if runs.finished.front().is_none_or(|first| first.until > now) {
                    break;
                }
                runs.take_oldest()
            };
            drop(old);
        }
    }
}
