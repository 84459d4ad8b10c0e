//! What one session has used, from readings of its counters: pure sums, so that they can be tested against the whole.
//!
//! | figure | rule |
//! |---|---|
//! | CPU | the kernel's counter: exact, whoever was there to read it |
//! | plain memory | the trapezoid between two readings |
//! | per-second peak | the highest memory between two readings (one second apart) times that time. It is exact where the kernel's own highest mark rose meanwhile, else the higher of the two readings |
//! | AWS's memory | the highest memory *so far*, 128 MB at least, times the time; one second at least (contract §6.2) |
//! | active | time in which work was in flight or the agent said `HealthyBusy` |
//! | allocated | the session's limits times its active time |
//!
//! **Gaps.** While a session is frozen, and while no daemon was there, nobody reads. The next reading covers the gap: CPU is
//! exact, memory goes by the readings on both sides. A gap without a daemon is active time only if the session was active at
//! both of its ends. Time comes as an argument and never goes backwards here: a moment before the last one adds nothing.
//!
//! **Parts.** A session that lives for days is recorded in parts. [`Totals::since`] makes a part of two totals; all sums are
//! whole numbers, so the parts add up to the whole exactly, and nothing is in two of them.

use crate::moment::Moment;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The least memory that AWS charges, in kB: 128 MB.
const AWS_LEAST_KB: u64 = 128_000;

/// The least time that AWS charges, in ms.
const AWS_LEAST_MS: u64 = 1000;

/// What a session does, as far as its charges are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    /// Starting, idle, or ending.
    Idle,
    /// Work in flight, or `HealthyBusy`.
    Active,
    /// Stopped where it is; not read.
    Frozen,
}

/// What a session may use, and is charged for while it is active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocated {
    /// Bytes.
    pub memory_bytes: u64,
    /// Thousandths of a CPU.
    pub cpu_millis: u32,
}

/// One look at a session's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// CPU time since the session began, microseconds.
    pub cpu_us: u64,
    /// Memory now, bytes.
    pub memory_bytes: u64,
    /// Highest memory since the session began, bytes.
    pub peak_bytes: u64,
    /// Files in its tmpfs mounts (and shared memory) now, bytes, if that was looked at.
    pub tmp_bytes: Option<u64>,
}

/// Sums of a session, of a part of one, or of many. Times are ms or µs, memory over time is kB·s (1,000 bytes for a second).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// From the beginning to the end.
    pub wall_ms: u64,
    /// Of it, active.
    pub active_ms: u64,
    /// Of it, frozen.
    pub frozen_ms: u64,
    /// CPU time.
    pub cpu_us: u64,
    /// Memory over time, plainly.
    pub memory_kbs: u64,
    /// Memory over time, each second with its peak.
    pub memory_peak_kbs: u64,
    /// Memory over time as AWS charges it.
    pub memory_aws_kbs: u64,
    /// Memory that it might use, over its active time.
    pub allocated_memory_kbs: u64,
    /// CPU time that it might use in its active time, CPU-milliseconds.
    pub allocated_cpu_ms: u64,
    /// Invocations, streams, commands and shells that ended.
    pub invocations: u64,
    /// Bytes of their requests.
    pub bytes_in: u64,
    /// Bytes of their answers.
    pub bytes_out: u64,
    /// Bytes that came from outbound connections.
    pub egress_in: u64,
    /// Bytes that went out by them.
    pub egress_out: u64,
    /// Highest memory; of many, the highest of one.
    pub peak_bytes: u64,
    /// Most tmpfs seen; of many, the highest of one.
    pub tmp_bytes: u64,
}

impl Totals {
    /// What came on top of `before`. Peaks are those of the whole.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        self.combined(before, u64::saturating_sub, |whole, _| whole)
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, more: &Self) -> Self {
        self.combined(more, u64::saturating_add, u64::max)
    }

    /// The higher of each: of two readings of sums that only grow, the later.
    #[must_use]
    pub fn later(&self, other: &Self) -> Self {
        self.combined(other, u64::max, u64::max)
    }

    fn combined(
        &self,
        other: &Self,
        sum: impl Fn(u64, u64) -> u64,
        peak: impl Fn(u64, u64) -> u64,
    ) -> Self {
        Self {
            wall_ms: sum(self.wall_ms, other.wall_ms),
            active_ms: sum(self.active_ms, other.active_ms),
            frozen_ms: sum(self.frozen_ms, other.frozen_ms),
            cpu_us: sum(self.cpu_us, other.cpu_us),
            memory_kbs: sum(self.memory_kbs, other.memory_kbs),
            memory_peak_kbs: sum(self.memory_peak_kbs, other.memory_peak_kbs),
            memory_aws_kbs: sum(self.memory_aws_kbs, other.memory_aws_kbs),
            allocated_memory_kbs: sum(self.allocated_memory_kbs, other.allocated_memory_kbs),
            allocated_cpu_ms: sum(self.allocated_cpu_ms, other.allocated_cpu_ms),
            invocations: sum(self.invocations, other.invocations),
            bytes_in: sum(self.bytes_in, other.bytes_in),
            bytes_out: sum(self.bytes_out, other.bytes_out),
            egress_in: sum(self.egress_in, other.egress_in),
            egress_out: sum(self.egress_out, other.egress_out),
            peak_bytes: peak(self.peak_bytes, other.peak_bytes),
            tmp_bytes: peak(self.tmp_bytes, other.tmp_bytes),
        }
    }
}

/// Everything of a meter but the moment: what another daemon goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    activity: Activity,
    allocated: Allocated,
    wall_ms: u64,
    active_ms: u64,
    frozen_ms: u64,
    cpu_us: u64,
    /// The last reading of memory.
    memory_kb: Option<u64>,
    peak_bytes: u64,
    tmp_bytes: u64,
    /// CPU time that somebody else is charged for: of a session that has waited in a pool.
    #[serde(default)]
    cpu_before: u64,
    // Sums in kB·ms and CPU-microseconds: nothing is rounded on the way.
    memory: u64,
    memory_peak: u64,
    memory_aws: u64,
    allocated_memory: u64,
    allocated_cpu: u64,
}

impl Saved {
    /// CPU time of it, µs.
    #[must_use]
    pub fn cpu_us(&self) -> u64 {
        self.cpu_us
    }
}

/// One session's meter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meter {
    /// Until when time is counted.
    at: Moment,
    /// Until when memory is.
    read_at: Moment,
    sums: Saved,
}

impl Meter {
    /// Of a session that begins at `now`.
    #[must_use]
    pub fn new(now: Moment, allocated: Allocated) -> Self {
        Self {
            at: now,
            read_at: now,
            sums: Saved {
                activity: Activity::Idle,
                allocated,
                wall_ms: 0,
                active_ms: 0,
                frozen_ms: 0,
                cpu_us: 0,
                memory_kb: None,
                peak_bytes: 0,
                tmp_bytes: 0,
                cpu_before: 0,
                memory: 0,
                memory_peak: 0,
                memory_aws: 0,
                allocated_memory: 0,
                allocated_cpu: 0,
            },
        }
    }

    /// Of a session that is somebody's from `now` on, and whose counter is there already.
    #[must_use]
    pub fn claimed(now: Moment, allocated: Allocated, cpu_before: u64) -> Self {
        let mut meter = Self::new(now, allocated);
        meter.sums.cpu_before = cpu_before;
        meter
    }

    /// Of a session that another daemon has read last, `gap` ago. `active`: whether work is in flight again.
    #[must_use]
    pub fn resume(saved: Saved, now: Moment, gap: Duration, active: bool) -> Self {
        let then = now.before(gap);
        let mut meter = Self {
            at: then,
            read_at: then,
            sums: saved,
        };
        if saved.activity == Activity::Active && !active {
            meter.sums.activity = Activity::Idle;
        }
        meter.pass(now);
        if meter.sums.activity == Activity::Active {
            meter.sums.activity = Activity::Idle;
        }
        meter
    }

    /// What another daemon goes on from, as of the last moment that was told.
    #[must_use]
    pub fn saved(&self) -> Saved {
        self.sums
    }

    /// Does something else from `now` on.
    pub fn activity(&mut self, now: Moment, activity: Activity) {
        self.pass(now);
        self.sums.activity = activity;
    }

    /// What it does.
    #[must_use]
    pub fn doing(&self) -> Activity {
        self.sums.activity
    }

    /// May use something else from `now` on.
    pub fn allocate(&mut self, now: Moment, allocated: Allocated) {
        self.pass(now);
        self.sums.allocated = allocated;
    }

    /// Takes a reading.
    pub fn read(&mut self, now: Moment, reading: Reading) {
        self.pass(now);
        let memory_kb = reading.memory_bytes / 1000;
        self.remember(now, memory_kb, reading);
        self.sums.memory_kb = Some(memory_kb);
    }

    /// Counts memory up to `now` as it was last, so that [`Self::totals`] leave nothing out.
    pub fn settle(&mut self, now: Moment) {
        self.pass(now);
        if let Some(memory_kb) = self.sums.memory_kb {
            self.remember(now, memory_kb, Reading::default());
        }
    }

    /// Takes the last reading of a session whose processes are gone, and its memory with them: until `now` it had what it
    /// had last, or, if nobody ever looked, its peak.
    pub fn close(&mut self, now: Moment, last: Reading) {
        self.pass(now);
        let peak_kb = last.peak_bytes / 1000;
        let memory_kb = *self.sums.memory_kb.get_or_insert(peak_kb);
        self.remember(now, memory_kb, last);
        let short = AWS_LEAST_MS.saturating_sub(self.sums.wall_ms);
        let billed = (self.sums.peak_bytes / 1000).max(AWS_LEAST_KB);
        add(&mut self.sums.memory_aws, billed, short);
        self.sums.activity = Activity::Idle;
    }

    /// The sums so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let sums = &self.sums;
        Totals {
            wall_ms: sums.wall_ms,
            active_ms: sums.active_ms,
            frozen_ms: sums.frozen_ms,
            cpu_us: sums.cpu_us,
            memory_kbs: sums.memory / 1000,
            memory_peak_kbs: sums.memory_peak / 1000,
            memory_aws_kbs: sums.memory_aws / 1000,
            allocated_memory_kbs: sums.allocated_memory / 1000,
            allocated_cpu_ms: sums.allocated_cpu / 1000,
            peak_bytes: sums.peak_bytes,
            tmp_bytes: sums.tmp_bytes,
            ..Totals::default()
        }
    }

    /// Memory between the last reading and this one. Counters that are lower than before are not believed.
    fn remember(&mut self, now: Moment, memory_kb: u64, reading: Reading) {
        let passed = millis(now - self.read_at);
        let sums = &mut self.sums;
        let before = sums.memory_kb.unwrap_or(memory_kb);
        let peak = if reading.peak_bytes > sums.peak_bytes {
            reading.peak_bytes / 1000
        } else {
            before.max(memory_kb)
        };
        let own = reading.cpu_us.saturating_sub(sums.cpu_before);
        sums.cpu_us = sums.cpu_us.max(own);
        sums.peak_bytes = sums
            .peak_bytes
            .max(reading.peak_bytes)
            .max(memory_kb * 1000);
        sums.tmp_bytes = sums.tmp_bytes.max(reading.tmp_bytes.unwrap_or(0));
        add(&mut sums.memory, u64::midpoint(before, memory_kb), passed);
        add(&mut sums.memory_peak, peak, passed);
        let billed = (sums.peak_bytes / 1000).max(AWS_LEAST_KB);
        add(&mut sums.memory_aws, billed, passed);
        self.read_at = self.read_at.max(now);
    }

    fn pass(&mut self, now: Moment) {
        let passed = millis(now - self.at);
        self.at = self.at.max(now);
        let sums = &mut self.sums;
        sums.wall_ms = sums.wall_ms.saturating_add(passed);
        match sums.activity {
            Activity::Idle => {}
            Activity::Frozen => sums.frozen_ms = sums.frozen_ms.saturating_add(passed),
            Activity::Active => {
                sums.active_ms = sums.active_ms.saturating_add(passed);
                let Allocated {
                    memory_bytes,
                    cpu_millis,
                } = sums.allocated;
                add(&mut sums.allocated_memory, memory_bytes / 1000, passed);
                add(&mut sums.allocated_cpu, u64::from(cpu_millis), passed);
            }
        }
    }
}

fn add(sum: &mut u64, amount: u64, times: u64) {
    *sum = sum.saturating_add(amount.saturating_mul(times));
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
