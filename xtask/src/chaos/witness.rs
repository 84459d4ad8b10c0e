//! Who looks at the kernel's own counters of CPU time while things break, without asking the daemon: of the instance as a
//! whole, which keeps what its dead children used, and of each session, so that a difference has a name.
//!
//! The instance's counter has what is no session's, too: a stager that was parked for the next session and died with its launcher
//! without ever being one, and a launch that no daemon came to write down. Stewards, mke2fs and the daemon itself are outside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Looks until it is asked what there was to see.
pub(super) struct Watch {
    over: Arc<AtomicBool>,
    watching: JoinHandle<Witness>,
}

impl Watch {
    pub(super) fn begin(instance: &str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (instance, seen) = (instance.to_owned(), Arc::clone(&over));
        let watching = thread::spawn(move || {
            let mut witness = Witness::default();
            loop {
                // Once more after the end.
                let last = seen.load(Ordering::Relaxed);
                witness.look(&instance);
                if last {
                    return witness;
                }
                thread::sleep(PAUSE);
            }
        });
        Self { over, watching }
    }

    pub(super) fn end(self) -> anyhow::Result<Witness> {
        self.over.store(true, Ordering::Relaxed);
        let witness = self.watching.join();
        witness.map_err(|_| anyhow::anyhow!("the witness panicked"))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Witness {
    /// Where the instance's counter is, once it was found.
    directory: Option<PathBuf>,
    /// What the instance's cgroup had counted when it was last removed, µs: an orderly end removes it, if nobody lives in it.
    before: u64,
    /// What it counts now, µs.
    now: u64,
    /// The most that was seen of each session, µs.
    sessions: BTreeMap<String, u64>,
}

impl Witness {
    /// Looks once.
    fn look(&mut self, instance: &str) {
        let found = self.directory.as_deref().and_then(counted);
        let Some(counted_now) = found else {
            self.before += std::mem::take(&mut self.now);
            self.directory = find(instance);
            return;
        };
        if counted_now < self.now {
            // It was made anew between two looks.
            self.before += self.now;
        }
        self.now = counted_now;
        let entries = self.directory.as_deref().map(fs::read_dir);
        for entry in entries.into_iter().flatten().flatten().flatten() {
            if let Some(counted) = counted(&entry.path()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                let most = self.sessions.entry(name).or_default();
                *most = counted.max(*most);
            }
        }
    }

    /// CPU seconds of all that ever were.
    pub(super) fn whole(&self) -> f64 {
        seconds(self.before + self.now)
    }

    /// At least what each session used, CPU seconds, by our name of it.
    pub(super) fn sessions(&self) -> impl Iterator<Item = (&str, f64)> {
        self.sessions
            .iter()
            .map(|(name, counted)| (name.as_str(), seconds(*counted)))
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// The directory of the instance whose counter is the best that this host has.
fn find(instance: &str) -> Option<PathBuf> {
    let name = format!("agentcore-{instance}");
    let mut all: Vec<PathBuf> = e2e::cgroup::named(&name)
        .into_iter()
        .filter(|dir| dir.ends_with(&name) && counted(dir).is_some())
        .collect();
    // v1's, where there is one: that is what the daemon reads there.
    all.sort_by_key(|dir| !dir.join("cpuacct.usage").exists());
    all.into_iter().next()
}

/// CPU time of a cgroup and all below it, µs.
fn counted(directory: &Path) -> Option<u64> {
    if let Ok(nanos) = fs::read_to_string(directory.join("cpuacct.usage")) {
        return Some(nanos.trim().parse::<u64>().ok()? / 1000);
    }
    let stat = fs::read_to_string(directory.join("cpu.stat")).ok()?;
    let micros = stat
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?;
    micros.parse().ok()
}
