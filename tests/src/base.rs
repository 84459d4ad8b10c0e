//! One base root file system for all tests: copying it takes seconds, and every test has a state directory of its own.
//!
//! The first test of a build lets a daemon make it from this host's packages (as a user's first start does), and keeps it;
//! all others name it as `base = "…"`. It is keyed by the daemon's binary, which carries the built-in Python.

use crate::{Daemon, Options, places};
use anyhow::{Context as _, ensure};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The shared base; made if this build's is not there yet.
pub fn shared() -> anyhow::Result<PathBuf> {
    let home = places::scratch().join("bases");
    fs::create_dir_all(&home)?;
    let binary = places::binaries().join("agentcored");
    let meta = fs::metadata(&binary).with_context(|| binary.display().to_string())?;
    // Short: the runtime directory below it has at most 43 bytes.
    let key = format!(
        "{:x}",
        meta.mtime().wrapping_mul(1_000_000_007) ^ meta.mtime_nsec()
    );
    let ready = home.join(&key).join("ready");
    if let Some(base) = named(&ready) {
        return Ok(base);
    }
    let lock = File::create(home.join("lock"))?;
    let _held = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
    if let Some(base) = named(&ready) {
        return Ok(base);
    }
    for entry in fs::read_dir(&home)?.flatten() {
        // Of earlier builds. A daemon that still uses one keeps its mounts.
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    let dir = home.join(&key);
    fs::create_dir_all(&dir)?;
    let options = Options {
        dir: Some(dir.clone()),
        ..Options::default()
    };
    let daemon = Daemon::start(options.config("base = \"host\""))?;
    let bases: Vec<_> = fs::read_dir(daemon.state_dir().join("bases"))?
        .flatten()
        .filter(|e| e.path().join("usr").is_dir())
        .map(|e| e.path())
        .collect();
    daemon.end()?;
    ensure!(bases.len() == 1, "the daemon made not one base: {bases:?}");
    fs::write(&ready, bases[0].to_string_lossy().as_bytes())?;
    Ok(bases[0].clone())
}

fn named(ready: &Path) -> Option<PathBuf> {
    let base = PathBuf::from(fs::read_to_string(ready).ok()?);
    base.is_dir().then_some(base)
}
