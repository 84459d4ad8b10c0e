//! What the launcher looks at before a forked agent hears a request.
//!
//! The fork gave up its privileges itself, in memory that untrusted imports have touched before. Whether it really did is
//! therefore seen from outside, by someone whom no import has touched: only what the kernel says of the process counts.
//! A process that passes has nothing left with which it could undo what was looked at: no capability, no way to another
//! namespace, no descriptor and no memory that anyone outside its session has as well.
//!
//! Not for: the cgroup, whose members its owner lists (`supervisor`'s launcher): they must be the shim and this process.

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Namespaces of a process that must be its session's.
const NAMESPACES: [&str; 7] = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"];

/// Descriptors of a fork that waits to be looked at: standard input, output, error, and the channel to its shim.
pub const OPEN_DESCRIPTORS: [&str; 4] = ["0", "1", "2", "3"];

/// Filters of a template and its forks: two of its own, and the one that each fork adds.
pub const FILTERS: u32 = 3;

/// Where files lie that a session cannot write.
const READ_ONLY: [&str; 2] = ["/usr/", "/app/"];

/// A fork, and whose it is, all by their numbers on the host.
#[derive(Debug, Clone, Copy)]
pub struct Fork {
    /// The process to look at.
    pub agent: Pid,
    /// PID 1 of its session.
    pub shim: Pid,
    /// PID 1 of the template: who reaps it.
    pub template: Pid,
    /// Its uid and gid.
    pub uid: u32,
}

/// Why a fork is not let through.
#[derive(Debug, thiserror::Error)]
pub enum Finding {
    /// It is not what it must be.
    #[error("{what} of the forked agent is {found}, not {expected}")]
    Differs {
        /// What was looked at.
        what: &'static str,
        /// What was found.
        found: String,
        /// What must be there.
        expected: String,
    },
    /// It could not be looked at: it has ended.
    #[error("cannot look at {what} of the forked agent")]
    Unseen {
        /// What was looked at.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Looks.
pub fn inspect(fork: &Fork) -> Result<(), Finding> {
    status(fork)?;
    namespaces(fork)?;
    places(fork)?;
    descriptors(fork)?;
    mappings(fork)
}

fn unseen(what: &'static str) -> impl FnOnce(io::Error) -> Finding {
    move |source| Finding::Unseen { what, source }
}

fn same(what: &'static str, found: &str, expected: impl Display) -> Result<(), Finding> {
    let expected = expected.to_string();
    if found == expected {
        return Ok(());
    }
    Err(Finding::Differs {
        what,
        found: found.chars().take(80).collect(),
        expected,
    })
}

fn status(fork: &Fork) -> Result<(), Finding> {
    let text = fs::read(format!("/proc/{}/status", fork.agent)).map_err(unseen("status"))?;
    let text = String::from_utf8_lossy(&text);
    // The kernel escapes line feeds in the name, so no line is the process's own. The first of a kind counts.
    let mut lines = BTreeMap::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
        lines.entry(key).or_insert(value.trim());
    }
    let none = "0000000000000000";
    let ids = [fork.uid; 4].map(|id| id.to_string()).join("\t");
    let expected: [(&'static str, String); 13] = [
        ("Uid", ids.clone()),
        ("Gid", ids),
        ("Groups", String::new()),
        ("CapInh", none.to_owned()),
        ("CapPrm", none.to_owned()),
        ("CapEff", none.to_owned()),
        ("CapBnd", none.to_owned()),
        ("CapAmb", none.to_owned()),
        ("NoNewPrivs", "1".to_owned()),
        ("Seccomp_filters", FILTERS.to_string()),
        ("Threads", "1".to_owned()),
        ("TracerPid", "0".to_owned()),
        // Else nobody might ever reap it, and PID 1 of its session would wait for that for ever.
        ("PPid", fork.template.to_string()),
    ];
    expected
        .iter()
        .try_for_each(|(key, value)| same(key, lines.get(key).unwrap_or(&"unknown"), value))
}

fn namespaces(fork: &Fork) -> Result<(), Finding> {
    NAMESPACES.into_iter().try_for_each(|name| {
        let of = |pid: Pid| fs::read_link(format!("/proc/{pid}/ns/{name}"));
        let (found, expected) = (of(fork.agent), of(fork.shim));
        let found = found.map_err(unseen("namespaces"))?;
        let expected = expected.map_err(unseen("namespaces"))?;
        same("namespace", &found.to_string_lossy(), expected.display())
    })
}

/// Root and working directory are the session's: the inodes would say nothing, as all sessions have the same base.
fn places(fork: &Fork) -> Result<(), Finding> {
    let of = |pid: Pid, link| mount_of(&format!("/proc/{pid}/{link}"));
    let expected = of(fork.shim, "root").map_err(unseen("root"))?;
    ["root", "cwd"].into_iter().try_for_each(|link| {
        let found = of(fork.agent, link).map_err(unseen(link))?;
        same(link, &found, &expected)
    })
}

/// Which mount a directory is on, and which inode it is.
fn mount_of(path: &str) -> io::Result<String> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open(path, flags, Mode::empty())?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", directory.as_raw_fd()))?;
    let line = |key: &str| info.lines().find_map(|line| line.strip_prefix(key));
    match (line("mnt_id:"), line("ino:")) {
        (Some(mount), Some(inode)) => Ok(format!("mount {}, inode {}", mount.trim(), inode.trim())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn descriptors(fork: &Fork) -> Result<(), Finding> {
    let entries =
        fs::read_dir(format!("/proc/{}/fd", fork.agent)).map_err(unseen("descriptors"))?;
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(unseen("descriptors"))?;
    names.sort();
    same(
        "list of descriptors",
        &names.join(" "),
        OPEN_DESCRIPTORS.join(" "),
    )
}

/// No memory that is shared with the template, and so with its other forks. What lies in the base or the bundle and is not
/// written is no way to anyone.
fn mappings(fork: &Fork) -> Result<(), Finding> {
    let path = format!("/proc/{}/maps", fork.agent);
    let text = File::open(Path::new(&path))
        .and_then(io::read_to_string)
        .map_err(unseen("memory"))?;
    let shared = text.lines().find(|line| {
        let mut fields = line.split_whitespace();
        let permissions = fields.nth(1).unwrap_or("rw-s");
        let file = fields.nth(3).unwrap_or_default();
        let harmless = !permissions.contains('w')
            && !line.ends_with(" (deleted)")
            && READ_ONLY.iter().any(|place| file.starts_with(place));
        permissions.ends_with('s') && !harmless
    });
    same("shared memory", shared.unwrap_or("none"), "none")
}
