//! Who may depend on whom (architecture §3), and where `unsafe` may be. Tier: pure model (reads `cargo metadata`).

use anyhow::{Context as _, ensure};
use e2e::{Result, ground, places};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Our crate ▸ our crates that it may depend on (build and ordinary dependencies; tests may use more).
const ALLOWED: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("session-core", &["proto"]),
    ("sandbox", &["proto"]),
    ("supervisor", &["proto", "session-core", "sandbox"]),
    ("worker-shim", &["proto", "sandbox"]),
    ("agentcore-cli", &["proto"]),
    ("e2e", &["proto"]),
    ("xtask", &["proto", "e2e"]),
    ("native-agent", &[]),
];

/// What crates without I/O, clock and async must not have, and what must stay out of privileged processes.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "proto",
        &[
            "tokio", "hyper", "nix", "libc", "rusqlite", "rand", "chrono", "time",
        ],
    ),
    (
        "session-core",
        &[
            "tokio", "hyper", "nix", "libc", "rusqlite", "rand", "chrono", "time",
        ],
    ),
    (
        "sandbox",
        &[
            "tokio", "hyper", "axum", "rusqlite", "toml", "zip", "tar", "flate2",
        ],
    ),
    (
        "worker-shim",
        &["tokio", "hyper", "axum", "rusqlite", "zip", "tar", "flate2"],
    ),
];

struct Package {
    direct: BTreeSet<String>,
    all: BTreeSet<String>,
    sources: Vec<std::path::PathBuf>,
}

fn packages() -> anyhow::Result<BTreeMap<String, Package>> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version=1", "--locked"])
        .current_dir(places::source())
        .output()
        .context("cargo metadata")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut names = BTreeMap::new();
    for package in list(&metadata["packages"]) {
        names.insert(text(&package["id"]), package);
    }
    // Ordinary and build dependencies only: `kind` is null or "build".
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        let to = list(&node["deps"])
            .iter()
            .filter(|d| list(&d["dep_kinds"]).iter().any(|k| k["kind"] != "dev"))
            .map(|d| text(&d["pkg"]))
            .collect();
        edges.insert(text(&node["id"]), to);
    }
    let name = |id: &String| text(&names[id]["name"]);
    let mut found = BTreeMap::new();
    for member in list(&metadata["workspace_members"]) {
        let id = text(&member);
        let mut all = BTreeSet::new();
        let mut queue = vec![id.clone()];
        while let Some(next) = queue.pop() {
            for dep in &edges[&next] {
                if all.insert(dep.clone()) {
                    queue.push(dep.clone());
                }
            }
        }
        let sources = list(&names[&id]["targets"])
            .iter()
            .map(|t| text(&t["src_path"]).into())
            .collect();
        found.insert(
            name(&id),
            Package {
                direct: edges[&id].iter().map(name).collect(),
                all: all.iter().map(name).collect(),
                sources,
            },
        );
    }
    Ok(found)
}

#[test]
fn our_crates_depend_downhill_only() -> Result {
    ground!(Files);
    let packages = packages()?;
    let ours: BTreeSet<_> = packages.keys().cloned().collect();
    let listed: BTreeSet<_> = ALLOWED.iter().map(|(n, _)| (*n).to_owned()).collect();
    assert_eq!(
        ours, listed,
        "a crate came or went: say here who may use it"
    );
    for (name, allowed) in ALLOWED {
        let used: BTreeSet<_> = packages[*name]
            .direct
            .intersection(&ours)
            .cloned()
            .collect();
        let allowed: BTreeSet<_> = allowed.iter().map(|n| (*n).to_owned()).collect();
        let more: Vec<_> = used.difference(&allowed).collect();
        assert!(more.is_empty(), "{name} depends on {more:?}");
    }
    Ok(())
}

#[test]
fn decisions_have_no_io_and_privilege_has_no_parser() -> Result {
    ground!(Files);
    let packages = packages()?;
    for (name, forbidden) in FORBIDDEN {
        for bad in *forbidden {
            assert!(!packages[*name].all.contains(*bad), "{name} reaches {bad}");
        }
    }
    Ok(())
}

#[test]
fn only_the_sandbox_may_be_unsafe() -> Result {
    ground!(Files);
    for (name, package) in packages()? {
        for root in &package.sources {
            // Integration tests of a crate are targets of their own; the rule is about what ships.
            if root.components().any(|c| c.as_os_str() == "tests") && name != "e2e" {
                continue;
            }
            if name == "e2e" && !root.ends_with("src/lib.rs") {
                continue;
            }
            let text = std::fs::read_to_string(root).with_context(|| root.display().to_string())?;
            let forbids = text.contains("#![forbid(unsafe_code)]");
            if name == "sandbox" {
                assert!(!forbids, "the sandbox needs unsafe");
            } else {
                assert!(forbids, "{} lacks #![forbid(unsafe_code)]", root.display());
            }
        }
    }
    // And within it, only below sys/.
    let mut queue = vec![places::source().join("sandbox/src")];
    while let Some(dir) = queue.pop() {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                if !path.ends_with("sys") {
                    queue.push(path);
                }
                continue;
            }
            let text = std::fs::read_to_string(&path)?;
            let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
            for line in code {
                let bad = line.contains("unsafe {")
                    || line.contains("unsafe fn")
                    || line.contains("unsafe impl");
                assert!(
                    !bad,
                    "unsafe outside sandbox/src/sys: {}: {line}",
                    path.display()
                );
            }
        }
    }
    Ok(())
}
