//! What two sessions have in common, seen from the host: there must be nothing.
//!
//! Compared are namespaces (inodes), host uids and gids (the ranges their maps lead to), cgroups (paths), writable mounts
//! (device and root), and every file, directory, fifo or socket that the agent could write (device and inode). Device nodes
//! count by inode too: a bound `/dev/null` of the host would be one file in two sessions.

use crate::{cgroup, host};
use anyhow::Context as _;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// A session's footprint.
#[derive(Debug, Clone)]
pub struct Footprint {
    /// Kind ▸ inode.
    pub namespaces: BTreeMap<&'static str, u64>,
    /// Host uids: first and count of each line of the map.
    pub uids: Vec<(u64, u64)>,
    /// Host gids.
    pub gids: Vec<(u64, u64)>,
    /// Paths in all hierarchies.
    pub cgroups: BTreeSet<String>,
    /// (device, root) of each mount that is not read-only ▸ its mount point.
    pub mounts: BTreeMap<(String, String), String>,
    /// (device, inode) of each writable file ▸ its path.
    pub files: BTreeMap<(u64, u64), String>,
}

impl Footprint {
    /// Of the session whose PID 1 is `pid` and whose agent has host uid `agent`.
    pub fn of(pid: i32, agent: u32) -> anyhow::Result<Self> {
        let mut mounts = BTreeMap::new();
        let mut files = BTreeMap::new();
        for line in host::mountinfo(pid) {
            let mount = Mount::parse(&line).with_context(|| format!("mountinfo line {line:?}"))?;
            // proc is the kernel's; what may be written there is the probes' business.
            if mount.read_only || mount.kind == "proc" {
                continue;
            }
            walk(
                Path::new(&format!("/proc/{pid}/root{}", mount.point)),
                agent,
                &mut files,
                0,
            );
            mounts.insert((mount.device, mount.root), mount.point);
        }
        Ok(Self {
            namespaces: host::namespaces(pid)?,
            uids: ranges(pid, "uid_map")?,
            gids: ranges(pid, "gid_map")?,
            cgroups: cgroup::of(pid)
                .into_iter()
                .map(|(names, path)| format!("{names}:{path}"))
                .collect(),
            mounts,
            files,
        })
    }

    /// What it shares with another, each in words.
    #[must_use]
    pub fn shared(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (kind, inode) in &self.namespaces {
            if other.namespaces.get(kind) == Some(inode) {
                found.push(format!("{kind} namespace {inode}"));
            }
        }
        for (what, mine, theirs) in [
            ("uids", &self.uids, &other.uids),
            ("gids", &self.gids, &other.gids),
        ] {
            for a in mine {
                for b in theirs {
                    if a.0 < b.0 + b.1 && b.0 < a.0 + a.1 {
                        found.push(format!("{what} {}+{} and {}+{}", a.0, a.1, b.0, b.1));
                    }
                }
            }
        }
        for path in self.cgroups.intersection(&other.cgroups) {
            // A hierarchy that nothing is limited in may hold everybody at its root.
            if !path.ends_with(":/") {
                found.push(format!("cgroup {path}"));
            }
        }
        for (key, point) in &self.mounts {
            if other.mounts.contains_key(key) {
                found.push(format!(
                    "writable mount {point} (device {} {})",
                    key.0, key.1
                ));
            }
        }
        for (key, path) in &self.files {
            if let Some(theirs) = other.files.get(key) {
                found.push(format!("writable file {path} is {theirs}"));
            }
        }
        found
    }

    /// Namespaces that it shares with this very process, which is one of the host's (its first one may be unreadable in a
    /// container), or uids that are the host's own.
    pub fn shared_with_host(&self) -> anyhow::Result<Vec<String>> {
        let host = host::namespaces(std::process::id().cast_signed())?;
        let mut found: Vec<_> = self
            .namespaces
            .iter()
            .filter(|(kind, inode)| host.get(*kind) == Some(*inode))
            .map(|(kind, inode)| format!("{kind} namespace {inode} is the host's"))
            .collect();
        for (first, count) in &self.uids {
            // 65534 is nobody; ordinary users and system users are below.
            if *first < 65_536 {
                found.push(format!("uids {first}+{count} are of the host's own users"));
            }
        }
        Ok(found)
    }
}

struct Mount {
    device: String,
    root: String,
    point: String,
    kind: String,
    read_only: bool,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<_> = left.split(' ').collect();
        let right: Vec<_> = right.split(' ').collect();
        let ro = |options: &str| options.split(',').any(|o| o == "ro");
        Some(Self {
            device: (*left.get(2)?).to_owned(),
            root: (*left.get(3)?).to_owned(),
            point: (*left.get(4)?).to_owned(),
            kind: (*right.first()?).to_owned(),
            read_only: ro(left.get(5)?) || ro(right.get(2)?),
        })
    }
}

fn ranges(pid: i32, file: &str) -> anyhow::Result<Vec<(u64, u64)>> {
    let path = format!("/proc/{pid}/{file}");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let words: Vec<u64> = line
                .split_whitespace()
                .filter_map(|w| w.parse().ok())
                .collect();
            Some((*words.get(1)?, *words.get(2)?))
        })
        .collect())
}

/// Collects what `agent` may write below `dir`, staying on its file system, following nothing.
fn walk(dir: &Path, agent: u32, files: &mut BTreeMap<(u64, u64), String>, depth: u32) {
    let Ok(meta) = fs::symlink_metadata(dir) else {
        return;
    };
    let kind = meta.file_type();
    let writable = (meta.uid() == agent && meta.mode() & 0o200 != 0) || meta.mode() & 0o002 != 0;
    if writable && !kind.is_symlink() {
        let what = if kind.is_char_device() {
            " (device)"
        } else {
            ""
        };
        files.insert((meta.dev(), meta.ino()), format!("{}{what}", dir.display()));
    }
    if !kind.is_dir() || depth > 8 {
        return;
    }
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let same = fs::symlink_metadata(&path).is_ok_and(|m| m.dev() == meta.dev());
        if same {
            walk(&path, agent, files, depth + 1);
        }
    }
}
