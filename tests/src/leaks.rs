//! Nothing may stay: what exists on the host because of one daemon, counted by name.
//!
//! A [`Snapshot`] is a multiset of (kind, name). Names are made comparable between sessions (session ids become `*`), and
//! every entry keeps an example. The procedure is the security bar's §6: warm up, [`Snapshot::steady`], run,
//! [`Snapshot::settle`] until a second snapshot equals the first, bounded; the difference is the finding.
//!
//! Kinds: process, zombie, cgroup, mount, loop (devices that hold session storage), namespace, descriptor (of broker and launcher, by what it is: pidfd, memfd,
//! socket, …), uid (processes that run as a session's), range (of uids, as the daemon's own store has them given out), runtime (entries of the runtime directory), state (directories of the state directory but for
//! artifacts, bases, session storage and the logs of sessions that are over, which are kept on purpose), sysv (objects of any session's uid).

use crate::daemon::Daemon;
use crate::{cgroup, host, storage, sysv, wait};
use anyhow::{Context as _, ensure};
use proto::api::{Origin, Session};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

/// What one daemon has on the host now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    entries: BTreeMap<(String, String), Vec<String>>,
    /// Whether sessions of nobody's were among it: members of pools, templates.
    waiting: bool,
}

/// One difference between two snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `process`, `cgroup`, …
    pub kind: String,
    /// Comparable name.
    pub name: String,
    /// How many there were.
    pub before: usize,
    /// How many there are.
    pub after: usize,
    /// Some of them in full.
    pub examples: Vec<String>,
}

/// The ledger's own for at most a second or two after an invocation.
const JOURNAL: &str = "ledger.journal.";

impl Snapshot {
    /// Looks now.
    pub fn take(daemon: &Daemon) -> anyhow::Result<Self> {
        let mut snapshot = Self::default();
        let broker = daemon.pid();
        let launcher = daemon.launcher()?;
        let instance = daemon.instance();
        let own = [broker, launcher];

        for pid in cgroup::members_named(instance) {
            if own.contains(&pid) {
                continue;
            }
            let title = host::title(pid);
            snapshot.add("process", &title, format!("{pid} {title}"));
            if let Ok(uid) = host::uid(pid) {
                snapshot.add("uid", "of a session", format!("{uid} ({pid} {title})"));
            }
            for (kind, inode) in host::namespaces(pid).unwrap_or_default() {
                snapshot.add("namespace", kind, format!("{kind}:[{inode}] ({pid})"));
            }
        }
        for parent in own {
            for child in host::children(parent) {
                if host::state(child) == Some('Z') {
                    snapshot.add("zombie", "child", format!("{child} of {parent}"));
                } else if !own.contains(&child) {
                    let title = host::title(child);
                    snapshot.add("process", &title, format!("{child} {title}"));
                }
            }
        }
        for dir in cgroup::named(instance) {
            let name = dir.display().to_string();
            snapshot.add("cgroup", &name, name.clone());
        }
        let dirs = [daemon.state_dir(), daemon.runtime_dir()];
        for pid in [std::process::id().cast_signed(), broker, launcher] {
            for line in host::mountinfo(pid) {
                let point = line.split(' ').nth(4).unwrap_or_default();
                if dirs.iter().any(|d| Path::new(point).starts_with(d)) {
                    snapshot.add("mount", point, line.clone());
                }
            }
        }
        for device in storage::loop_devices(&daemon.state_dir()) {
            snapshot.add("loop", "device", device);
        }
        for (who, pid) in [("broker", broker), ("launcher", launcher)] {
            for descriptor in host::descriptors(pid)? {
                if descriptor.target.contains(JOURNAL) {
                    continue;
                }
                let kind = what(&descriptor.target);
                snapshot.add(
                    "descriptor",
                    &format!("{who} {kind}"),
                    format!("{who} {} ▸ {}", descriptor.number, descriptor.target),
                );
            }
        }
        snapshot.tree("runtime", &daemon.runtime_dir(), 4);
        snapshot.tree("state", &daemon.state_dir(), 4);
        let ranges = ranges(daemon)?;
        for (base, sessions) in &ranges {
            for _ in 0..*sessions {
                snapshot.add("range", "given out", format!("{base}"));
            }
        }
        snapshot.sysv();
        Ok(snapshot)
    }

    /// Looks until it has seen the same twice, more than a second apart: a daemon that has just started is still filling its
    /// store of prepared places, and opens the meters of a new session at the next second's reading.
    pub fn steady(daemon: &Daemon) -> anyhow::Result<Self> {
        let mut last = Self::take(daemon)?;
        let mut steady = wait::until(20, "a steady state", || {
            std::thread::sleep(std::time::Duration::from_millis(1200));
            let now = Self::take(daemon)?;
            let same = last.difference(&now).is_empty();
            last = now;
            Ok(same.then(|| last.clone()))
        })?;
        let live = daemon.client().sessions("pool=true&live=true")?;
        steady.waiting = live.iter().any(is_waiting);
        Ok(steady)
    }

    /// The same once nothing waits any more; from then on whatever waits goes as soon as it is unused.
    pub fn bare(daemon: &Daemon) -> anyhow::Result<Self> {
        daemon.keep_nothing_waiting()?;
        let client = daemon.client();
        wait::until_true(20, "what waits to go", || {
            let live = client.sessions("pool=true&live=true")?;
            Ok(!live.iter().any(is_waiting))
        })?;
        Self::steady(daemon)
    }

    fn add(&mut self, kind: &str, name: &str, example: String) {
        self.entries
            .entry((kind.to_owned(), comparable(name)))
            .or_default()
            .push(example);
    }

    fn tree(&mut self, kind: &str, dir: &Path, depth: u32) {
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Kept on purpose, and as many as were uploaded.
            if kind == "state"
                && matches!(
                    name.as_str(),
                    "bases" | "artifacts" | "bundles" | "logs" | "storage"
                )
            {
                continue;
            }
            // The database's own files come and go with its transactions, the ledger's journal with invocations, its signatures
            // with its first records.
            if name.ends_with("-wal")
                || name.ends_with("-shm")
                || name.ends_with("-journal")
                || name == "ledger.checkpoints"
                || name.starts_with(JOURNAL)
            {
                continue;
            }
            let path = entry.path();
            self.add(
                kind,
                &path.display().to_string(),
                path.display().to_string(),
            );
            if depth > 0 && entry.file_type().is_ok_and(|t| t.is_dir()) {
                self.tree(kind, &path, depth - 1);
            }
        }
    }

    fn sysv(&mut self) {
        for object in sysv::of_sessions() {
            self.add("sysv", object.kind, object.line);
        }
    }

    /// What `later` has more or fewer of.
    #[must_use]
    pub fn difference(&self, later: &Self) -> Vec<Difference> {
        let keys: BTreeSet<_> = self.entries.keys().chain(later.entries.keys()).collect();
        keys.into_iter()
            .filter_map(|key| {
                let before = self.entries.get(key).map_or(0, Vec::len);
                let after = later.entries.get(key).map_or(0, Vec::len);
                (before != after).then(|| Difference {
                    kind: key.0.clone(),
                    name: key.1.clone(),
                    before,
                    after,
                    examples: later
                        .entries
                        .get(key)
                        .map(|all| all.iter().take(3).cloned().collect())
                        .unwrap_or_default(),
                })
            })
            .collect()
    }

    /// Waits (at most 10 s) until the daemon's footprint is this one again. If there was none before, it first has pools and
    /// templates go, as those of a runtime go that nobody calls any more.
    pub fn settle(&self, daemon: &Daemon) -> anyhow::Result<()> {
        if self.waiting {
            return self.wait_for(daemon);
        }
        let text = daemon.keep_nothing_waiting()?;
        self.wait_for(daemon)?;
        daemon.reconfigure(&text)
    }

    fn wait_for(&self, daemon: &Daemon) -> anyhow::Result<()> {
        let mut last = Vec::new();
        let settled = wait::until_true(10, "the host to be as before", || {
            last = self.difference(&Self::take(daemon)?);
            Ok(last.is_empty())
        });
        settled.map_err(|_| anyhow::anyhow!("leaked: {last:#?}"))
    }

    /// How many entries of one kind.
    #[must_use]
    pub fn count(&self, kind: &str) -> usize {
        self.entries
            .iter()
            .filter(|((k, _), _)| k == kind)
            .map(|(_, all)| all.len())
            .sum()
    }
}

fn is_waiting(session: &Session) -> bool {
    matches!(session.origin, Some(Origin::Waiting | Origin::Template))
}

/// Every range of uids that a session of this daemon has ever had, by its first, and how many sessions have it now: those
/// without an end. Read from the store itself, since what the API tells of a session may come from elsewhere.
fn ranges(daemon: &Daemon) -> anyhow::Result<BTreeMap<u32, usize>> {
    const READ: &str = "import sqlite3, sys\n\
        store = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True, timeout=10)\n\
        for row in store.execute('SELECT uid_base, sum(ended_at IS NULL) FROM sessions GROUP BY uid_base'): print(*row)\n";
    let out = Command::new("/usr/bin/python3")
        .args(["-I", "-S", "-c", READ])
        .arg(daemon.state_dir().join("broker/agentcore.db"))
        .output()?;
    ensure!(
        out.status.success(),
        "the store: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout)?
        .lines()
        .map(|line| {
            let (base, sessions) = line.split_once(' ').context("two columns")?;
            Ok((base.parse()?, sessions.parse()?))
        })
        .collect()
}

/// A name without what differs between sessions: every word that has the form of a session's id becomes `*`.
fn comparable(name: &str) -> String {
    let mut out = String::new();
    for part in name.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let word = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let id = (14..=26).contains(&word.len())
            && word.starts_with(|c: char| c.is_ascii_lowercase())
            && word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        out.push_str(if id { "*" } else { word });
        out.push_str(&part[word.len()..]);
    }
    out
}

/// What kind of thing a descriptor is, without its number.
fn what(target: &str) -> String {
    match target.split_once(':') {
        Some((
            kind @ ("socket" | "pipe" | "anon_inode" | "net" | "mnt" | "pid" | "user"),
            rest,
        )) => {
            if kind == "anon_inode" {
                rest.to_owned()
            } else {
                kind.to_owned()
            }
        }
        _ if target.starts_with("/memfd:") => "memfd".to_owned(),
        _ => comparable(target),
    }
}

/// What is there of an instance whose daemon is gone: must be nothing.
pub fn of_instance(instance: &str, runtime: &Path, state: &Path) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    let found = wait::until_true(10, "the instance to be gone", || {
        left.clear();
        for pid in cgroup::members_named(instance) {
            left.push(format!("process {pid} {}", host::title(pid)));
        }
        for pid in host::all_pids() {
            let title = host::title(pid);
            if title.contains(&*runtime.to_string_lossy())
                || title.contains(&*state.to_string_lossy())
            {
                left.push(format!("process {pid} {title}"));
            }
        }
        for dir in cgroup::named(instance) {
            left.push(format!("cgroup {}", dir.display()));
        }
        for dir in [runtime, state] {
            for device in storage::loop_devices(dir) {
                left.push(format!("loop device {device}"));
            }
            // At the directory itself is a test's own (`smalldisk`).
            for mount in host::mounts_below(dir).iter().filter(|mount| *mount != dir) {
                left.push(format!("mount {}", mount.display()));
            }
        }
        if let Ok(entries) = fs::read_dir(runtime.join("sessions")) {
            for entry in entries.flatten() {
                left.push(format!("directory {}", entry.path().display()));
            }
        }
        Ok(left.is_empty())
    });
    Ok(if found.is_ok() { Vec::new() } else { left })
}

/// Owner of a path.
pub fn owner(path: &Path) -> anyhow::Result<(u32, u32, u32)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.uid(), meta.gid(), meta.mode() & 0o7777))
}
