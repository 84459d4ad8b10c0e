//! Whose processes are in a session's cgroup, by the kernel's word: for a launcher that did not make the session and
//! believes nobody else about it.
//!
//! A process number from `cgroup.procs` may be another process's by the time it is looked at. So its `/proc` directory is
//! opened first, then the number must (still) be listed, and then its ids are read through that directory, which works only
//! while *that* process is there: in the moment of the second listing the number was its own.

use super::dir::Dir;
use super::{Branch, CgroupError, Result};
use crate::identity::ids_of;
use crate::sys::pidfd;
use nix::unistd::Pid;
use procfs::ProcError;
use procfs::process::Process;
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

/// Whose processes are in a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Nobody's: it is empty.
    Nobody,
    /// One of them has this id, which is among those that were asked for.
    Of(u32),
    /// They are there, and none has an id that was asked for.
    Stranger,
}

/// A process that was proven to be in a session's cgroup.
#[derive(Debug)]
pub struct Member {
    /// It, and no other of its number.
    pub pidfd: OwnedFd,
    /// When it began, clock ticks since boot.
    pub start_time: u64,
}

/// How often a cgroup is looked at whose processes come and go meanwhile. A session has a PID 1 that stays.
const PASSES: usize = 10;

/// Looks in every hierarchy, since a removal or the move of a process may have been interrupted.
pub(super) fn of(branches: &[&Branch], name: &str, ids: &Range<u32>) -> Result<Owner> {
    let mut owner = Owner::Nobody;
    for branch in branches {
        match in_hierarchy(&branch.dir, name, ids)? {
            Owner::Nobody => {}
            Owner::Stranger => owner = Owner::Stranger,
            found @ Owner::Of(_) => return Ok(found),
        }
    }
    Ok(owner)
}

fn in_hierarchy(dir: &Dir, name: &str, ids: &Range<u32>) -> Result<Owner> {
    for _ in 0..PASSES {
        if let Some(owner) = look(dir, name, ids)? {
            return Ok(owner);
        }
    }
    Err(CgroupError::Late {
        path: dir.path().join(name),
        what: "quiet",
    })
}

/// `None` if one has left before it was looked at: it may have left a child that was not on the list.
fn look(dir: &Dir, name: &str, ids: &Range<u32>) -> Result<Option<Owner>> {
    let (mut owner, mut left, mut fault) = (Owner::Nobody, false, None);
    for pid in members(dir, name)? {
        match ids_in(dir, name, pid) {
            Ok(Some(found)) => match found.into_iter().find(|id| ids.contains(id)) {
                Some(id) => return Ok(Some(Owner::Of(id))),
                None => owner = Owner::Stranger,
            },
            Ok(None) => left = true,
            // Another one may still tell.
            Err(error) => fault = Some(error),
        }
    }
    match fault {
        Some(fault) => Err(fault),
        None => Ok((!left).then_some(owner)),
    }
}

/// The process of this number, if it is in the cgroup and lives.
pub(super) fn member(dir: &Dir, name: &str, pid: i32) -> Result<Option<Member>> {
    let fault = |source| dir.error("look at a process of", name, source);
    let pidfd = match pidfd::open(Pid::from_raw(pid)) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        other => other.map_err(fault)?,
    };
    if !members(dir, name)?.contains(&pid) {
        return Ok(None);
    }
    let stat = alive(Process::new(pid).and_then(|process| process.stat())).map_err(fault)?;
    // While it has not ended, its number was its own all the time.
    if pidfd::has_ended(pidfd.as_fd()) {
        return Ok(None);
    }
    Ok(stat.map(|stat| Member {
        pidfd,
        start_time: stat.starttime,
    }))
}

/// Processes in it; none if it is not there.
pub(super) fn members(dir: &Dir, name: &str) -> Result<Vec<i32>> {
    let file = format!("{name}/cgroup.procs");
    let text = match dir.read(&file) {
        Err(fault) if fault.is_errno(libc::ENOENT) || fault.is_errno(libc::ENODEV) => {
            return Ok(Vec::new());
        }
        other => other?,
    };
    text.lines()
        .map(|line| {
            line.parse()
                .ok()
                // 0 stands for one outside our pid namespace, of which nothing can be known.
                .filter(|pid| *pid > 0)
                .ok_or_else(|| dir.unusable(&file, "process number"))
        })
        .collect()
}

/// Ids of a member; `None` if it has left meanwhile.
fn ids_in(dir: &Dir, name: &str, pid: i32) -> Result<Option<Vec<u32>>> {
    let fault = |source| dir.error("look at a process of", name, source);
    let Some(process) = alive(Process::new(pid)).map_err(fault)? else {
        return Ok(None);
    };
    if !members(dir, name)?.contains(&pid) {
        return Ok(None);
    }
    let mut status = Vec::new();
    let read = process
        .open_relative("status")
        .and_then(|mut file| Ok(file.read_to_end(&mut status)?));
    let read = alive(read).map_err(fault)?;
    Ok(read.map(|_| ids_of(&status)))
}

/// `None` if the process has ended.
fn alive<T>(outcome: Result<T, ProcError>) -> io::Result<Option<T>> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(ProcError::NotFound(_)) => Ok(None),
        Err(ProcError::Io(error, _)) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(ProcError::Io(error, _)) => Err(error),
        Err(other) => Err(io::Error::other(other)),
    }
}
