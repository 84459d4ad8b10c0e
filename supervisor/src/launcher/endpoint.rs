//! A session's files in `<runtime-dir>/sessions`, a directory of root's: the socket that the broker connects to, and the exit
//! record; and of a session that is no more its last word, until the broker has that on record.
//!
//! The last word is what nobody can read again once the cgroup is removed: the final counters, and the exit record. A broker or
//! launcher that dies between the removal and the record leaves it to the next.

use super::message::{Counters, ExitNumbers};
use nix::unistd::{Gid, Uid};
use sandbox::exit_mark;
use sandbox::seqpacket::SeqpacketListener;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Connections that may wait: the broker, its successor, and room for mistakes.
const BACKLOG: i32 = 8;

/// Where a session's socket and exit record are.
#[derive(Debug)]
pub(super) struct Endpoint {
    socket: PathBuf,
    record: PathBuf,
    last: PathBuf,
}

/// See the module.
pub(super) type LastWord = (Counters, Option<ExitNumbers>);

impl Endpoint {
    pub(super) fn of(sessions: &Path, session: &str) -> Self {
        Self {
            socket: sessions.join(format!("{session}.sock")),
            record: sessions.join(format!("{session}.exit")),
            last: sessions.join(format!("{session}.last")),
        }
    }

    /// Binds the socket for the broker's uid and gid alone, and makes the pipe for the exit record of the session whose
    /// PID 1 has the other ones. Neither may be there already.
    pub(super) fn create(
        &self,
        (uid, gid): (u32, u32),
        session: (u32, u32),
    ) -> io::Result<(OwnedFd, OwnedFd)> {
        let listener = SeqpacketListener::bind(&self.socket, BACKLOG)?;
        fs::set_permissions(&self.socket, Permissions::from_mode(0o600))?;
        nix::unistd::chown(
            &self.socket,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
        )?;
        let record = exit_mark::make(&self.record, session)?;
        Ok((listener.into_fd(), record))
    }

    /// Whether either of them was ever made (and not removed). What cannot be looked at counts as there.
    pub(super) fn is_there(&self) -> bool {
        [&self.socket, &self.record].iter().any(|path| {
            fs::symlink_metadata(path)
                .map_or_else(|error| error.kind() != io::ErrorKind::NotFound, |_| true)
        })
    }

    /// The exit record, if one was left.
    pub(super) fn record(&self) -> Option<ExitNumbers> {
        exit_mark::find(&self.record).map(|mark| (mark.seconds, mark.nanoseconds))
    }

    /// Keeps the last word.
    pub(super) fn keep(&self, last: &LastWord) -> io::Result<()> {
        let bytes = postcard::to_stdvec(last).map_err(io::Error::other)?;
        fs::write(&self.last, bytes)
    }

    /// The last word, if there is one that is whole.
    pub(super) fn last(&self) -> Option<LastWord> {
        postcard::from_bytes(&fs::read(&self.last).ok()?).ok()
    }

    /// Forgets the last word.
    pub(super) fn forget(&self) -> io::Result<()> {
        remove_all(&[&self.last])
    }

    /// Removes socket and exit record; what is not there is no error.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove_all(&[&self.socket, &self.record])
    }
}

fn remove_all(paths: &[&Path]) -> io::Result<()> {
    for path in paths {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox::exit_mark::Mark;

    #[test]
    fn a_record_is_two_numbers_and_removal_is_idempotent() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let endpoint = Endpoint::of(dir.path(), "s1234");
        let me = (
            nix::unistd::getuid().as_raw(),
            nix::unistd::getgid().as_raw(),
        );
        assert!(!endpoint.is_there());
        let (_listener, record) = endpoint.create(me, me).expect("create");
        assert!(endpoint.is_there());
        assert!(endpoint.create(me, me).is_err(), "never reuses a name");
        assert_eq!(endpoint.record(), None);
        let mark = Mark {
            seconds: 3,
            nanoseconds: 7,
        };
        exit_mark::leave(&record, mark).expect("leave");
        assert_eq!(endpoint.record(), Some((3, 7)));
        endpoint.remove().expect("remove");
        endpoint.remove().expect("again");
        let last = (
            Counters {
                cpu_us: 1 << 40,
                ..Counters::default()
            },
            Some((3, 7)),
        );
        assert_eq!(endpoint.last(), None);
        endpoint.keep(&last).expect("keep");
        endpoint.remove().expect("not the last word");
        assert_eq!(endpoint.last(), Some(last));
        fs::write(dir.path().join("s1234.last"), [1]).expect("cut");
        assert_eq!(endpoint.last(), None);
        endpoint.forget().expect("forget");
        endpoint.forget().expect("again");
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
    }
}
