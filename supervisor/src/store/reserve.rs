//! Room on the file system of the state directory: when new work is refused, and what is kept back so that the end of work
//! that runs can be written down all the same.
//!
//! ```text
//!  ample ── less than `store.reserve` free, mounted read-only, or a write found no room ──▶ short: new work is refused (507)
//!  short ── as much free again, and a write succeeds ──▶ ample
//! ```
//!
//! What is kept back is room **inside the database's log**: its blocks are allocated ahead of what is in it, so that whoever
//! else takes the last block of the disk does not take these. In them some thousand ends can be written; moving them into the
//! database changes pages that it has. (A file that is given up when it is needed would be taken by the same others.) On a
//! file system that never writes in place, such as btrfs, this helps less.
//!
//! The file system is looked at once a second, so that nobody has to restart anything: room that comes back is found. Only
//! what is written for *new* work asks first ([`super::Store::room`]); ends, outcomes and deletions are always tried.
//!
//! Not for: session storage, which has a bound of its own (`storage.total`), and sessions' own scratch space, which is memory.

use super::StoreError;
use crate::fault::chain;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::{FsFlags, statvfs};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Between two looks at the file system.
const PAUSE: Duration = Duration::from_secs(1);

/// Room in the log. Beyond 4,062 frames of 4 KiB SQLite needs more room in the log's index too, which nobody keeps for it
/// (opening that file here would take SQLite's locks away).
const HELD: u64 = 15 << 20;

/// What is written to find out whether writes succeed again.
const PROBE: usize = 512;

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reserve(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    /// The database's log.
    log: PathBuf,
    /// Written when writes have failed.
    probe: PathBuf,
    /// Least that is to be free.
    bytes: u64,
    /// Why new work is refused, if it is.
    short: RwLock<Option<Arc<str>>>,
}

impl Reserve {
    /// For the database `agentcore.db` in `directory`: new work needs `bytes` free. Blocks.
    #[must_use]
    pub fn open(database: &Path, bytes: u64) -> Self {
        let reserve = Self(Arc::new(Inner {
            directory: database.parent().unwrap_or(Path::new(".")).to_owned(),
            log: super::open::sibling(database, "-wal"),
            probe: super::open::sibling(database, ".probe"),
            bytes,
            short: RwLock::new(None),
        }));
        reserve.look();
        reserve
    }

    /// Refuses new work while there is no room for it.
    pub fn room(&self) -> Result<(), StoreError> {
        match self.short() {
            None => Ok(()),
            Some(why) => Err(StoreError::NoRoom(why)),
        }
    }

    /// Why new work is refused, if it is.
    #[must_use]
    pub fn short(&self) -> Option<Arc<str>> {
        let short = self.0.short.read();
        short.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Refuses new work unless so much is free beside what is kept for the end of other work. Blocks.
    pub fn fits(&self, bytes: u64) -> Result<(), StoreError> {
        self.room()?;
        let free = statvfs(&self.0.directory).map_or(0, |found| {
            found
                .blocks_available()
                .saturating_mul(found.fragment_size())
        });
        if free.saturating_sub(self.0.bytes) < bytes {
            let why = format!(
                "has {} free, and this takes {}",
                mebibytes(free),
                mebibytes(bytes)
            );
            return Err(StoreError::NoRoom(Arc::from(why)));
        }
        Ok(())
    }

    /// Looks at the file system until the runtime ends.
    pub async fn keep_looking(self) {
        loop {
            let reserve = self.clone();
            // Its only failure is a panic, which has been told.
            let _ = tokio::task::spawn_blocking(move || reserve.look()).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A write found no room.
    pub(super) fn ran_out(&self, error: &StoreError) {
        self.set(Some(format!("has no room ({})", chain(error))));
    }

    /// Finds out how things stand. Blocks.
    pub(super) fn look(&self) {
        let measured = self
            .measure()
            .unwrap_or_else(|error| Some(format!("cannot be written ({error})")));
        self.set(measured);
    }

    fn set(&self, why: Option<String>) {
        let mut short = self.0.short.write().unwrap_or_else(PoisonError::into_inner);
        let directory = self.0.directory.display();
        match (&*short, &why) {
            (None, Some(why)) => {
                tracing::error!(%directory, "the file system of the state directory {why}: no new work is taken until that changes");
            }
            (Some(_), None) => {
                tracing::info!(%directory, "the state directory has room again: new work is taken");
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
        *short = why.map(Arc::from);
    }

    /// Says what is wrong, if something is, and keeps room in the log.
    fn measure(&self) -> io::Result<Option<String>> {
        let found = statvfs(&self.0.directory)?;
        if found.flags().contains(FsFlags::ST_RDONLY) {
            return Ok(Some("is mounted read-only".to_owned()));
        }
        let free = found
            .blocks_available()
            .saturating_mul(found.fragment_size());
        if free < self.0.bytes {
            return Ok(Some(format!(
                "has {} free, less than {} (store.reserve)",
                mebibytes(free),
                mebibytes(self.0.bytes)
            )));
        }
        self.hold()?;
        if self.short().is_some() {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&self.0.probe)?;
            file.write_all_at(&[0; PROBE], 0)?;
            file.sync_data()?;
        }
        Ok(None)
    }

    /// Allocates the log's room, if it has less.
    fn hold(&self) -> io::Result<()> {
        let log = match OpenOptions::new().write(true).open(&self.0.log) {
            // Nobody has written yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        if held(&log)? >= HELD {
            return Ok(());
        }
        let length = i64::try_from(HELD).unwrap_or(i64::MAX);
        // Its length stays what SQLite knows.
        match fallocate(&log, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length) {
            // A file system that cannot; then there is none kept.
            Ok(()) | Err(nix::Error::EOPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn held(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks().saturating_mul(512))
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_kept_in_the_log_and_its_length_is_not_changed() {
        let ground = tempfile::tempdir().expect("directory");
        let database = ground.path().join("db");
        let log = ground.path().join("db-wal");
        std::fs::write(&log, b"frames").expect("written");
        let reserve = Reserve::open(&database, 1 << 20);
        reserve.room().expect("this disk has room");
        let file = File::open(&log).expect("there");
        assert!(held(&file).expect("held") >= HELD, "not held");
        assert_eq!(file.metadata().expect("there").len(), 6);
        reserve.ran_out(&StoreError::Stopped);
        let refused = reserve.room().expect_err("short");
        assert_eq!(refused.code(), proto::code::ErrorCode::StorageFull);
        reserve.look();
        reserve.room().expect("found again");
    }

    #[test]
    fn a_disk_with_less_free_than_asked_for_is_short() {
        let ground = tempfile::tempdir().expect("directory");
        let database = ground.path().join("db");
        let reserve = Reserve::open(&database, 1 << 60);
        let refused = reserve.room().expect_err("nobody has an exbibyte");
        assert!(
            refused.to_string().contains("store.reserve"),
            "names its key: {refused}"
        );
        let ample = Reserve::open(&database, 1);
        ample.fits(1).expect("a byte is free");
        ample.fits(1 << 60).expect_err("an exbibyte is not");
    }
}
