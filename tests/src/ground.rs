//! What a test stands on, and how it says that the ground is missing.
//!
//! A skip is never silent: it goes to stderr and, as `name<TAB>reason`, to the file that `AGENTCORE_SKIPS` names, which
//! `cargo xtask test` counts and prints. The runner counts a test that has skipped itself as passed, so `cargo xtask test` takes
//! it off again; a test of which only a part was skipped ([`skip_part`]) has passed, and its name in the file says so.

use std::io::Write as _;
use std::path::Path;

/// One thing that a test needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// Tier *files*: a temporary directory; always there.
    Files,
    /// Tier *root*: uid 0.
    Root,
    /// Tier *root*, with the built binaries.
    Daemon,
    /// The fault-injection build.
    Faults,
    /// The two binaries of a Python session: `/usr/bin/python3`.
    Python,
    /// `/usr/bin/node`.
    Node,
    /// A command on the host.
    Command(&'static str),
    /// A machine to be thrown away, with systemd as PID 1 and cgroup v2: tests may install into its `/usr` and `/etc`, and turn
    /// swap on. Only the virtual machine says so (`AGENTCORE_DISPOSABLE`).
    Disposable,
    /// Tier *chaos and load*: not in an emulated machine, whose speed says nothing.
    RealSpeed,
    /// Packages of PyPI.
    Registry,
}

impl Ground {
    fn missing(self) -> Option<String> {
        match self {
            Self::Files => None,
            Self::Root => (!nix::unistd::geteuid().is_root()).then(|| "needs root".to_owned()),
            Self::Daemon => {
                if let Some(reason) = Self::Root.missing() {
                    return Some(reason);
                }
                let daemon = crate::places::binaries().join("agentcored");
                // Not a skip: without binaries the suite would be green and empty.
                assert!(
                    daemon.exists(),
                    "{} is not built: run `cargo xtask build` (or set AGENTCORE_BIN_DIR)",
                    daemon.display()
                );
                None
            }
            Self::Faults => {
                let daemon = crate::places::fault_binaries().join("agentcored");
                assert!(
                    daemon.exists(),
                    "{} is not built: run `cargo xtask build --faults` (or set AGENTCORE_FAULT_BIN_DIR)",
                    daemon.display()
                );
                None
            }
            Self::Python => absent("/usr/bin/python3"),
            Self::Node => absent("/usr/bin/node"),
            Self::Command(name) => {
                let found = std::env::var_os("PATH").is_some_and(|path| {
                    std::env::split_paths(&path).any(|dir| dir.join(name).exists())
                });
                (!found).then(|| format!("`{name}` is not installed"))
            }
            Self::Disposable => {
                let said = std::env::var_os("AGENTCORE_DISPOSABLE").is_some();
                let systemd = Path::new("/run/systemd/system").is_dir();
                (!(said && systemd)).then(|| {
                    "changes the whole machine: runs in the virtual machine only (stage vm)"
                        .to_owned()
                })
            }
            Self::RealSpeed => (crate::wait::patience() > 1)
                .then(|| "an emulated machine says nothing about speed".to_owned()),
            Self::Registry => std::env::var_os("AGENTCORE_OFFLINE")
                .map(|_| "AGENTCORE_OFFLINE is set: no package registry".to_owned()),
        }
    }
}

fn absent(path: &str) -> Option<String> {
    (!Path::new(path).exists()).then(|| format!("{path} is not there"))
}

/// Why the test cannot run here, if it cannot.
#[must_use]
pub fn missing(grounds: &[Ground]) -> Option<String> {
    grounds.iter().find_map(|ground| ground.missing())
}

/// Says loudly that the current test did not run.
pub fn skip(reason: &str) {
    tell("", reason);
}

/// Says loudly that a part of the current test did not run.
pub fn skip_part(reason: &str) {
    tell(" (in part)", reason);
}

fn tell(what: &str, reason: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("?");
    let binary = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.file_stem()?.to_string_lossy().into_owned()))
        .unwrap_or_default();
    let suite = binary.rsplit_once('-').map_or(binary.as_str(), |(s, _)| s);
    eprintln!("SKIPPED {suite}::{name}{what}: {reason}");
    if let Some(file) = std::env::var_os("AGENTCORE_SKIPS") {
        let appended = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&file)
            .and_then(|mut f| f.write_all(format!("{suite}::{name}{what}\t{reason}\n").as_bytes()));
        assert!(appended.is_ok(), "cannot write {file:?}: {appended:?}");
    }
}

/// Names the ground of a test; returns `Ok(())` from it, loudly, where that is missing.
#[macro_export]
macro_rules! ground {
    ($($ground:expr),+ $(,)?) => {{
        #[allow(unused_imports)]
        use $crate::ground::Ground::*;
        if let Some(reason) = $crate::ground::missing(&[$($ground),+]) {
            $crate::ground::skip(&reason);
            return Ok(());
        }
    }};
}
