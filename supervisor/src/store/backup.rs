//! A copy of the database while it is used: whole, of one moment, checked, and without what is free in it.
//!
//! It is made on a connection of its own (`VACUUM INTO`), so that neither the writer nor readers wait for it. While it
//! reads, the log cannot begin anew and grows with what is written meanwhile; both have bounds here.

use super::open::{check_integrity, checking, connect, sibling};
use super::{Store, StoreError};
use rusqlite::InterruptHandle;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long copying may take: some gigabytes.
const LONGEST: Duration = Duration::from_secs(120);

/// How long the log may get meanwhile.
const LOG: u64 = 512 << 20;

/// Between two looks at both.
const LOOK: Duration = Duration::from_millis(100);

/// A copy: an open file without a name, so that nothing is left of it when nobody has it any more.
#[derive(Debug)]
pub struct Copied {
    /// Its content, from the beginning.
    pub file: File,
    /// Its length.
    pub bytes: u64,
}

impl Store {
    /// Copies the database. `directory` is this function's alone; what is in it is from copies that broke off.
    pub async fn copy(&self, directory: &Path) -> Result<Copied, StoreError> {
        let size = fs::metadata(&self.path).map_or(0, |found| found.len());
        if let Some(reserve) = &self.reserve {
            reserve.fits(size)?;
        }
        let (path, directory) = (Arc::clone(&self.path), directory.to_owned());
        let copying = tokio::task::spawn_blocking(move || copy(&path, &directory));
        copying.await.map_err(|_panic| StoreError::Stopped)?
    }
}

fn copy(path: &Path, directory: &Path) -> Result<Copied, StoreError> {
    let target = directory.join("copy.db");
    empty(directory)?;
    let db = connect(path)?;
    let handle = db.get_interrupt_handle();
    let done = std::sync::mpsc::channel::<()>();
    let log = sibling(path, "-wal");
    let watch = std::thread::spawn(move || watch(&handle, &log, &done.1));
    let copied = db.execute("VACUUM INTO ?1", [target.to_string_lossy()]);
    drop(done.0);
    let stopped = watch.join().unwrap_or_default();
    drop(db);
    match (copied, stopped) {
        (Ok(_), _) => {}
        (Err(_), Some(why)) => return Err(StoreError::Conflict(why)),
        (Err(error), None) => {
            return Err(checking::<()>(path, Err(error))
                .err()
                .unwrap_or(StoreError::Stopped));
        }
    }
    // A copy of a database that is damaged where nobody has looked yet must not pass for a backup.
    let made = connect(&target)?;
    check_integrity(&made, &target)?;
    drop(made);
    let file = File::open(&target).map_err(|error| failed("open", &target, error))?;
    let bytes = file
        .metadata()
        .map_err(|error| failed("read", &target, error))?
        .len();
    empty(directory)?;
    Ok(Copied { file, bytes })
}

/// Interrupts what takes too long or too much; why, if it did.
fn watch(
    handle: &InterruptHandle,
    log: &Path,
    done: &std::sync::mpsc::Receiver<()>,
) -> Option<String> {
    let began = Instant::now();
    loop {
        match done.recv_timeout(LOOK) {
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return None,
        }
        let long = fs::metadata(log).is_ok_and(|found| found.len() > LOG);
        let why = if began.elapsed() > LONGEST {
            "copying the database took too long; try again when less is written"
        } else if long {
            "too much was written while the database was copied; try again when less is"
        } else {
            continue;
        };
        handle.interrupt();
        return Some(why.to_owned());
    }
}

/// Makes the directory, or empties it.
fn empty(directory: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", directory, error));
        }
        Ok(()) | Err(_) => {}
    }
    DirBuilder::new()
        .mode(0o700)
        .create(directory)
        .map_err(|error| failed("create", directory, error))
}

fn failed(verb: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::File {
        verb,
        path: PathBuf::from(path),
        source: Arc::new(source),
    }
}
