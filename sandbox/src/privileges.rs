//! Giving up privileges, for good: how the broker becomes an ordinary user after the launcher has been forked, and how the
//! launcher keeps only what sessions are made with. Each looks at the outcome before it returns.

use crate::seccomp::{FilterError, broker_filter};
use crate::sys::capability::{self, CapMask, CapSets};
use crate::sys::{errno_of, fork};
use crate::{faults, sys};
use caps::Capability;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use procfs::process::{Process, Status};
use std::io;

/// What the launcher keeps: what making, reading and removing a session takes on every host, each found by leaving it out.
/// Sessions do not have these: theirs are those of their own user namespace, which begins with a full set of its own,
/// whatever its maker has (user_namespaces(7)).
pub const LAUNCHER_CAPABILITIES: [Capability; 8] = [
    // Mounts: base, bundle and /dev, and the owners that the base shows. A user namespace where only root may make one.
    Capability::CAP_SYS_ADMIN,
    // The nodes of a session's /dev.
    Capability::CAP_MKNOD,
    // A session's socket is the broker's.
    Capability::CAP_CHOWN,
    // Maps of host uids and gids, and the uid that the user namespace is to belong to.
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    // A new session's user namespace, by /proc/PID/ns; and all of /proc/PID where proc is mounted with hidepid.
    Capability::CAP_SYS_PTRACE,
    // The maps are files of the session's uid where `fs.suid_dumpable` is 1.
    Capability::CAP_DAC_OVERRIDE,
    // Processes of other uids on cgroup v1, where no hierarchy has `cgroup.kill`.
    Capability::CAP_KILL,
];

/// Why the daemon's own privileges could not be given up. It must not go on.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// One of the calls failed.
    #[error("cannot {verb}")]
    Step {
        /// What was tried.
        verb: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Something that has to be kept is not there, in a container for one.
    #[error(
        "the capabilities {0} are needed to make sessions, and this process does not have them"
    )]
    Missing(String),
    /// The broker's filter could not be made.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// All calls succeeded, and yet `/proc/self/status` shows something left.
    #[error("privileges were dropped, and yet {0}")]
    Left(String),
}

fn step<T>(verb: &'static str, outcome: io::Result<T>) -> Result<T, PrivilegeError> {
    outcome.map_err(|source| PrivilegeError::Step { verb, source })
}

/// Leaves the calling process, which must have one thread, [`LAUNCHER_CAPABILITIES`] and no way to get others.
pub fn become_launcher() -> Result<(), PrivilegeError> {
    // A test build's session without a user namespace lives on the launcher's capabilities.
    if faults::is_off("ns.user") {
        return Ok(());
    }
    let keep = CapMask::of(&LAUNCHER_CAPABILITIES);
    step("change capabilities", fork::require_single_thread())?;
    let permitted = step("read the capabilities", capability::get())?.permitted;
    let missing: Vec<String> = LAUNCHER_CAPABILITIES
        .into_iter()
        .filter(|one| permitted.0 & one.bitmask() == 0)
        .map(|one| one.to_string())
        .collect();
    if !missing.is_empty() {
        return Err(PrivilegeError::Missing(missing.join(", ")));
    }
    step("clear the ambient set", capability::clear_ambient())?;
    step("limit the bounding set", capability::limit_bounding(keep))?;
    let sets = CapSets {
        effective: keep,
        permitted: keep,
        inheritable: CapMask::EMPTY,
    };
    step("drop capabilities", capability::set(sets))?;
    // Of the session's own a test build must be able to see what happens without it.
    if !faults::is_off("no_new_privs") {
        step(
            "set no_new_privs",
            prctl::set_no_new_privs().map_err(Into::into),
        )?;
    }
    let status = own_status()?;
    let found = [Some(status.capprm), Some(status.capeff), status.capbnd];
    let wrong = if found != [Some(keep.0); 3] {
        "other capabilities are left than were to be kept"
    } else if status.capinh | status.capamb.unwrap_or(0) != 0 {
        "capabilities are inheritable"
    } else {
        return Ok(());
    };
    Err(PrivilegeError::Left(wrong.to_owned()))
}

fn own_status() -> Result<Status, PrivilegeError> {
    let status = Process::myself().and_then(|me| me.status());
    step("read /proc/self/status", status.map_err(io::Error::other))
}

/// Makes the calling process, which must have one thread, an ordinary one of `uid` and `gid`: no groups, no capability in
/// any of the five sets, no way to gain any, not readable for others of its uid, and under [`broker_filter`], which threads to
/// come inherit.
pub fn become_broker(uid: u32, gid: u32) -> Result<(), PrivilegeError> {
    if uid == 0 || gid == 0 {
        return step("become an unprivileged user", Err(Errno::EINVAL.into()));
    }
    step("change identity", fork::require_single_thread())?;
    step("drop the groups", setgroups(&[]).map_err(Into::into))?;
    step("clear the ambient set", capability::clear_ambient())?;
    step(
        "empty the bounding set",
        capability::limit_bounding(CapMask::EMPTY),
    )?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    step(
        "set the group",
        setresgid(gid, gid, gid).map_err(Into::into),
    )?;
    // Leaving uid 0 clears the permitted, effective and ambient set by itself; the inheritable one stays.
    step("set the user", setresuid(uid, uid, uid).map_err(Into::into))?;
    let empty = CapSets {
        effective: CapMask::EMPTY,
        permitted: CapMask::EMPTY,
        inheritable: CapMask::EMPTY,
    };
    step("drop capabilities", capability::set(empty))?;
    step(
        "set no_new_privs",
        prctl::set_no_new_privs().map_err(Into::into),
    )?;
    step(
        "become unreadable",
        prctl::set_dumpable(false).map_err(Into::into),
    )?;
    step(
        "install the broker's seccomp filter",
        sys::seccomp::install(&broker_filter()?),
    )?;
    verify(uid, gid)
}

/// `SECCOMP_MODE_FILTER`, as `/proc/PID/status` tells it.
const FILTERED: u32 = 2;

fn verify(uid: Uid, gid: Gid) -> Result<(), PrivilegeError> {
    let status = own_status()?;
    let (uid, gid) = (uid.as_raw(), gid.as_raw());
    let capabilities = status.capprm
        | status.capeff
        | status.capinh
        | status.capbnd.unwrap_or(0)
        | status.capamb.unwrap_or(0);
    let wrong = if [status.ruid, status.euid, status.suid, status.fuid] != [uid; 4] {
        "a user id is not the new one"
    } else if [status.rgid, status.egid, status.sgid, status.fgid] != [gid; 4] {
        "a group id is not the new one"
    } else if !status.groups.is_empty() {
        "supplementary groups are left"
    } else if capabilities != 0 {
        "capabilities are left"
    } else if status.nonewprivs != Some(1) {
        "no_new_privs is not set"
    } else if status.seccomp != Some(FILTERED) {
        "it is under no seccomp filter"
    } else if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
        "root can be taken back"
    } else {
        return Ok(());
    };
    Err(PrivilegeError::Left(wrong.to_owned()))
}

impl PrivilegeError {
    /// The errno, for exit reports.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Step { source, .. } => errno_of(source),
            Self::Filter(_) => Errno::EINVAL as i32,
            Self::Missing(_) | Self::Left(_) => Errno::EPERM as i32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_leaves_what_the_launcher_keeps_and_its_start_takes() {
        let unit = include_str!("../../systemd/agentcored.service");
        let mut granted: Vec<&str> = unit
            .lines()
            .filter_map(|line| line.strip_prefix("CapabilityBoundingSet="))
            .flat_map(str::split_whitespace)
            .collect();
        // Why the latter ones: see the unit.
        let at_start = [
            Capability::CAP_SETPCAP,
            Capability::CAP_FOWNER,
            Capability::CAP_DAC_READ_SEARCH,
            Capability::CAP_SYS_CHROOT,
        ];
        let mut needed: Vec<String> = LAUNCHER_CAPABILITIES
            .into_iter()
            .chain(at_start)
            .map(|one| one.to_string())
            .collect();
        granted.sort_unstable();
        needed.sort_unstable();
        assert_eq!(granted, needed);
    }
}
