//! The host's cgroups, v1, hybrid or v2, found by the names that a daemon's instance gives them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub root: PathBuf,
    /// Controllers (v1: from the mount options; v2: `cgroup.controllers` of its root).
    pub controllers: Vec<String>,
    /// Unified.
    pub v2: bool,
}

/// Every hierarchy of this host.
#[must_use]
pub fn hierarchies() -> Vec<Hierarchy> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (_, root, kind, options) =
                (words.next()?, words.next()?, words.next()?, words.next()?);
            let root = PathBuf::from(root);
            match kind {
                "cgroup2" => {
                    let controllers =
                        fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
                    Some(Hierarchy {
                        controllers: controllers.split_whitespace().map(str::to_owned).collect(),
                        root,
                        v2: true,
                    })
                }
                "cgroup" => Some(Hierarchy {
                    root,
                    controllers: options.split(',').map(str::to_owned).collect(),
                    v2: false,
                }),
                _ => None,
            }
        })
        .collect()
}

/// Every cgroup directory at or below one whose name contains `needle`, parents first.
#[must_use]
pub fn named(needle: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, inside: bool, needle: &str, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            let path = entry.path();
            let inside = inside || entry.file_name().to_string_lossy().contains(needle);
            if inside {
                found.push(path.clone());
            }
            walk(&path, inside, needle, found);
        }
    }
    let mut found = Vec::new();
    if !needle.is_empty() {
        for hierarchy in hierarchies() {
            walk(&hierarchy.root, false, needle, &mut found);
        }
    }
    found
}

/// Processes in those cgroups, each once.
#[must_use]
pub fn members_named(needle: &str) -> Vec<i32> {
    let mut pids: Vec<i32> = named(needle)
        .iter()
        .filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok())
        .flat_map(|text| {
            text.lines()
                .filter_map(|l| l.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Removes those cgroups (thawing what is frozen), innermost first; what is busy stays.
pub fn remove_named(needle: &str) {
    for dir in named(needle).into_iter().rev() {
        let state = dir.join("freezer.state");
        if state.exists() {
            let _ = fs::write(state, "THAWED");
        }
        let _ = fs::remove_dir(dir);
    }
}

/// A process's cgroup in each hierarchy: controllers (or `name=…`, or empty for v2) ▸ path.
#[must_use]
pub fn of(pid: i32) -> BTreeMap<String, String> {
    fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            Some((controllers.to_owned(), path.to_owned()))
        })
        .collect()
}

/// The directory of `controller` for a process: on v2 its only one.
#[must_use]
pub fn directory(pid: i32, controller: &str) -> Option<PathBuf> {
    let of = of(pid);
    let all = hierarchies();
    let v1 = all
        .iter()
        .find(|h| !h.v2 && h.controllers.iter().any(|c| c == controller));
    let (hierarchy, path) = match v1 {
        Some(h) => {
            let path = of
                .iter()
                .find(|(names, _)| names.split(',').any(|n| n == controller))?
                .1;
            (h, path)
        }
        None => (all.iter().find(|h| h.v2)?, of.get("")?),
    };
    Some(hierarchy.root.join(path.trim_start_matches('/')))
}

/// A limit or counter of a process's cgroup: the first of `files` that is there (v2's name, then v1's), trimmed.
#[must_use]
pub fn value(pid: i32, controller: &str, files: &[&str]) -> Option<String> {
    let dir = directory(pid, controller)?;
    files
        .iter()
        .find_map(|file| fs::read_to_string(dir.join(file)).ok())
        .map(|text| text.trim().to_owned())
}
