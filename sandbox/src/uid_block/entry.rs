//! Who has a block: one file of the registry, `key value` lines.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The owner of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) instance: String,
    /// Canonical.
    pub(super) state_dir: PathBuf,
    /// Device and inode of the state directory: another directory of the same name is another owner.
    device: u64,
    inode: u64,
    /// The process that claimed it last, and when it started (clock ticks since boot). For people and messages: whether
    /// it runs is told by the lock.
    pub(super) pid: u32,
    start: u64,
}

impl Entry {
    /// This process, for an instance.
    pub(super) fn of_self(instance: &str, state_dir: &Path) -> Self {
        let found = fs::metadata(state_dir);
        let start = procfs::process::Process::myself().and_then(|me| me.stat());
        Self {
            instance: instance.to_owned(),
            state_dir: state_dir.to_owned(),
            device: found.as_ref().map_or(0, MetadataExt::dev),
            inode: found.as_ref().map_or(0, MetadataExt::ino),
            pid: std::process::id(),
            start: start.map_or(0, |stat| stat.starttime),
        }
    }

    /// Whether the state directory is there and is the one that claimed the block: the same inode, or (restored from a
    /// backup, another device number after a reboot) one that bears the same instance id.
    pub(super) fn still_owns_its_directory(&self) -> bool {
        let same = fs::metadata(&self.state_dir)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        let id = fs::read_to_string(self.state_dir.join("instance"));
        match id {
            Ok(id) => id.trim() == self.instance,
            Err(_) => same,
        }
    }

    /// `None` for anything that is not an entry.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            text.lines()
                .filter_map(|line| line.split_once(' '))
                .find_map(|(found, value)| (found == key).then_some(value))
        };
        Some(Self {
            instance: value("instance")?.to_owned(),
            state_dir: value("state_dir")?.into(),
            device: value("device")?.parse().ok()?,
            inode: value("inode")?.parse().ok()?,
            pid: value("pid")?.parse().ok()?,
            start: value("start")?.parse().ok()?,
        })
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "instance {}", self.instance)?;
        writeln!(f, "state_dir {}", self.state_dir.display())?;
        writeln!(f, "device {}", self.device)?;
        writeln!(f, "inode {}", self.inode)?;
        writeln!(f, "pid {}", self.pid)?;
        writeln!(f, "start {}", self.start)
    }
}
