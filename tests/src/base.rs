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
use std::sync::OnceLock;

/// Held by this process for its life, so that no other build's tests remove the base under it.
static IN_USE: OnceLock<(PathBuf, Flock<File>)> = OnceLock::new();

/// The shared base; made if this build's is not there yet.
pub fn shared() -> anyhow::Result<PathBuf> {
    if let Some((base, _)) = IN_USE.get() {
        return Ok(base.clone());
    }
    let home = places::scratch().join("base.d");
    fs::create_dir_all(&home)?;
    let _alone = locked(&home.join("lock"), FlockArg::LockExclusive)?;
    let binary = places::binaries().join("agentcored");
    let meta = fs::metadata(&binary).with_context(|| binary.display().to_string())?;
    // Short: the runtime directory below it has at most 43 bytes.
    let key = format!(
        "{:x}",
        meta.mtime().wrapping_mul(1_000_000_007) ^ meta.mtime_nsec()
    );
    let dir = home.join(&key);
    fs::create_dir_all(&dir)?;
    let used = locked(&dir.join("used"), FlockArg::LockShared)?;
    let ready = dir.join("ready");
    let base = match named(&ready) {
        Some(base) => base,
        None => {
            remove_unused(&home)?;
            let base = make(&dir)?;
            fs::write(&ready, base.to_string_lossy().as_bytes())?;
            base
        }
    };
    Ok(IN_USE.get_or_init(|| (base, used)).0.clone())
}

fn locked(path: &Path, how: FlockArg) -> anyhow::Result<Flock<File>> {
    let file = File::options().create(true).append(true).open(path)?;
    Ok(Flock::lock(file, how).map_err(|(_, error)| error)?)
}

/// Bases of earlier builds that nobody tests with any more.
fn remove_unused(home: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(home)?.flatten() {
        if !entry.file_type()?.is_dir() {
            continue;
        }
        if locked(&entry.path().join("used"), FlockArg::LockExclusiveNonblock).is_ok() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn make(dir: &Path) -> anyhow::Result<PathBuf> {
    let options = Options {
        dir: Some(dir.to_owned()),
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
    Ok(bases[0].clone())
}

fn named(ready: &Path) -> Option<PathBuf> {
    let base = PathBuf::from(fs::read_to_string(ready).ok()?);
    base.is_dir().then_some(base)
}
