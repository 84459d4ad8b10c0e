//! Where binaries, sources and scratch space are. See the crate's header for the variables.

use std::path::{Path, PathBuf};

fn from_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
}

/// The workspace's root.
#[must_use]
pub fn source() -> PathBuf {
    from_env("AGENTCORE_SOURCE_DIR").unwrap_or_else(|| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .map_or_else(|| PathBuf::from("/"), Path::to_path_buf)
    })
}

/// The directory with `agentcored`, `agentcore` and `agentcore-shim`.
#[must_use]
pub fn binaries() -> PathBuf {
    from_env("AGENTCORE_BIN_DIR").unwrap_or_else(|| {
        // A test is …/target/debug/deps/wire-0123; `cargo xtask demo` is …/target/debug/xtask and builds the release.
        let exe = std::env::current_exe().unwrap_or_default();
        let beside = exe.ancestors().skip(1).take(2).map(PathBuf::from);
        let built = ["target/release", "target/debug"].map(|dir| source().join(dir));
        beside
            .chain(built)
            .find(|dir| dir.join("agentcored").is_file())
            .unwrap_or_else(|| source().join("target/debug"))
    })
}

/// The same three, built with `--features fault-injection` (`cargo xtask build --faults`).
#[must_use]
pub fn fault_binaries() -> PathBuf {
    from_env("AGENTCORE_FAULT_BIN_DIR").unwrap_or_else(|| source().join("target/fault-injection"))
}

/// Scratch space of all tests. Not below `/root` (sessions' uids must be able to pass) and short: Unix socket paths have
/// 108 bytes.
#[must_use]
pub fn scratch() -> PathBuf {
    from_env("AGENTCORE_TEST_DIR").unwrap_or_else(|| PathBuf::from("/var/tmp/ac-e2e"))
}

/// An agent of `tests/agents`.
#[must_use]
pub fn agent(name: &str) -> PathBuf {
    source().join("tests/agents").join(name)
}

/// An example.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    source().join("examples").join(name)
}
