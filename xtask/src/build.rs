//! Building the three binaries, and the same three with fault injection.

use crate::command::{cargo, root, run};
use anyhow::Context as _;
use std::fs;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimised.
    #[arg(long)]
    release: bool,
    /// Also the fault-injection build, into target/fault-injection.
    #[arg(long)]
    faults: bool,
}

/// The user's binaries.
const PROGRAMS: [&str; 3] = ["agentcored", "agentcore-shim", "agentcore"];

pub(crate) fn build(args: &Args) -> anyhow::Result<()> {
    all(args.release, args.faults)
}

/// Where cargo puts them.
pub(crate) fn directory(release: bool) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join(if release { "release" } else { "debug" })
}

pub(crate) fn all(release: bool, faults: bool) -> anyhow::Result<()> {
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    if faults {
        // In the same target directory: dependencies are shared, and only three crates are compiled twice. The binaries
        // are copied away before the ordinary build puts its own in their place.
        run(cargo()
            .args([
                "build",
                "--bins",
                "-p",
                "supervisor",
                "-p",
                "worker-shim",
                "-p",
                "agentcore-cli",
            ])
            .args(["--features", "supervisor/fault-injection"])
            .args(profile))?;
        let to = root().join("target/fault-injection");
        fs::create_dir_all(&to)?;
        for program in PROGRAMS {
            let from = directory(release).join(program);
            let temporary = to.join(format!("{program}.new"));
            fs::copy(&from, &temporary).with_context(|| format!("copy {}", from.display()))?;
            fs::rename(&temporary, to.join(program))?;
        }
    }
    run(cargo()
        .args(["build", "--workspace", "--bins"])
        .args(profile))
}
