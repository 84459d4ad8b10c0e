//! What this host's cgroups can enforce, in words, for `agentcore doctor`.

use super::dir::Dir;
use super::{Backend, Tree, v1};

/// How well a feature is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// As designed.
    On,
    /// There, with a difference that the detail names.
    Degraded,
    /// Not there; what that means is in the detail.
    Off,
}

/// One feature of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// Its name: `cgroup.memory`, …
    pub name: &'static str,
    /// How well it is there.
    pub support: Support,
    /// What serves it, or why it does not.
    pub detail: String,
}

fn capability(name: &'static str, support: Support, detail: impl Into<String>) -> Capability {
    Capability {
        name,
        support,
        detail: detail.into(),
    }
}

fn on_if(there: bool, name: &'static str, on: &str, otherwise: Support, off: &str) -> Capability {
    if there {
        capability(name, Support::On, on)
    } else {
        capability(name, otherwise, off)
    }
}

/// Everything about a tree. The instance's own directory has the files that a session's will have.
pub(super) fn of(tree: &Tree) -> Vec<Capability> {
    use Support::{Degraded, Off, On};
    match &tree.backend {
        Backend::V2(branch) => {
            let dir = &branch.dir;
            let io = dir
                .read("cgroup.subtree_control")
                .is_ok_and(|text| text.split_whitespace().any(|c| c == "io"));
            vec![
                capability("cgroup", On, format!("v2, at {}", dir.path().display())),
                capability("cgroup.memory", On, "memory.max"),
                on_if(
                    dir.has("memory.swap.max"),
                    "cgroup.swap",
                    "memory.swap.max is 0",
                    Degraded,
                    "the kernel counts no swap; a session could use the host's, if it has any",
                ),
                capability("cgroup.oom", On, "a session is killed as a whole"),
                capability("cgroup.cpu", On, "cpu.max"),
                capability("cgroup.pids", On, "pids.max"),
                on_if(
                    io,
                    "cgroup.io",
                    "io.max",
                    Off,
                    "controller io is not available",
                ),
                capability("cgroup.kill", On, "cgroup.kill"),
                capability("cgroup.freeze", On, "cgroup.freeze"),
                capability("cgroup.clone_into", On, "sessions start in their cgroup"),
                devices(tree, "a BPF filter on the instance's cgroup"),
                psi(dir),
            ]
        }
        Backend::V1 {
            hierarchies,
            unified,
        } => {
            let has = |controller| v1::find(hierarchies, controller).is_some();
            let memory = v1::find(hierarchies, "memory").map(|h| &h.branch.dir);
            let home = match unified {
                Some(_) => "hybrid: controllers on v1, kill and freeze on v2",
                None => "v1 only",
            };
            vec![
                capability("cgroup", Degraded, home),
                capability("cgroup.memory", On, "memory.limit_in_bytes"),
                on_if(
                    memory.is_some_and(|dir| dir.has("memory.memsw.limit_in_bytes")),
                    "cgroup.swap",
                    "memory.memsw.limit_in_bytes",
                    Degraded,
                    "the kernel counts no swap (swapaccount=1); a session could use the host's, if it has any",
                ),
                capability(
                    "cgroup.oom",
                    Degraded,
                    "v1 kills one process; the daemon then ends the whole session",
                ),
                capability("cgroup.cpu", On, "cpu.cfs_quota_us"),
                capability("cgroup.pids", On, "pids.max"),
                on_if(
                    has("blkio"),
                    "cgroup.io",
                    "blkio.throttle",
                    Off,
                    "no blkio hierarchy",
                ),
                on_if(
                    unified.is_some(),
                    "cgroup.kill",
                    "cgroup.kill",
                    Degraded,
                    "freezer and SIGKILL by number",
                ),
                on_if(
                    unified.is_some(),
                    "cgroup.freeze",
                    "cgroup.freeze",
                    Degraded,
                    "v1 freezer",
                ),
                capability(
                    "cgroup.clone_into",
                    Degraded,
                    "v1: a process must be moved into its cgroup (7-16 ms, done ahead of time)",
                ),
                devices(
                    tree,
                    if has("devices") {
                        "devices.allow"
                    } else {
                        "a BPF filter on the instance's cgroup"
                    },
                ),
                match unified {
                    Some(branch) => psi(&branch.dir),
                    None => capability("cgroup.pressure", Off, "v1 has no pressure files"),
                },
            ]
        }
    }
}

fn devices(tree: &Tree, by: &str) -> Capability {
    match &tree.devices_off {
        None => capability("cgroup.devices", Support::On, by),
        Some(reason) => capability(
            "cgroup.devices",
            Support::Degraded,
            format!("{reason}; sessions cannot make device nodes, and their mounts are nodev"),
        ),
    }
}

fn psi(dir: &Dir) -> Capability {
    on_if(
        dir.has("memory.pressure"),
        "cgroup.pressure",
        "memory.pressure",
        Support::Off,
        "the kernel keeps no pressure figures (psi=1)",
    )
}
