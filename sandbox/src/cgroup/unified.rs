//! What the v2 hierarchy offers even without controllers: kill, freeze, thaw and an event when the last process is gone.
//! Serves both backends. <https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files>

use super::dir::{Dir, keyed};
use super::{Branch, CgroupError, Result, descend, open_or_make};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

const EVENTS: &str = "cgroup.events";

/// Makes the instance's directory without enabling controllers.
pub(super) fn plant(mount: &Path, parent: Option<&str>, name: &str) -> Result<Branch> {
    let parent = descend(Dir::open(mount)?, parent, |_, _| Ok(()))?;
    let dir = open_or_make(&parent, name)?;
    Ok(Branch { parent, dir })
}

/// Kills every process at once, forks in flight included (Linux 5.14), frozen ones too; then nothing stays frozen.
pub(super) fn kill(dir: &Dir) -> Result<()> {
    dir.write("cgroup.kill", "1")?;
    thaw(dir)
}

/// Freezes and waits until all are frozen.
pub(super) fn freeze(dir: &Dir, deadline: Instant) -> Result<()> {
    dir.write("cgroup.freeze", "1")?;
    wait(dir, "frozen", 1, "frozen", deadline).inspect_err(|_| {
        // Best effort on the way out; the caller hears why freezing failed.
        let _ = thaw(dir);
    })
}

/// Freezes as far as it goes at once; whether all are frozen.
pub(super) fn try_freeze(dir: &Dir) -> Result<bool> {
    dir.write("cgroup.freeze", "1")?;
    let text = dir.read(EVENTS)?;
    let frozen = keyed(&text, "frozen").ok_or_else(|| dir.unusable(EVENTS, "frozen"))?;
    Ok(frozen == 1)
}

/// Thaws.
pub(super) fn thaw(dir: &Dir) -> Result<()> {
    dir.write("cgroup.freeze", "0")
}

/// Whether it was told to freeze.
pub(super) fn is_frozen(dir: &Dir) -> Result<bool> {
    Ok(dir
        .read_if_there("cgroup.freeze")?
        .is_some_and(|text| text.trim() == "1"))
}

/// Waits until no process is in it or below.
pub(super) fn wait_empty(dir: &Dir, deadline: Instant) -> Result<()> {
    wait(dir, "populated", 0, "empty", deadline)
}

/// Waits until `key` in `cgroup.events` is `wanted`. The kernel announces changes as POLLPRI.
fn wait(
    dir: &Dir,
    key: &'static str,
    wanted: u64,
    what: &'static str,
    deadline: Instant,
) -> Result<()> {
    let mut events = match dir.open_file(EVENTS, OFlag::O_RDONLY) {
        Ok(fd) => File::from(fd),
        Err(fault) if gone(&fault) => return Ok(()),
        Err(fault) => return Err(fault),
    };
    loop {
        let mut text = String::new();
        match events
            .rewind()
            .and_then(|()| events.read_to_string(&mut text))
        {
            Ok(_) => {}
            // Removed meanwhile: nobody is in it.
            Err(source) if source.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
            Err(source) => return Err(dir.error("read", EVENTS, source)),
        }
        match keyed(&text, key) {
            Some(value) if value == wanted => return Ok(()),
            Some(_) => {}
            None => return Err(dir.unusable(EVENTS, key)),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CgroupError::Late {
                path: dir.path().to_owned(),
                what,
            });
        }
        // Rounded up, so that the last wait is not a busy one.
        let millis = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        match poll(
            &mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)],
            timeout,
        ) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(dir.error("poll", EVENTS, errno.into())),
        }
    }
}

/// Whether the fault says that the cgroup has been removed while its directory was held open.
fn gone(fault: &CgroupError) -> bool {
    fault.is_errno(libc::ENOENT) || fault.is_errno(libc::ENODEV)
}
