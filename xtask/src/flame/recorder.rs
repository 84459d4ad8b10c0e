//! perf(1): a sample of one processor at every tick of its clock, with the kernel's and the program's stack.
//!
//! Virtual machines seldom lend hardware counters; `cpu-clock` is a timer of the kernel and is everywhere. Programs are unwound
//! by their own tables (`--call-graph dwarf`), so the very release build is looked at, without frame pointers.

use crate::bench::pinned::Pinned;
use crate::build;
use crate::command::run;
use anyhow::{Context as _, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, mkfifo};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Between samples. No round number: a period of the load must not beat with it.
pub(super) const PERIOD: Duration = Duration::from_nanos(193_000);

/// Bytes of stack that are kept with each sample. Futures nest deeply; stacks that are deeper lose their outer end. As many as perf takes.
const STACK: &str = "dwarf,65528";

/// What perf may lag behind by, where the others want its processor too.
const BUFFER: &str = "256M";

/// The clock of the samples.
pub(super) fn now() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

/// perf while it records, or waits for us to tell it to.
pub(super) struct Recorder {
    child: Child,
    data: PathBuf,
    fifos: Fifos,
}

/// What it has recorded; gone from the disk with this.
pub(super) struct Record {
    data: PathBuf,
}

impl Recorder {
    /// Gets ready to record the processor on which `pinned` holds everything.
    pub(super) fn start(pinned: &Pinned, out: &Path) -> anyhow::Result<Self> {
        let data = out.join("perf.data");
        let fifos = Fifos::make(out)?;
        let core = pinned.core().to_string();
        let period = PERIOD.as_nanos().to_string();
        let mut command = Command::new("perf");
        command
            .args(["record", "--quiet", "--no-buildid-cache", "--buildid-mmap"])
            // It must keep up, whatever else its processor has to do.
            .args(["--realtime", "1", "-C", &core])
            .args(["-e", "cpu-clock", "-c", &period])
            .args(["-k", "CLOCK_MONOTONIC", "--call-graph", STACK, "-m", BUFFER])
            .args(["--delay", "-1", "--control", &fifos.control(), "-o"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // Not on the processor that it records.
        let child = pinned
            .elsewhere(|| command.spawn())?
            .context("start perf")?;
        Ok(Self { child, data, fifos })
    }

    /// Records while `act` runs.
    pub(super) fn while_in<T>(
        &mut self,
        act: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.fifos.order(b"enable\n")?;
        let done = act();
        self.fifos.order(b"disable\n")?;
        done
    }

    pub(super) fn stop(mut self) -> anyhow::Result<Record> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT).context("stop perf")?;
        self.child.wait().context("perf")?;
        Ok(Record {
            data: std::mem::take(&mut self.data),
        })
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Where something failed: perf would record for ever.
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How perf is told to begin and to pause, and says that it has.
struct Fifos {
    paths: [PathBuf; 2],
    orders: File,
    answers: File,
}

impl Fifos {
    fn make(dir: &Path) -> anyhow::Result<Self> {
        let paths = ["perf.orders", "perf.answers"].map(|name| dir.join(name));
        for path in &paths {
            // Of a run that was interrupted.
            let _ = std::fs::remove_file(path);
            mkfifo(path, Mode::S_IRWXU).with_context(|| path.display().to_string())?;
        }
        // Both ends: one that opens alone waits for the other, and what is in a fifo that nobody has open is gone.
        let both = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
        let (orders, answers) = (both(&paths[0])?, both(&paths[1])?);
        Ok(Self {
            paths,
            orders,
            answers,
        })
    }

    fn control(&self) -> String {
        let [orders, answers] = &self.paths;
        format!("fifo:{},{}", orders.display(), answers.display())
    }

    fn order(&mut self, order: &[u8]) -> anyhow::Result<()> {
        self.orders.write_all(order)?;
        let mut ready = [PollFd::new(self.answers.as_fd(), PollFlags::POLLIN)];
        ensure!(
            poll(&mut ready, PollTimeout::from(10_000u16))? == 1,
            "perf does not answer"
        );
        let mut answer = [0; 64];
        let length = self.answers.read(&mut answer)?;
        ensure!(
            answer[..length].starts_with(b"ack"),
            "perf refuses an order"
        );
        Ok(())
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Record {
    /// Everything, as `perf script` writes it. Programs that are inlined are not looked up: that takes minutes.
    pub(super) fn text(&self) -> anyhow::Result<String> {
        // A shim runs from memory and has no path: it is found by its build id.
        let cache = self.data.with_extension("programs");
        let perf = || {
            let mut command = Command::new("perf");
            command
                .arg("--buildid-dir")
                .arg(&cache)
                .stderr(Stdio::null());
            command
        };
        let shim = build::directory(true).join("agentcore-shim");
        run(perf().args(["buildid-cache", "--add"]).arg(shim))?;
        let output = perf()
            .args(["script", "--no-inline", "--ns", "--show-task-events"])
            .args(["--show-lost-events"])
            .args(["-F", "comm,pid,tid,time,ip,sym,dso", "-i"])
            .arg(&self.data)
            .output()
            .context("start perf")?;
        let _ = std::fs::remove_dir_all(&cache);
        ensure!(
            output.status.success(),
            "perf script ended with {}",
            output.status
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Hundreds of megabytes that nothing else reads.
        let _ = std::fs::remove_file(&self.data);
    }
}
