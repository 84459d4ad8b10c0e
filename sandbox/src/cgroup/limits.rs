//! Limits of a session that runs, and of all sessions together: read back as the kernel has them, and changed one by one.
//!
//! Less memory than is in use is the one change that can fail. Page cache is given back for it, a piece at a time and for a
//! bounded time; what processes hold cannot be, and then the limit stays as it was. cgroup v2 would kill for it instead
//! (`memory.max` below what is in use), so usage is brought below the limit before that is written.

use super::dir::Dir;
use super::session::SessionCgroup;
use super::v2::CPU_PERIOD_US;
use super::{Backend, CgroupError, CgroupRoot, Result, Tree, v1};
use std::time::Instant;

/// Most bytes that one call makes the kernel give back: some milliseconds of its time.
const PIECE: u64 = 16 << 20;

/// After so many pieces in a row of which nothing came, there is nothing to be had.
const FUTILE: u32 = 3;

/// What is in force, by the kernel's word; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enforced {
    /// Memory, bytes, as the kernel has rounded it to pages.
    pub memory_bytes: Option<u64>,
    /// CPU, thousandths of one.
    pub cpu_millis: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Share of the processors where others want them too; [`WEIGHT`] is what everybody has.
    pub cpu_weight: u32,
}

/// What everybody has whom nobody gives more or less: `cpu.weight` on v2.
pub const WEIGHT: u32 = 100;

/// The same on v1: `cpu.shares`.
const SHARES: u32 = 1024;

/// The kernel's bounds of `cpu.weight`. Those of `cpu.shares` are wider, at our scale.
const WEIGHTS: std::ops::RangeInclusive<u32> = 1..=10_000;

/// Shares of the last ten seconds, in percent, in which some process waited for want of something.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressure {
    /// For a processor.
    pub cpu: f64,
    /// For memory.
    pub memory: f64,
    /// For a disk.
    pub io: f64,
}

/// The same of all sessions together: where some waited for a processor, and where all that were not idle waited for memory or a
/// disk.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct OwnPressure {
    /// Some, for a processor.
    pub cpu: f64,
    /// All, for memory.
    pub memory_full: f64,
    /// All, for a disk.
    pub io_full: f64,
}

impl SessionCgroup {
    fn bounded(&self) -> Bounded<'_> {
        Bounded {
            tree: &self.tree,
            name: self.name(),
        }
    }

    /// Reads the limits back.
    pub fn enforced(&self) -> Result<Enforced> {
        self.bounded().enforced()
    }

    /// Changes the memory limit. Below what is in use it is [`CgroupError::InUse`] if that cannot be brought below it by
    /// `deadline`; then the limit is what it was.
    pub fn set_memory(&self, bytes: u64, deadline: Instant) -> Result<()> {
        self.bounded().set_memory(Some(bytes), deadline)
    }

    /// Changes the CPU quota.
    pub fn set_cpu(&self, millis: u32) -> Result<()> {
        self.bounded().set_cpu(Some(millis))
    }

    /// Changes the most processes. Those that are there stay.
    pub fn set_pids(&self, most: u32) -> Result<()> {
        self.bounded().set_pids(Some(most))
    }

    /// Changes the share of the processors where others want them too.
    pub fn set_cpu_weight(&self, weight: u32) -> Result<()> {
        self.bounded().set_cpu_weight(weight)
    }

    /// How much its processes wait; `None` where the kernel does not say (no v2 hierarchy, or `psi=0`).
    pub fn pressure(&self) -> Result<Option<Pressure>> {
        let Some(dir) = self.tree.unified() else {
            return Ok(None);
        };
        let of = |what: &str| -> Result<Option<f64>> {
            let text = dir.read_if_there(&self.file(what))?;
            Ok(text.as_deref().and_then(some_avg10))
        };
        let Some(memory) = of("memory.pressure")? else {
            return Ok(None);
        };
        Ok(Some(Pressure {
            cpu: of("cpu.pressure")?.unwrap_or(0.0),
            memory,
            io: of("io.pressure")?.unwrap_or(0.0),
        }))
    }
}

/// A cgroup whose limits are read and changed, in the instance's directory of each hierarchy.
pub(super) struct Bounded<'a> {
    pub(super) tree: &'a Tree,
    /// A session's; `.` is the instance's own.
    pub(super) name: &'a str,
}

impl Bounded<'_> {
    fn file(&self, file: &str) -> String {
        format!("{}/{file}", self.name)
    }

    /// Reads the limits back.
    pub(super) fn enforced(&self) -> Result<Enforced> {
        let file = |file: &str| self.file(file);
        match &self.tree.backend {
            Backend::V2(branch) => {
                let dir = &branch.dir;
                let cpu = dir.read(&file("cpu.max"))?;
                let (quota, period) = cpu.trim().split_once(' ').unwrap_or((cpu.trim(), ""));
                Ok(Enforced {
                    memory_bytes: number_or_max(dir, &file("memory.max"))?,
                    cpu_millis: millis(quota.parse().ok(), period.parse().ok()),
                    pids: pids(dir, &file("pids.max"))?,
                    cpu_weight: number(dir, &file("cpu.weight"))?,
                })
            }
            Backend::V1 { hierarchies, .. } => {
                let dir = |controller| v1::of(hierarchies, controller).map(|h| &h.branch.dir);
                let memory = dir("memory")?.number(&file("memory.limit_in_bytes"))?;
                let cpu = dir("cpu")?;
                // -1 is no limit.
                let quota = cpu.read(&file("cpu.cfs_quota_us"))?.trim().parse().ok();
                let period = cpu.number(&file("cpu.cfs_period_us"))?;
                Ok(Enforced {
                    // No limit is the largest number of pages.
                    memory_bytes: Some(memory).filter(|bytes| *bytes < 1 << 62),
                    cpu_millis: millis(quota, Some(period)),
                    pids: pids(dir("pids")?, &file("pids.max"))?,
                    cpu_weight: weight_of(number(cpu, &file("cpu.shares"))?),
                })
            }
        }
    }

    /// See [`SessionCgroup::set_memory`]; `None`: no limit.
    pub(super) fn set_memory(&self, bytes: Option<u64>, deadline: Instant) -> Result<()> {
        match (&self.tree.backend, bytes) {
            (Backend::V2(branch), Some(bytes)) => self.set_memory_v2(&branch.dir, bytes, deadline),
            (Backend::V2(branch), None) => branch.dir.write(&self.file("memory.max"), "max"),
            (Backend::V1 { hierarchies, .. }, bytes) => {
                let dir = &v1::of(hierarchies, "memory")?.branch.dir;
                match bytes {
                    Some(bytes) => self.set_memory_v1(dir, bytes, deadline),
                    None => v1::no_memory_limit(dir, self.name),
                }
            }
        }
    }

    fn set_memory_v2(&self, dir: &Dir, bytes: u64, deadline: Instant) -> Result<()> {
        let (current, reclaim) = (self.file("memory.current"), self.file("memory.reclaim"));
        let mut futile = 0;
        loop {
            let used = dir.number(&current)?;
            if used <= bytes {
                return dir.write(&self.file("memory.max"), &bytes.to_string());
            }
            let held = self.held(dir, &["anon", "shmem"])?;
            if held > bytes || futile == FUTILE || Instant::now() >= deadline || !dir.has(&reclaim)
            {
                return Err(self.in_use(dir, used));
            }
            match dir.write(&reclaim, &(used - bytes).min(PIECE).to_string()) {
                Ok(()) => futile = 0,
                Err(fault) if fault.is_errno(libc::EAGAIN) => futile += 1,
                Err(fault) => return Err(fault),
            }
        }
    }

    fn set_memory_v1(&self, dir: &Dir, bytes: u64, deadline: Instant) -> Result<()> {
        // What lies in the swap counts: there is no swap on top.
        let with_swap = self.file("memory.memsw.usage_in_bytes");
        let usage = match dir.has(&with_swap) {
            true => with_swap,
            false => self.file("memory.usage_in_bytes"),
        };
        let before = dir.number(&self.file("memory.limit_in_bytes"))?;
        let mut futile = 0;
        loop {
            let used = dir.number(&usage)?;
            // Without `total_`, those below a cgroup are not in its own.
            let held = self.held(dir, &["total_rss", "total_shmem", "total_swap"])?;
            // The kernel gives back what is above the limit that is written, or refuses it.
            let next = match used > bytes {
                true => bytes.max(used.saturating_sub(PIECE)),
                false => bytes,
            };
            if held > bytes || futile == FUTILE || Instant::now() >= deadline {
                v1::memory(dir, self.name, before)?;
                return Err(self.in_use(dir, used));
            }
            match v1::memory(dir, self.name, next) {
                Ok(()) if next == bytes => return v1::socket_memory(dir, self.name, bytes),
                Ok(()) => futile = 0,
                Err(fault) if fault.is_busy() => futile += 1,
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Memory that no page cache can be given back for: without swap, what processes hold and tmpfs. Not every kernel names every
    /// kind.
    fn held(&self, dir: &Dir, kinds: &[&'static str]) -> Result<u64> {
        let stat = dir.read(&self.file("memory.stat"))?;
        let of = |key: &&'static str| super::dir::keyed(&stat, key).unwrap_or(0);
        Ok(kinds.iter().map(of).sum())
    }

    fn in_use(&self, dir: &Dir, used: u64) -> CgroupError {
        CgroupError::InUse {
            path: dir.path().join(self.name),
            used,
        }
    }

    /// Changes the CPU quota; `None`: no limit.
    pub(super) fn set_cpu(&self, millis: Option<u32>) -> Result<()> {
        let quota = millis.map(|millis| u64::from(millis) * CPU_PERIOD_US / 1000);
        match &self.tree.backend {
            Backend::V2(branch) => {
                let text = format!("{} {CPU_PERIOD_US}", or_none(quota, "max"));
                branch.dir.write(&self.file("cpu.max"), &text)
            }
            Backend::V1 { hierarchies, .. } => {
                let dir = &v1::of(hierarchies, "cpu")?.branch.dir;
                dir.write(&self.file("cpu.cfs_quota_us"), &or_none(quota, "-1"))
            }
        }
    }

    /// Changes the share of the processors.
    pub(super) fn set_cpu_weight(&self, weight: u32) -> Result<()> {
        if !WEIGHTS.contains(&weight) {
            return Err(CgroupError::Limit {
                limit: "cpu_weight",
                rule: "1 to 10000",
                found: weight.into(),
            });
        }
        match &self.tree.backend {
            Backend::V2(branch) => {
                let file = self.file("cpu.weight");
                branch.dir.write(&file, &weight.to_string())
            }
            Backend::V1 { hierarchies, .. } => {
                let dir = &v1::of(hierarchies, "cpu")?.branch.dir;
                dir.write(&self.file("cpu.shares"), &shares_of(weight).to_string())
            }
        }
    }

    /// Changes the most processes; `None`: no limit. Those that are there stay.
    pub(super) fn set_pids(&self, most: Option<u32>) -> Result<()> {
        let dir = match &self.tree.backend {
            Backend::V2(branch) => &branch.dir,
            Backend::V1 { hierarchies, .. } => &v1::of(hierarchies, "pids")?.branch.dir,
        };
        dir.write(&self.file("pids.max"), &or_none(most, "max"))
    }
}

impl CgroupRoot {
    /// How much all sessions together wait; `None` where the kernel does not say.
    pub fn pressure(&self) -> Result<Option<OwnPressure>> {
        let Some(dir) = self.tree.unified() else {
            return Ok(None);
        };
        let of = |file: &str, line: &str| -> Result<Option<f64>> {
            let text = dir.read_if_there(file)?;
            Ok(text.as_deref().and_then(|text| avg10(text, line)))
        };
        let Some(memory_full) = of("memory.pressure", "full ")? else {
            return Ok(None);
        };
        Ok(Some(OwnPressure {
            cpu: of("cpu.pressure", "some ")?.unwrap_or(0.0),
            memory_full,
            io_full: of("io.pressure", "full ")?.unwrap_or(0.0),
        }))
    }
}

/// `some avg10=1.25 avg60=…`
pub(super) fn some_avg10(text: &str) -> Option<f64> {
    avg10(text, "some ")
}

fn avg10(text: &str, line: &str) -> Option<f64> {
    let line = text.lines().find_map(|each| each.strip_prefix(line))?;
    let value = line.split(' ').find_map(|word| word.strip_prefix("avg10="));
    value?.parse().ok().filter(|value: &f64| value.is_finite())
}

fn or_none(limit: Option<impl ToString>, none: &str) -> String {
    limit.map_or_else(|| none.to_owned(), |limit| limit.to_string())
}

/// `cpu.shares` of a weight, as near as whole numbers come: [`weight_of`] finds every weight again.
pub(super) fn shares_of(weight: u32) -> u32 {
    (weight * SHARES).div_ceil(WEIGHT).max(2)
}

fn weight_of(shares: u32) -> u32 {
    u32::try_from(u64::from(shares) * u64::from(WEIGHT) / u64::from(SHARES)).unwrap_or(u32::MAX)
}

fn number(dir: &Dir, file: &str) -> Result<u32> {
    u32::try_from(dir.number(file)?).map_err(|_| dir.unusable(file, "number"))
}

fn millis(quota: Option<u64>, period: Option<u64>) -> Option<u32> {
    let period = period.filter(|period| *period > 0)?;
    u32::try_from(quota?.saturating_mul(1000) / period).ok()
}

fn number_or_max(dir: &Dir, file: &str) -> Result<Option<u64>> {
    match dir.read(file)?.trim() {
        "max" => Ok(None),
        number => number
            .parse()
            .map(Some)
            .map_err(|_| dir.unusable(file, "number")),
    }
}

fn pids(dir: &Dir, file: &str) -> Result<Option<u32>> {
    Ok(number_or_max(dir, file)?.and_then(|most| u32::try_from(most).ok()))
}
