//! The named steps by which a session gets its cgroup, for [`crate::steps`]: each of them is fatal to the launch.

use super::{CgroupError, Result};
use crate::faults;
use std::path::PathBuf;

/// In the order in which a launch takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Its directory, in every hierarchy.
    Create,
    /// Its stager is in it.
    Enter,
    /// Limit of memory and swap.
    Memory,
    /// CPU quota.
    Cpu,
    /// Limit of processes.
    Pids,
    /// Device list. On v2 it is the instance's, set at start, and there is nothing to do for one session.
    Devices,
    /// Limit on the disk, where wanted.
    Io,
    /// Its memory is watched.
    OomEvent,
}

impl Step {
    /// What makes a place to launch in.
    pub const PLACE: [Self; 2] = [Self::Create, Self::Enter];

    /// What a launch does to it.
    pub const LAUNCH: [Self; 6] = [
        Self::Memory,
        Self::Cpu,
        Self::Pids,
        Self::Devices,
        Self::Io,
        Self::OomEvent,
    ];

    /// Stable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "cgroup.create",
            Self::Enter => "cgroup.enter",
            Self::Memory => "cgroup.memory",
            Self::Cpu => "cgroup.cpu",
            Self::Pids => "cgroup.pids",
            Self::Devices => "cgroup.devices",
            Self::Io => "cgroup.io",
            Self::OomEvent => "cgroup.oom_event",
        }
    }

    /// Takes it, unless a test build leaves it out or makes it fail.
    pub(super) fn take(self, act: impl FnOnce() -> Result<()>) -> Result<()> {
        if faults::is_off(self.name()) {
            return Ok(());
        }
        self.strike()?;
        act()
    }

    /// Fails if a test build makes it fail.
    pub(super) fn strike(self) -> Result<()> {
        faults::strike(self.name()).map_err(|source| CgroupError::Io {
            verb: "take the step",
            path: PathBuf::from(self.name()),
            source,
        })
    }
}
