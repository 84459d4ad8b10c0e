//! What this host's kernel offers to sandboxes, for `agentcore doctor` and for the plan. Reads only.
//!
//! Cgroups report on themselves ([`crate::cgroup::CgroupRoot::capabilities`]).

use crate::cgroup::{Capability, Support};
use crate::share::{SESSIONS, Shares};
use procfs::process::Process;
use std::fs;
use std::io;

/// Where the kernel says what it does with core dumps.
pub const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// Oldest kernel that all of this is tested on.
const KERNEL_FLOOR: (u32, u32) = (6, 1);

/// Whether core dumps go into a program that the kernel starts on the host, as root, with a crashed session's bytes as
/// its input (core(5)).
pub fn core_is_piped() -> io::Result<bool> {
    Ok(fs::read_to_string(CORE_PATTERN)?
        .trim_start()
        .starts_with('|'))
}

/// The report.
#[must_use]
pub fn capabilities() -> Vec<Capability> {
    vec![
        kernel(),
        user_namespaces(),
        seccomp(),
        core_dumps(),
        own_proc(),
        inotify(Shares::of_host()),
    ]
}

fn capability(name: &'static str, support: Support, detail: impl Into<String>) -> Capability {
    Capability {
        name,
        support,
        detail: detail.into(),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

fn kernel() -> Capability {
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= KERNEL_FLOOR {
        capability("kernel", Support::On, release)
    } else {
        let (major, minor) = KERNEL_FLOOR;
        let detail = format!("{release}: older than {major}.{minor}, the oldest that is tested");
        capability("kernel", Support::Degraded, detail)
    }
}

fn user_namespaces() -> Capability {
    const PATH: &str = "/proc/sys/user/max_user_namespaces";
    match read(PATH).parse::<u64>() {
        Ok(0) => capability(
            "user-namespaces",
            Support::Off,
            format!("{PATH} is 0: no session can start"),
        ),
        Ok(most) => capability("user-namespaces", Support::On, format!("at most {most}")),
        Err(_) => capability(
            "user-namespaces",
            Support::Off,
            format!("{PATH} cannot be read: the kernel has none"),
        ),
    }
}

fn seccomp() -> Capability {
    let actions = read("/proc/sys/kernel/seccomp/actions_avail");
    if ["errno", "allow"]
        .iter()
        .all(|action| actions.split_whitespace().any(|found| found == *action))
    {
        capability("seccomp", Support::On, actions)
    } else {
        let detail = "the kernel has no seccomp filters: no session can start";
        capability("seccomp", Support::Off, detail)
    }
}

fn core_dumps() -> Capability {
    match core_is_piped() {
        Ok(false) => capability("core-dumps", Support::On, "sessions leave none"),
        Ok(true) => capability(
            "core-dumps",
            Support::On,
            "piped into a program on this host; sessions run with a limit of 1, which keeps the kernel from starting it",
        ),
        Err(error) => capability(
            "core-dumps",
            Support::Off,
            format!("{CORE_PATTERN}: {error}"),
        ),
    }
}

/// A session mounts a proc of its own; the kernel refuses that in a user namespace where the daemon's proc is covered in
/// places (security bar T4), as some unit directives do.
fn own_proc() -> Capability {
    let covered: Vec<String> = Process::myself()
        .and_then(|me| me.mountinfo())
        .map(|mounts| {
            mounts
                .into_iter()
                .map(|mount| mount.mount_point.to_string_lossy().into_owned())
                .filter(|point| point.starts_with("/proc/"))
                // An empty directory that is there to be mounted on hides nothing.
                .filter(|point| point != "/proc/sys/fs/binfmt_misc")
                .collect()
        })
        .unwrap_or_default();
    if covered.is_empty() {
        capability(
            "own-proc",
            Support::On,
            "nothing is mounted over the daemon's /proc",
        )
    } else {
        let detail = format!(
            "mounted over: {}; remove ProtectKernelTunables=, ProtectKernelLogs= and InaccessiblePaths= below /proc from \
             the daemon's unit, or no session can mount its own",
            covered.join(", ")
        );
        capability("own-proc", Support::Degraded, detail)
    }
}

/// What forked sessions may watch.
fn inotify(shares: Shares) -> Capability {
    let Shares { instances, watches } = shares;
    let detail = format!("{instances} instances and {watches} watches for each forked session");
    if shares.is_enough() {
        return capability("inotify", Support::On, detail);
    }
    let least = Shares::limit_for_enough();
    let detail = format!(
        "{detail}, as {SESSIONS} of them share what the host gives one owner; an agent that watches files may want more: set \
         fs.inotify.max_user_instances to {least} at least (sysctl.d(5)), or `fork = \"off\"` for its runtime"
    );
    capability("inotify", Support::Degraded, detail)
}

/// Major and minor number of the disk that a file system's device is on: itself, or the disk that it is a partition of
/// (limits are kept per disk). Source: sysfs(5), `/sys/dev/block/M:m/partition`.
pub fn whole_disk(device: u64) -> io::Result<(u32, u32)> {
    let numbers = |device: u64| {
        (
            u32::try_from(nix::sys::stat::major(device)),
            u32::try_from(nix::sys::stat::minor(device)),
        )
    };
    let (Ok(major), Ok(minor)) = numbers(device) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let entry = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}"))?;
    if !entry.join("partition").exists() {
        return Ok((major, minor));
    }
    let text = std::fs::read_to_string(entry.join("../dev"))?;
    text.trim()
        .split_once(':')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_a_reason() {
        let report = capabilities();
        assert_eq!(report.len(), 6);
        for line in report {
            assert!(!line.detail.is_empty(), "{}", line.name);
        }
    }
}
