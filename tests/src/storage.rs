//! Session storage as the host sees it: images below the state directory, and the loop devices that they are attached to.

use crate::Daemon;
use std::fs;
use std::path::{Path, PathBuf};

/// Every file of a daemon's storage.
#[must_use]
pub fn images(daemon: &Daemon) -> Vec<PathBuf> {
    let list = |dir: &Path| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = list(&daemon.state_dir().join("storage"))
        .iter()
        .flat_map(|runtime| list(runtime))
        .collect();
    all.sort();
    all
}

/// Loop devices whose file is below `dir`, as `loop3 /…`.
#[must_use]
pub fn loop_devices(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if Path::new(file.trim_end()).starts_with(dir) {
            found.push(format!("{name} {}", file.trim_end()));
        }
    }
    found
}
