//! Licences, bans and sources of every dependency against `deny.toml`: what `cargo deny` does offline, from
//! `cargo metadata`, because building cargo-deny takes longer than all our own code. Where it is installed, it runs too.
//!
//! Advisories need a database that lives in a git repository and is no package of any registry: they are checked where
//! cargo-deny and a copy of it are there (`cargo deny fetch`), and counted as skipped where not.

use crate::command::{cargo, has, root, run as run_command};
use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The part of `deny.toml` that is read here; cargo-deny reads all of it.
#[derive(Deserialize)]
struct Policy {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
}

#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Banned>,
    #[serde(default)]
    skip: Vec<Banned>,
}

#[derive(Deserialize)]
struct Banned {
    #[serde(rename = "crate")]
    name: String,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Sources {
    #[serde(rename = "allow-registry")]
    allow_registry: Vec<String>,
}

/// Why advisories were not checked, if they were not.
pub(crate) fn run() -> anyhow::Result<Option<&'static str>> {
    let policy = std::fs::read_to_string(root().join("deny.toml")).context("read deny.toml")?;
    let policy: Policy = toml::from_str(&policy).context("deny.toml")?;
    let output = cargo()
        .args(["metadata", "--format-version=1", "--locked"])
        .output()
        .context("cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let (faults, notes) = check(&policy, packages);
    for note in notes {
        eprintln!("xtask: note: {note}");
    }
    let mut unchecked = Some("cargo-deny is not installed");
    if has("cargo-deny") {
        let mut command = cargo();
        command.args(["deny", "--offline", "check", "licenses", "bans", "sources"]);
        unchecked = Some("there is no copy of the database (cargo deny fetch)");
        if home_has_advisories() {
            command.arg("advisories");
            unchecked = None;
        }
        run_command(&mut command)?;
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n       "));
    println!(
        "{} packages: licences, bans and sources are within deny.toml",
        packages.len()
    );
    Ok(unchecked)
}

/// Where cargo-deny keeps databases that it has fetched.
fn home_has_advisories() -> bool {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| {
            let home = std::env::var_os("HOME")?;
            Some(PathBuf::from(home).join(".cargo"))
        });
    home.and_then(|home| std::fs::read_dir(home.join("advisory-dbs")).ok())
        .is_some_and(|mut entries| entries.next().is_some())
}

fn check(policy: &Policy, packages: &[Value]) -> (Vec<String>, Vec<String>) {
    let mut faults = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let version = package["version"].as_str().unwrap_or_default();
        let what = format!("{name} {version}");
        versions.entry(name).or_default().insert(version);
        if let Some(banned) = policy.bans.deny.iter().find(|b| b.name == name) {
            faults.push(format!("{what} is banned: {}", banned.reason));
        }
        match package["source"].as_str() {
            // A member of this workspace.
            None => {}
            Some(source) => {
                let registry = source.strip_prefix("registry+").unwrap_or(source);
                if !policy.sources.allow_registry.iter().any(|r| r == registry) {
                    faults.push(format!("{what} comes from {source}"));
                }
            }
        }
        if let Err(fault) = licensed(policy, name, package["license"].as_str()) {
            faults.push(format!("{what}: {fault}"));
        }
    }
    let notes = versions
        .into_iter()
        .filter(|(name, v)| v.len() > 1 && !policy.bans.skip.iter().any(|s| s.name == *name))
        .map(|(name, v)| {
            let all: Vec<_> = v.into_iter().collect();
            format!("{name} is there in several versions: {}", all.join(", "))
        })
        .collect();
    (faults, notes)
}

fn licensed(policy: &Policy, name: &str, expression: Option<&str>) -> Result<(), String> {
    let text = expression.ok_or("has no licence expression")?;
    let expression = spdx::Expression::parse_mode(text, spdx::ParseMode::LAX)
        .map_err(|e| format!("licence {text:?}: {}", e.reason))?;
    let own = policy.licenses.exceptions.iter().filter(|e| e.name == name);
    let allowed: BTreeSet<&str> = policy
        .licenses
        .allow
        .iter()
        .chain(own.flat_map(|e| &e.allow))
        .map(String::as_str)
        .collect();
    if expression.evaluate(|needed| allowed.contains(needed.to_string().as_str())) {
        Ok(())
    } else {
        Err(format!("licence {text:?} is not allowed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy() -> Policy {
        toml::from_str(
            r#"
            [licenses]
            allow = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]
            exceptions = [{ crate = "odd", allow = ["Zlib"] }]
            [bans]
            deny = [{ crate = "openssl-sys", reason = "one TLS stack" }]
            [sources]
            allow-registry = ["https://github.com/rust-lang/crates.io-index"]
            "#,
        )
        .expect("well-formed")
    }

    fn faults(name: &str, license: Option<&str>, source: Option<&str>) -> Vec<String> {
        let package =
            json!({"name": name, "version": "1.0.0", "license": license, "source": source});
        check(&policy(), &[package]).0
    }

    #[test]
    fn a_choice_of_licences_needs_one_and_a_sum_needs_all() {
        let crates = Some("registry+https://github.com/rust-lang/crates.io-index");
        assert!(faults("a", Some("MIT OR GPL-3.0-only"), crates).is_empty());
        assert!(faults("a", Some("MIT/Apache-2.0"), crates).is_empty());
        assert!(faults("a", Some("Apache-2.0 WITH LLVM-exception"), crates).is_empty());
        assert_eq!(faults("a", Some("MIT AND GPL-3.0-only"), crates).len(), 1);
        assert_eq!(faults("a", Some("Zlib"), crates).len(), 1);
        assert!(faults("odd", Some("Zlib"), crates).is_empty());
        assert_eq!(faults("a", None, crates).len(), 1);
    }

    #[test]
    fn bans_and_foreign_sources_are_faults() {
        assert_eq!(faults("openssl-sys", Some("MIT"), None).len(), 1);
        assert_eq!(
            faults("a", Some("MIT"), Some("git+https://example.com/a")).len(),
            1
        );
        assert!(faults("a", Some("MIT"), None).is_empty());
    }
}
