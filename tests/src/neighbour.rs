//! An innocent session beside an attack: invoked every 100 ms, it tells whether it noticed.

use crate::client::{Client, session_name};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running observer.
pub struct Neighbour {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    thread: JoinHandle<Observed>,
    /// The session that it invokes (caller's id).
    pub session: String,
}

/// What it saw.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Time of each invocation.
    pub times: Vec<Duration>,
    /// What went wrong.
    pub errors: Vec<String>,
}

impl Neighbour {
    /// Starts its session with a first invocation, then goes on in a thread. `check` tells whether an answer is right.
    pub fn start(
        client: Client,
        runtime: &str,
        payload: Value,
        check: impl Fn(&Value) -> bool + Send + 'static,
    ) -> anyhow::Result<Self> {
        let session = session_name("neighbour");
        client.invoke(runtime, &session, &payload)?;
        let stop = Arc::new(AtomicBool::new(false));
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let (flag, runtime, id) = (Arc::clone(&stop), runtime.to_owned(), session.clone());
        let thread = std::thread::spawn(move || {
            let mut seen = Observed::default();
            while !flag.load(Ordering::Relaxed) {
                let began = Instant::now();
                match client.invoke(&runtime, &id, &payload) {
                    Ok(answer) if check(&answer) => seen.times.push(began.elapsed()),
                    Ok(answer) => seen.errors.push(format!("wrong answer: {answer}")),
                    Err(error) => seen.errors.push(format!("{error:#}")),
                }
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(100).saturating_sub(began.elapsed()));
            }
            seen
        });
        Ok(Self {
            stop,
            made,
            thread,
            session,
        })
    }

    /// Ends the observation, once there is enough of it to say anything; an error if any invocation failed.
    pub fn unharmed(self) -> anyhow::Result<Observed> {
        crate::wait::until_true(20, "the neighbour's invocations", || {
            Ok(self.made.load(Ordering::Relaxed) >= 5)
        })?;
        self.stop.store(true, Ordering::Relaxed);
        let seen = self
            .thread
            .join()
            .map_err(|_| anyhow::anyhow!("the neighbour's thread panicked"))?;
        anyhow::ensure!(
            seen.errors.is_empty(),
            "the neighbour was harmed: {:#?}",
            seen.errors
        );
        anyhow::ensure!(
            seen.times.len() >= 3,
            "only {} invocations: no evidence",
            seen.times.len()
        );
        Ok(seen)
    }
}

impl Observed {
    /// The slowest invocation.
    #[must_use]
    pub fn worst(&self) -> Duration {
        self.times.iter().copied().max().unwrap_or_default()
    }

    /// A percentile (0–100) of the times.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
        times.get(at).copied().unwrap_or_default()
    }
}
