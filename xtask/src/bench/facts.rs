//! Where and with what was measured: without it a figure means nothing.

use super::subject::Subject;
use crate::command::root;
use anyhow::Context as _;
use e2e::places;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::process::Command;
use std::time::Duration;

#[derive(Debug, Serialize)]
pub(crate) struct Facts {
    processor: String,
    processors: usize,
    memory: String,
    kernel: String,
    /// What was in memory of files: nothing is thrown out of the page cache, and each row has runs that do not count first.
    cache: String,
    /// Program ▸ its version.
    versions: BTreeMap<String, String>,
    /// Load averages before and after: how busy others kept this machine.
    load: Vec<String>,
    seconds: u64,
}

fn field(path: &str, name: &str) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    Ok(text
        .lines()
        .find(|line| line.starts_with(name))
        .and_then(|line| line.split_once(':'))
        .map_or_else(String::new, |(_, value)| value.trim().to_owned()))
}

fn load() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// First line of what one of this host's programs prints about itself.
fn version(program: &str, argument: &str) -> anyhow::Result<String> {
    let path = "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin";
    first_line(Command::new(program).arg(argument).env("PATH", path))
}

fn first_line(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .current_dir(root())
        .output()
        .with_context(|| format!("start {}", command.get_program().to_string_lossy()))?;
    // nginx tells it where others complain.
    let told = match output.stdout.is_empty() {
        true => &output.stderr,
        false => &output.stdout,
    };
    let text = String::from_utf8_lossy(told);
    Ok(text.lines().next().unwrap_or("").trim().to_owned())
}

/// What the example of the AWS SDK, which is measured, is pinned to.
fn requirement(package: &str) -> anyhow::Result<String> {
    let list = places::example("aws_sdk").join("requirements.txt");
    let text = std::fs::read_to_string(&list).with_context(|| list.display().to_string())?;
    let line = text.lines().find(|line| line.starts_with(package));
    Ok(line.context("not in its list")?.to_owned())
}

pub(crate) fn of_this_host(subject: &Subject) -> anyhow::Result<Facts> {
    let info = subject.client().info()?;
    let commit = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(root())
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default();
    let versions = [
        ("agentcored", format!("{} {commit}", info.version)),
        ("bwrap", version("bwrap", "--version")?),
        ("runc", version("runc", "--version")?),
        ("systemd-nspawn", version("systemd-nspawn", "--version")?),
        ("haproxy", version("haproxy", "-v")?),
        ("nginx", version("nginx", "-v")?),
        ("python3", version("/usr/bin/python3", "--version")?),
        // Wherever this user has it.
        ("rustc", first_line(Command::new("rustc").arg("--version"))?),
        ("AWS SDK", requirement("bedrock-agentcore")?),
    ];
    Ok(Facts {
        processor: field("/proc/cpuinfo", "model name")?,
        processors: std::thread::available_parallelism()?.get(),
        memory: field("/proc/meminfo", "MemTotal")?,
        kernel: info.kernel,
        cache: format!("warm, {}", field("/proc/meminfo", "Cached")?),
        versions: versions
            .into_iter()
            .map(|(name, version)| (name.to_owned(), version))
            .collect(),
        load: vec![load()?],
        seconds: 0,
    })
}

impl Facts {
    pub(crate) fn finish(&mut self, took: Duration) -> anyhow::Result<()> {
        self.load.push(load()?);
        self.seconds = took.as_secs();
        Ok(())
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} × {}, {}, Linux {}; page cache {}; load {}; {} s",
            self.processors,
            self.processor,
            self.memory,
            self.kernel,
            self.cache,
            self.load.join(" ▸ "),
            self.seconds
        )?;
        let versions: Vec<_> = self
            .versions
            .iter()
            .map(|(name, version)| format!("{name}: {version}"))
            .collect();
        writeln!(f, "{}", versions.join("; "))
    }
}
