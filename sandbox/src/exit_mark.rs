//! The exit record of a session: what its shim leaves for whoever is the daemon when it is fetched, be that a later one.
//!
//! It has to be somewhere on the host by name, so that it survives the daemon, and the session has to be able to write it:
//! a file would be an attacker's to fill. So it is a named pipe of the session's own uid, which nobody reads from or writes
//! to, and the record is its **modification time**: an owner may set that (utimensat(2)) to a number of their own, and it
//! has room for nothing else. A pipe that nobody has open holds no bytes, whatever was put into it.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, futimens, lstat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, chown, mkfifo};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// What a shim can say: seconds and nanoseconds of a time shortly after 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Below [`LATEST`].
    pub seconds: i64,
    /// Below a thousand millions.
    pub nanoseconds: i64,
}

/// Marks are earlier than this; a pipe that has none yet is of today.
pub const LATEST: i64 = 256;

/// Makes the pipe of a session whose PID 1 has this uid and gid on the host. Its name must be new.
pub fn make(path: &Path, (uid, gid): (u32, u32)) -> io::Result<OwnedFd> {
    mkfifo(path, Mode::S_IRUSR)?;
    chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    // Reading does not wait for a writer, of which there will be none.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

/// Leaves the mark; in the session.
pub fn leave(pipe: impl AsFd, mark: Mark) -> io::Result<()> {
    let Mark {
        seconds,
        nanoseconds,
    } = mark;
    if !(0..LATEST).contains(&seconds) {
        return Err(Errno::EINVAL.into());
    }
    let time = TimeSpec::new(seconds, nanoseconds);
    Ok(futimens(pipe, &time, &time)?)
}

/// The mark at `path`, if one was left.
pub fn find(path: &Path) -> Option<Mark> {
    // Whatever cannot be looked at counts as not left.
    let found = lstat(path).ok()?;
    let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
    let mark = Mark {
        seconds: found.st_mtime,
        nanoseconds: found.st_mtime_nsec,
    };
    (kind == SFlag::S_IFIFO && (0..LATEST).contains(&mark.seconds)).then_some(mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    fn own() -> (u32, u32) {
        (
            nix::unistd::getuid().as_raw(),
            nix::unistd::getgid().as_raw(),
        )
    }

    #[test]
    fn a_mark_is_found_by_name() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("exit");
        let pipe = make(&path, own()).expect("make");
        assert!(make(&path, own()).is_err(), "never reuses a name");
        assert_eq!(find(&path), None);
        let mark = Mark {
            seconds: 3,
            nanoseconds: 999_999_999,
        };
        leave(&pipe, mark).expect("leave");
        drop(pipe);
        assert_eq!(find(&path), Some(mark));
        let late = Mark {
            seconds: LATEST,
            nanoseconds: 0,
        };
        let pipe = File::open(dir.path()).expect("open");
        assert!(leave(&pipe, late).is_err());
        assert_eq!(find(dir.path()), None, "only of pipes");
    }

    /// What an attacker who has taken over the shim can do with it: open it for writing by its number.
    #[test]
    fn nothing_can_be_stored_in_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("exit");
        let pipe = make(&path, own()).expect("make");
        assert!(nix::unistd::ftruncate(&pipe, 1 << 20).is_err());
        assert!(nix::unistd::write(&pipe, b"x").is_err());
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK;
        let mut writer = File::from(open(&path, flags, Mode::empty()).expect("open"));
        let mut stored = 0;
        while let Ok(bytes) = writer.write(&[1; 4096]) {
            stored += bytes;
            assert!(stored <= 1 << 20, "a pipe that has no end");
        }
        let found = lstat(&path).expect("stat");
        assert_eq!((found.st_size, found.st_blocks), (0, 0));
    }
}
