//! Takes the clone of a session below the namespaces of a template, whose agent's fork is to join it.
//!
//! The stager cannot go there itself: it is still root's, and must stay so to give the session's mounts their owners. And
//! whoever clones must have the uid of the template's agent, so that this agent owns the new user namespace, while whoever
//! writes its maps must have root's, to whom the files of an unreadable process belong. So there are two:
//!
//! ```text
//! stager ─▶ first   joins the template's user namespace, as root's uid; writes the maps
//!             └──▶ second   is in the template's pid namespace (only so may it make one below); becomes the agent's uid
//!                    └──▶ PID 1 of the session, with seven namespaces of its own
//! ```
//!
//! All are children of the launcher (`CLONE_PARENT`). The template sees two of them, and may signal them, but reads nothing of
//! the daemon: they are not dumpable and their memory belongs to the host's user namespace, PID 1's before its exec because it
//! is a copy of the launcher's, and after it because the shim's file is root's and mode 0111 (`would_dump` in the kernel's
//! `fs/exec.c`).

use super::{StepResult, step};
use crate::plan::{MapAct, Step, UsherAct};
use crate::seqpacket::Seqpacket;
use crate::sys::fork::{Clone3, Cloned};
use crate::sys::{errno_of, pidfd};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::unistd::{Gid, Pid, Uid, setresgid, setresuid};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Of a template's PID 1.
#[derive(Debug)]
pub struct TemplateNamespaces {
    /// `/proc/PID/ns/user`.
    pub user: OwnedFd,
    /// `/proc/PID/ns/pid`.
    pub pid: OwnedFd,
}

/// What an usher says when it has failed: its step, and the errno before it. A success is a number and a descriptor.
const MAX_WORDS: usize = 72;

/// Clones below `template`, and writes the maps.
pub(super) fn clone_below(
    steps: &[Step<UsherAct>],
    maps: &[Step<MapAct>],
    template: &TemplateNamespaces,
    session: &Clone3<'_>,
    child: impl FnOnce() -> i32,
) -> StepResult<Cloned> {
    let (ours, theirs) = Seqpacket::pair().map_err(|error| ("clone", error))?;
    let sibling = Clone3 {
        sibling: true,
        ..Clone3::default()
    };
    let first = sibling.spawn(|| {
        let outcome = first(steps, maps, template, session, child);
        i32::from(tell(&theirs, outcome.as_ref()).is_err())
    });
    first.map_err(|error| ("clone", error))?;
    drop(theirs);
    hear(&ours)
}

fn first(
    steps: &[Step<UsherAct>],
    maps: &[Step<MapAct>],
    template: &TemplateNamespaces,
    session: &Clone3<'_>,
    child: impl FnOnce() -> i32,
) -> StepResult<Cloned> {
    step("clone", || Ok(prctl::set_dumpable(false)?))?;
    perform(steps, |act| !matches!(act, UsherAct::Become(_)), template)?;
    let (ours, theirs) = Seqpacket::pair().map_err(|error| ("clone", error))?;
    let sibling = Clone3 {
        sibling: true,
        ..Clone3::default()
    };
    let second = sibling.spawn(|| {
        let outcome = perform(steps, |act| matches!(act, UsherAct::Become(_)), template)
            .and_then(|()| step("clone", || session.spawn(child).and_then(on_host)));
        i32::from(tell(&theirs, outcome.as_ref()).is_err())
    });
    second.map_err(|error| ("clone", error))?;
    drop(theirs);
    let cloned = hear(&ours)?;
    write_maps(maps, cloned.pid)?;
    Ok(cloned)
}

fn perform(
    steps: &[Step<UsherAct>],
    mine: impl Fn(&UsherAct) -> bool,
    template: &TemplateNamespaces,
) -> StepResult<()> {
    for Step { name, act } in steps.iter().filter(|step| mine(&step.act)) {
        step(name, || match act {
            UsherAct::JoinUser => Ok(setns(&template.user, CloneFlags::CLONE_NEWUSER)?),
            UsherAct::Become(id) => {
                let (uid, gid) = (Uid::from_raw(*id), Gid::from_raw(*id));
                // Keeps all capabilities: only leaving uid 0 *of this namespace* takes them, and root of the host is
                // nobody here.
                setresgid(gid, gid, gid)?;
                setresuid(uid, uid, uid)?;
                // Where fs.suid_dumpable is 1, that has made it readable.
                Ok(prctl::set_dumpable(false)?)
            }
            UsherAct::JoinPid => Ok(setns(&template.pid, CloneFlags::CLONE_NEWPID)?),
        })?;
    }
    Ok(())
}

/// clone3 tells the number that the process has where the caller is: in the template. This process's `/proc` is the host's.
fn on_host(cloned: Cloned) -> io::Result<Cloned> {
    Ok(Cloned {
        pid: pidfd::number(cloned.pidfd.as_fd())?,
        ..cloned
    })
}

/// The files; who owns what on the mounts is the stager's to say.
fn write_maps(maps: &[Step<MapAct>], pid: Pid) -> StepResult<()> {
    for Step { name, act } in maps {
        match act {
            // The process waits for "go", and the launcher, its parent, has not heard of it yet.
            MapAct::Write { file, content } => step(name, || {
                std::fs::write(format!("/proc/{pid}/{file}"), content)
            })?,
            MapAct::MapBaseOwners | MapAct::MapStorageOwners => {}
        }
    }
    Ok(())
}

fn tell(
    socket: &Seqpacket,
    outcome: Result<&Cloned, &(&'static str, io::Error)>,
) -> io::Result<()> {
    match outcome {
        Ok(cloned) => socket.send(&cloned.pid.as_raw().to_le_bytes(), &[cloned.pidfd.as_fd()]),
        Err((name, error)) => {
            let mut words = errno_of(error).to_le_bytes().to_vec();
            words.extend(&name.as_bytes()[..name.len().min(MAX_WORDS - 4)]);
            socket.send(&words, &[] as &[BorrowedFd<'_>])
        }
    }
}

fn hear(socket: &Seqpacket) -> StepResult<Cloned> {
    let mut words = [0; MAX_WORDS];
    let mut received = socket.recv(&mut words).map_err(|error| ("clone", error))?;
    let Some((number, name)) = words[..received.len].split_first_chunk::<4>() else {
        // Killed on the way.
        return Err(("clone", Errno::ECHILD.into()));
    };
    let number = i32::from_le_bytes(*number);
    match received.fds.pop() {
        Some(pidfd) => Ok(Cloned {
            pid: Pid::from_raw(number),
            pidfd,
        }),
        None => Err((known(name), Errno::from_raw(number).into())),
    }
}

/// A step's name, as the constant that it is in this program.
fn known(name: &[u8]) -> &'static str {
    const NAMES: [&str; 6] = [
        "template.user",
        "template.owner",
        "template.pid",
        "idmap.setgroups",
        "idmap.uid",
        "idmap.gid",
    ];
    NAMES
        .into_iter()
        .find(|known| known.as_bytes() == name)
        .unwrap_or("clone")
}
