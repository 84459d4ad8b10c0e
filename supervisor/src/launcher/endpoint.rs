//! A session's two files in `<runtime-dir>/sessions`, a directory of root's: the socket that the broker connects to, and
//! the exit record.

use nix::unistd::{Gid, Uid};
use sandbox::seqpacket::SeqpacketListener;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Connections that may wait: the broker, its successor, and room for mistakes.
const BACKLOG: i32 = 8;

/// Longest exit record that is read, in bytes. The session's shim writes it.
const MAX_RECORD: u64 = 8 * 1024;

/// Where a session's socket and exit record are.
#[derive(Debug)]
pub(super) struct Endpoint {
    socket: PathBuf,
    record: PathBuf,
}

impl Endpoint {
    pub(super) fn of(sessions: &Path, session: &str) -> Self {
        Self {
            socket: sessions.join(format!("{session}.sock")),
            record: sessions.join(format!("{session}.exit")),
        }
    }

    /// Binds the socket for `(uid, gid)` alone and makes the exit record: listener and append-only file. Neither may be
    /// there already.
    pub(super) fn create(&self, (uid, gid): (u32, u32)) -> io::Result<(OwnedFd, OwnedFd)> {
        let listener = SeqpacketListener::bind(&self.socket, BACKLOG)?;
        fs::set_permissions(&self.socket, Permissions::from_mode(0o600))?;
        nix::unistd::chown(
            &self.socket,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
        )?;
        let record = File::options()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.record)?;
        Ok((listener.into_fd(), record.into()))
    }

    /// Whether either of them was ever made (and not removed). What cannot be looked at counts as there.
    pub(super) fn is_there(&self) -> bool {
        [&self.socket, &self.record].iter().any(|path| {
            fs::symlink_metadata(path)
                .map_or_else(|error| error.kind() != io::ErrorKind::NotFound, |_| true)
        })
    }

    /// The exit record as far as it was written; empty if there is none.
    pub(super) fn read_record(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Whatever cannot be read counts as not written: the cgroup's counters still say how the session ended.
        let _ =
            File::open(&self.record).and_then(|file| file.take(MAX_RECORD).read_to_end(&mut bytes));
        bytes
    }

    /// Removes both files; what is not there is no error.
    pub(super) fn remove(&self) -> io::Result<()> {
        for path in [&self.socket, &self.record] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_record_is_bounded_and_removal_is_idempotent() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let endpoint = Endpoint::of(dir.path(), "s1234");
        let me = (
            nix::unistd::getuid().as_raw(),
            nix::unistd::getgid().as_raw(),
        );
        assert!(!endpoint.is_there());
        let (_listener, record) = endpoint.create(me).expect("create");
        assert!(endpoint.is_there());
        assert!(endpoint.create(me).is_err(), "never reuses a name");
        let mut record = File::from(record);
        for _ in 0..3 {
            record.write_all(&[b'x'; 4096]).expect("write");
        }
        assert_eq!(endpoint.read_record().len(), 8192);
        endpoint.remove().expect("remove");
        endpoint.remove().expect("again");
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
    }
}
