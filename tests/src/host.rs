//! The host's own view of processes: what `/proc` says, never what the daemon says.

use anyhow::Context as _;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Every process id there is.
#[must_use]
pub fn all_pids() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect()
}

/// Whether a process is there and not a zombie.
#[must_use]
pub fn alive(pid: i32) -> bool {
    state(pid).is_some_and(|s| s != 'Z' && s != 'X')
}

/// State letter of a process.
#[must_use]
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Start time in clock ticks since boot: with the pid, a process's identity.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// What the process calls itself (at most 15 characters).
#[must_use]
pub fn name(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// All of the host's memory, bytes.
pub fn memory() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"));
    let kilobytes: u64 = line
        .and_then(|line| line.split_whitespace().nth(1))
        .context("MemTotal")?
        .parse()?;
    Ok(kilobytes * 1024)
}

/// Command line, words joined by spaces.
#[must_use]
pub fn title(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .replace('\0', " ")
        .trim()
        .to_owned()
}

/// Children of all of a process's threads.
#[must_use]
pub fn children(pid: i32) -> Vec<i32> {
    tasks(pid)
        .into_iter()
        .filter_map(|tid| fs::read_to_string(format!("/proc/{pid}/task/{tid}/children")).ok())
        .flat_map(|text| {
            text.split_whitespace()
                .filter_map(|w| w.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// All processes of a session, by its shim, which is the first: those of its pid namespace. (An agent that is a fork is no child of the
/// shim, and what is below a template is in namespaces of its own.)
#[must_use]
pub fn processes(shim: i32) -> Vec<i32> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(shim);
    let others = all_pids().into_iter().filter(|pid| *pid != shim);
    let others = others.filter(|pid| own.is_some() && namespace(*pid) == own);
    std::iter::once(shim).chain(others).collect()
}

/// The agent of a session, by its shim: that one's first child, or, if it is a fork, the one whose parent is elsewhere.
#[must_use]
pub fn agent(shim: i32) -> Option<i32> {
    if !is_forked(shim).ok()? {
        return children(shim).into_iter().next();
    }
    let all = processes(shim);
    let parent = |pid: i32| status(pid, pid).ok()?.remove("PPid")?.parse::<i32>().ok();
    let strange = |pid: &i32| parent(*pid).is_some_and(|parent| !all.contains(&parent));
    all.iter().skip(1).copied().find(|pid| strange(pid))
}

/// Whether a session's agent is a fork, by its shim: its pid namespace is then below that of a template.
pub fn is_forked(shim: i32) -> anyhow::Result<bool> {
    let numbers = status(shim, shim)?.remove("NSpid").context("NSpid")?;
    Ok(numbers.split_whitespace().count() > 2)
}

/// The number of a process in its own pid namespace.
pub fn number_inside(pid: i32) -> anyhow::Result<i32> {
    let numbers = status(pid, pid)?.remove("NSpid").context("NSpid")?;
    let last = numbers.split_whitespace().last().context("a number")?;
    Ok(last.parse()?)
}

/// What a session was promised of inotify.
#[derive(Debug, Clone, Copy)]
pub struct Inotify {
    /// Open instances: all that the host gives one owner, or, if it is below a template, a share of it (`sandbox/src/share.rs`).
    pub instances: u32,
    /// Watches: a few of such a share in any case. All would take a probe too long.
    pub watches: u32,
    /// The share that a session below a template has of them.
    pub share_of_watches: u32,
}

/// The same, by its shim.
pub fn inotify_promised(shim: i32) -> anyhow::Result<Inotify> {
    let of_host = |name: &str| -> anyhow::Result<u32> {
        let text = fs::read_to_string(format!("/proc/sys/fs/inotify/{name}"))?;
        Ok(text.trim().parse()?)
    };
    let share = |all: u32| (all / 128).max(1);
    let instances = of_host("max_user_instances")?;
    let share_of_watches = share(of_host("max_user_watches")?);
    let forked = is_forked(shim)?;
    Ok(Inotify {
        instances: if forked { share(instances) } else { instances },
        watches: share_of_watches.min(512),
        share_of_watches,
    })
}

/// Threads of a process.
#[must_use]
pub fn tasks(pid: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect()
}

/// Fields of a task's `status`.
pub fn status(pid: i32, tid: i32) -> anyhow::Result<BTreeMap<String, String>> {
    let path = format!("/proc/{pid}/task/{tid}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(k, v)| (k.to_owned(), v.trim().to_owned()))
        .collect())
}

/// The first of the four uids of a process.
pub fn uid(pid: i32) -> anyhow::Result<u32> {
    real(pid, "Uid")
}

/// Real gid of a process.
pub fn gid(pid: i32) -> anyhow::Result<u32> {
    real(pid, "Gid")
}

fn real(pid: i32, line: &str) -> anyhow::Result<u32> {
    let status = status(pid, pid)?;
    status
        .get(line)
        .and_then(|v| v.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("{line} line"))
}

/// CPU time that a process has used, seconds.
pub fn cpu_seconds(pid: i32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
    // utime and stime are fields 14 and 15, the state is 3; in ticks, of which there are 100 to a second on every Linux.
    let ticks: Vec<f64> = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// Resident memory of a process in bytes.
pub fn rss(pid: i32) -> anyhow::Result<u64> {
    let status = status(pid, pid)?;
    let kib: u64 = status
        .get("VmRSS")
        .and_then(|v| v.split_whitespace().next()?.parse().ok())
        .context("VmRSS line")?;
    Ok(kib * 1024)
}

/// Kinds of namespaces that a session has of its own.
pub const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// Inode of each namespace of a process.
pub fn namespaces(pid: i32) -> anyhow::Result<BTreeMap<&'static str, u64>> {
    NAMESPACES
        .into_iter()
        .map(|kind| {
            let path = format!("/proc/{pid}/ns/{kind}");
            let inode = fs::metadata(&path).with_context(|| path.clone())?.ino();
            Ok((kind, inode))
        })
        .collect()
}

/// An open descriptor of a process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Descriptor {
    /// Its number.
    pub number: i32,
    /// Where `/proc/PID/fd/N` points.
    pub target: String,
    /// Whether it closes on exec.
    pub cloexec: bool,
}

/// Descriptors of a process.
pub fn descriptors(pid: i32) -> anyhow::Result<Vec<Descriptor>> {
    let dir = format!("/proc/{pid}/fd");
    let mut all = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| dir.clone())?.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        // It may be closed by now.
        let Ok(target) = fs::read_link(entry.path()) else {
            continue;
        };
        let Ok(info) = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")) else {
            continue;
        };
        let flags = info
            .lines()
            .find_map(|l| l.strip_prefix("flags:"))
            .and_then(|f| u32::from_str_radix(f.trim(), 8).ok())
            .unwrap_or(0);
        all.push(Descriptor {
            number,
            target: target.to_string_lossy().into_owned(),
            cloexec: flags & 0o2_000_000 != 0,
        });
    }
    all.sort();
    Ok(all)
}

/// Lines of a process's mount table.
#[must_use]
pub fn mountinfo(pid: i32) -> Vec<String> {
    fs::read_to_string(format!("/proc/{pid}/mountinfo"))
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Mount points at or below `dir` in our own mount namespace, innermost first.
#[must_use]
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = mountinfo(i32::try_from(std::process::id()).unwrap_or(0))
        .iter()
        .filter_map(|line| Some(PathBuf::from(line.split(' ').nth(4)?)))
        .filter(|point| point.starts_with(dir))
        .collect();
    found.reverse();
    found
}

/// Environment of a process.
pub fn environment(pid: i32) -> anyhow::Result<BTreeMap<String, String>> {
    let path = format!("/proc/{pid}/environ");
    let bytes = fs::read(&path).with_context(|| path.clone())?;
    Ok(String::from_utf8_lossy(&bytes)
        .split('\0')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect())
}

/// A process and all its descendants.
#[must_use]
pub fn tree(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(next) = all.get(at).copied() {
        all.extend(children(next));
        at += 1;
    }
    all
}

/// Memory of this host that processes could have, in bytes.
pub fn memory_available() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib: u64 = text
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))
        .and_then(|v| v.split_whitespace().next()?.parse().ok())
        .context("MemAvailable")?;
    Ok(kib * 1024)
}
