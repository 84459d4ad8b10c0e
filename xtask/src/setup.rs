//! What this machine lacks, installed with apt. Only what is missing; nothing is built from source.
//!
//! `cargo-deny` and `cargo-nextest` are used where they are installed and not installed by us: building either takes
//! minutes of two cores, and `xtask deny` and `cargo test` do what CI needs without them.

use crate::command::{has, run};
use anyhow::{Context as _, bail};
use std::path::Path;
use std::process::Command;

/// A program that something needs, and the Debian package that has it.
struct Need {
    program: &'static str,
    package: &'static str,
}

const fn need(program: &'static str, package: &'static str) -> Need {
    Need { program, package }
}

/// What the demonstration needs.
const DEMO: &[Need] = &[need("python3", "python3"), need("curl", "curl")];

/// What the tests need beside.
const TEST: &[Need] = &[
    need("ip", "iproute2"),
    need("nsenter", "util-linux"),
    need("node", "nodejs"),
    need("cc", "gcc"),
    // libFuzzer is compiled with the fuzz targets.
    need("c++", "g++"),
];

/// What the benchmarks compare us with.
const BENCH: &[Need] = &[
    need("bwrap", "bubblewrap"),
    need("runc", "runc"),
    need("haproxy", "haproxy"),
    need("nginx", "nginx"),
];

/// Peers that only the benchmarks start.
const PEERS: &[Need] = &[need("systemd-nspawn", "systemd-container")];

/// What samples stacks for flame graphs.
const FLAME: &[Need] = &[need("perf", "linux-perf")];

/// What makes a Debian package, and what judges it.
const PACKAGE: &[Need] = &[
    need("dpkg-buildpackage", "dpkg-dev"),
    need("dh", "debhelper"),
    need("dh_python3", "dh-python"),
    need("lintian", "lintian"),
];

/// Python modules that come as packages of their own.
const PYTHON: &[(&str, &str)] = &[("ensurepip", "python3-venv"), ("pip", "python3-pip")];

/// For the demonstration.
pub(crate) fn for_demo() -> anyhow::Result<()> {
    install(&lacking(&[DEMO], PYTHON))
}

/// For the tests, without the package's. The benchmarks' peers too: small, and the isolation suite's positive control is one of them.
pub(crate) fn for_tests() -> anyhow::Result<()> {
    install(&lacking(&[DEMO, TEST, BENCH], PYTHON))
}

/// For the package.
pub(crate) fn for_package() -> anyhow::Result<()> {
    install(&lacking(&[PACKAGE], &[]))
}

/// For the benchmarks.
pub(crate) fn for_bench() -> anyhow::Result<()> {
    install(&lacking(&[DEMO, TEST, BENCH, PEERS], PYTHON))
}

/// For flame graphs.
pub(crate) fn for_flame() -> anyhow::Result<()> {
    install(&lacking(&[DEMO, FLAME], PYTHON))
}

/// Everything.
pub(crate) fn everything() -> anyhow::Result<()> {
    let packages = lacking(&[DEMO, TEST, BENCH, PEERS, FLAME, PACKAGE], PYTHON);
    install(&packages)?;
    if packages.is_empty() {
        eprintln!("xtask: nothing is missing");
    }
    for (program, what) in [
        (
            "cargo-nextest",
            "a process per test; without it tests run by `cargo test`",
        ),
        (
            "cargo-deny",
            "its own reading of deny.toml; without it `xtask deny` checks licences, bans and sources by itself",
        ),
    ] {
        if !has(program) {
            eprintln!(
                "xtask: {program} is not installed ({what}); `cargo install --locked {program}` if you want it"
            );
        }
    }
    Ok(())
}

fn lacking(groups: &[&[Need]], modules: &[(&str, &'static str)]) -> Vec<&'static str> {
    let mut packages: Vec<_> = groups
        .iter()
        .flat_map(|group| group.iter())
        // Sessions get Debian's interpreter, whatever else is on the PATH.
        .filter(|need| match need.program {
            "python3" | "node" => !Path::new("/usr/bin").join(need.program).exists(),
            program => !has(program),
        })
        .map(|need| need.package)
        .collect();
    for (module, package) in modules {
        let there = Command::new("/usr/bin/python3")
            .args(["-c", &format!("import {module}")])
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|s| s.success());
        if !there {
            packages.push(package);
        }
    }
    packages
}

fn install(packages: &[&str]) -> anyhow::Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if !has("apt-get") {
        bail!(
            "this machine lacks {} and has no apt-get: install them",
            packages.join(" ")
        );
    }
    eprintln!("xtask: installing {}", packages.join(" "));
    let apt = |args: &[&str]| {
        run(Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args([
                "-qq",
                "-o",
                "DPkg::Lock::Timeout=600",
                "-o",
                "Dpkg::Use-Pty=0",
            ])
            .args(args)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null()))
    };
    apt(&["update"]).context("apt-get update (package registries reachable? root?)")?;
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend(packages);
    // A web server that apt starts would take ports; we run our own instances by hand.
    let policy = Path::new("/usr/sbin/policy-rc.d");
    let ours = !policy.exists() && std::fs::write(policy, "#!/bin/sh\nexit 101\n").is_ok();
    if ours {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(policy, std::fs::Permissions::from_mode(0o755))?;
    }
    let done = apt(&args);
    if ours {
        std::fs::remove_file(policy)?;
    }
    done
}
