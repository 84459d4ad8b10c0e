//! Giving up root, for good: how the broker becomes an ordinary user after the launcher has been forked.

use crate::sys::capability::{self, CapMask, CapSets};
use crate::sys::{errno_of, fork};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use procfs::process::Process;
use std::io;

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
    /// All calls succeeded, and yet `/proc/self/status` shows something left.
    #[error("privileges were dropped, and yet {0}")]
    Left(String),
}

/// Makes the calling process, which must have one thread, an ordinary one of `uid` and `gid`: no groups, no capability in
/// any of the five sets, no way to gain any, not readable for others of its uid. Looks at the outcome before it returns.
pub fn become_broker(uid: u32, gid: u32) -> Result<(), PrivilegeError> {
    let step = |verb: &'static str, outcome: io::Result<()>| {
        outcome.map_err(|source| PrivilegeError::Step { verb, source })
    };
    if uid == 0 || gid == 0 {
        return step("become an unprivileged user", Err(Errno::EINVAL.into()));
    }
    step("change identity", fork::require_single_thread())?;
    step("drop the groups", setgroups(&[]).map_err(Into::into))?;
    step("clear the ambient set", capability::clear_ambient())?;
    step("empty the bounding set", capability::empty_bounding())?;
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
    verify(uid, gid)
}

fn verify(uid: Uid, gid: Gid) -> Result<(), PrivilegeError> {
    let status = Process::myself()
        .and_then(|me| me.status())
        .map_err(|error| PrivilegeError::Step {
            verb: "read /proc/self/status",
            source: io::Error::other(error),
        })?;
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
            Self::Left(_) => Errno::EPERM as i32,
        }
    }
}
