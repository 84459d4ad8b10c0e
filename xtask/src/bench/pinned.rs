//! One processor for all that a measurement compares: a wake-up across cores costs more than what is measured.

use anyhow::{Context as _, ensure};
use e2e::host;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// This thread, and whatever it starts, on one processor until this is dropped.
pub(crate) struct Pinned {
    before: CpuSet,
    core: usize,
}

impl Pinned {
    pub(crate) fn to_last() -> anyhow::Result<Self> {
        let this = Pid::from_raw(0);
        let before = sched_getaffinity(this)?;
        let core = (0..CpuSet::count())
            .rev()
            .find(|core| before.is_set(*core).unwrap_or(false))
            .context("no processor")?;
        let mut one = CpuSet::new();
        one.set(core)?;
        sched_setaffinity(this, &one)?;
        Ok(Self { before, core })
    }

    /// The processor.
    pub(crate) fn core(&self) -> usize {
        self.core
    }

    /// Does what must not disturb this processor, such as starting an observer, on all others.
    pub(crate) fn elsewhere<T>(&self, act: impl FnOnce() -> T) -> anyhow::Result<T> {
        let this = Pid::from_raw(0);
        let mut others = self.before;
        others.unset(self.core)?;
        sched_setaffinity(this, &others).context("there is no other processor")?;
        let done = act();
        let mut one = CpuSet::new();
        one.set(self.core)?;
        sched_setaffinity(this, &one)?;
        Ok(done)
    }

    /// That a process is where we are, all its threads and descendants included.
    pub(crate) fn holds(&self, pid: i32) -> anyhow::Result<()> {
        for process in host::tree(pid) {
            for thread in host::tasks(process) {
                // It may have ended meanwhile.
                let Ok(status) = host::status(process, thread) else {
                    continue;
                };
                let allowed = status.get("Cpus_allowed_list").cloned().unwrap_or_default();
                ensure!(
                    allowed == self.core.to_string(),
                    "process {process} may run on {allowed}, not only on {}",
                    self.core
                );
            }
        }
        Ok(())
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It was in force before, so it can be again.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}
