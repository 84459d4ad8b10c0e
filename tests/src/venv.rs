//! What tests use of PyPI: a virtual environment for each list in `tests/clients`, kept by the list's content.

use crate::places;
use anyhow::{Context as _, ensure};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The `bin` folder (`python`, `uv`, …) of the clients' own.
pub fn bin() -> anyhow::Result<PathBuf> {
    of("requirements.txt")
}

/// The `bin` folder of a list of `tests/clients`; made if it is not there yet. A test that asks has `Registry` among its
/// grounds.
pub fn of(list: &str) -> anyhow::Result<PathBuf> {
    let wanted = places::source().join("tests/clients").join(list);
    let text = fs::read_to_string(&wanted).with_context(|| wanted.display().to_string())?;
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let cache = std::env::var_os("AGENTCORE_CACHE")
        .map_or_else(|| PathBuf::from("/var/tmp/agentcore-cache"), PathBuf::from);
    let venv = cache.join(format!("e2e-clients-{:016x}", hasher.finish()));
    fs::create_dir_all(&cache)?;
    // Two tests may come first at once, and a half-made one is made anew.
    let lock = File::options()
        .create(true)
        .append(true)
        .open(venv.with_extension("lock"))?;
    let _alone = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    let ready = venv.join("ready");
    if !ready.exists() {
        make(&venv, &wanted)?;
        fs::write(ready, "")?;
    }
    Ok(venv.join("bin"))
}

/// What the virtual environment of a `bin` folder has installed: the folder to vendor into a bundle.
pub fn packages(bin: &Path) -> anyhow::Result<PathBuf> {
    let lib = fs::read_dir(bin.with_file_name("lib"))?.flatten().next();
    let lib = lib.with_context(|| format!("{} has no lib beside it", bin.display()))?;
    Ok(lib.path().join("site-packages"))
}

/// Runs a script of `tests/clients`, with what a list has, to its end, and gives what it printed.
pub fn run(list: &str, script: &str, words: &[&str]) -> anyhow::Result<String> {
    let out = Command::new(of(list)?.join("python"))
        .arg(places::source().join("tests/clients").join(script))
        .args(words)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(
        out.status.success(),
        "{script} {words:?}: {said}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(said)
}

fn make(venv: &Path, wanted: &Path) -> anyhow::Result<()> {
    if venv.exists() {
        fs::remove_dir_all(venv)?;
    }
    let mut python = Command::new("/usr/bin/python3");
    let mut pip = Command::new(venv.join("bin/pip"));
    for command in [
        python.args(["-m", "venv"]).arg(venv),
        pip.args(["install", "--quiet", "--disable-pip-version-check", "-r"])
            .arg(wanted),
    ] {
        let out = command.output().with_context(|| format!("{command:?}"))?;
        ensure!(
            out.status.success(),
            "{command:?}: {}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
    }
    Ok(())
}
