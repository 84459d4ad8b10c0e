//! Opening the database file: made whole or not at all, checked before anything is written to it.

use super::{StoreError, migrate, suspicion};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long to wait for another process's lock, such as somebody's `sqlite3` on the file. Calls are slow then, none fails.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens the connection that writes, after checks and migrations.
pub(super) fn writer(path: &Path) -> Result<Connection, StoreError> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            return Err(StoreError::Foreign {
                path: path.to_owned(),
                detail: "it is not a regular file".to_owned(),
            });
        }
        // SQLite would take an empty file for a new database. Ours is never empty: it is made under another name.
        Ok(found) if found.len() == 0 => return Err(corrupt(path, "it is empty")),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path)?,
        Err(error) => return Err(file("read", path, error)),
    }
    let db = connect(path)?;
    // Until the file is known to be sound and ours, closing must not move the write-ahead log into it.
    checking(
        path,
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true),
    )?;
    migrate::check_identity(&db, path)?;
    let suspicion = suspicion::of(path).map_err(|error| file("look at", path, error))?;
    // A restored backup has no log, and is not in that mode yet.
    let logged = fs::metadata(sibling(path, "-wal")).is_ok_and(|log| log.len() > 0);
    let suspected = suspicion
        .as_deref()
        .filter(|why| *why != suspicion::NO_COST);
    if let Some(why) = suspected {
        tracing::info!(path = %path.display(), why, "the database is checked from end to end");
    }
    if suspicion.is_some() {
        check_integrity(&db, path)?;
    }
    migrate::run(&db)?;
    checking(
        path,
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false),
    )?;
    let mode: String = db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(StoreError::Foreign {
            path: path.to_owned(),
            detail: format!("its file system allows no write-ahead log, only {mode}"),
        });
    }
    if suspected.is_some() && logged {
        // What a failed sync leaves in the page cache counts as written, and is not on disk
        // (<https://lwn.net/Articles/752063/>). It is written anew: all of the log into the file.
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    }
    make_shrinkable(&db, path);
    // Keeps a burst's log from staying on disk for ever.
    db.pragma_update(None, "journal_size_limit", 16 << 20)?;
    suspicion::note_open(path);
    Ok(db)
}

/// A database that was made before pages could be given back is written anew, once.
fn make_shrinkable(db: &Connection, path: &Path) {
    const INCREMENTAL: i64 = 2;
    let made = || {
        let mode: i64 = db.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
        if mode == INCREMENTAL {
            return Ok(());
        }
        db.pragma_update(None, "auto_vacuum", INCREMENTAL)?;
        db.execute_batch("VACUUM")
    };
    if let Err(error) = made() {
        // Everything else works without.
        tracing::warn!(path = %path.display(), %error, "the database cannot be made to shrink; tried again at the next start");
    }
}

/// Opens the connection that reads. The file has been checked by then.
pub(super) fn reader(path: &Path) -> Result<Connection, StoreError> {
    let db = connect(path)?;
    db.pragma_update(None, "query_only", true)?;
    Ok(db)
}

pub(super) fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = checking(path, Connection::open_with_flags(path, flags))?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    // All statements that are used again and again stay compiled.
    db.set_prepared_statement_cache_capacity(128);
    let set = || {
        db.pragma_update(None, "foreign_keys", true)?;
        // The file may be damaged or prepared: believe neither its cells' sizes nor its schema's functions.
        db.pragma_update(None, "cell_size_check", true)?;
        db.pragma_update(None, "trusted_schema", false)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)
    };
    checking(path, set())?;
    Ok(db)
}

/// Makes a new database beside its name and renames it, so that a file of that name is always a whole one.
fn create(path: &Path) -> Result<(), StoreError> {
    let log = sibling(path, "-wal");
    if log.exists() {
        return Err(corrupt(
            path,
            &format!(
                "the file is missing, but its log {} is there",
                log.display()
            ),
        ));
    }
    let fresh = sibling(path, ".new");
    for leftover in [fresh.clone(), sibling(&fresh, "-journal")] {
        match fs::remove_file(&leftover) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(file("remove", &leftover, error)),
        }
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        // Session tokens are in it. The log and its index inherit the mode.
        .mode(0o600)
        .open(&fresh)
        .map_err(|error| file("create", &fresh, error))?;
    let db = connect(&fresh)?;
    // Has to be said before there is a table (<https://sqlite.org/pragma.html#pragma_auto_vacuum>).
    db.pragma_update(None, "auto_vacuum", 2)?;
    migrate::run(&db)?;
    db.close().map_err(|(_, error)| StoreError::from(error))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(&fresh)
        .and_then(|f| f.sync_all())
        .and_then(|()| fs::rename(&fresh, path))
        .and_then(|()| File::open(directory)?.sync_all())
        .map_err(|error| file("create", path, error))?;
    suspicion::note_open(path);
    Ok(())
}

pub(super) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Reads everything: what finds a flipped page before it spreads.
pub(super) fn check_integrity(db: &Connection, path: &Path) -> Result<(), StoreError> {
    let check = || {
        let mut statement = db.prepare("PRAGMA integrity_check(3)")?;
        let found = statement.query_map([], |row| row.get::<_, String>(0))?;
        let mut faults: Vec<String> = found.collect::<Result<_, _>>()?;
        faults.retain(|line| line != "ok");
        let mut statement = db.prepare("PRAGMA foreign_key_check")?;
        if statement.exists([])? {
            faults.push("a row refers to another that is missing".to_owned());
        }
        Ok(faults)
    };
    match checking(path, check())?.as_slice() {
        [] => Ok(()),
        faults => Err(corrupt(path, &faults.join("; "))),
    }
}

/// A file system that has turned read-only under a database that is open shows as an I/O error. Nothing was written then, so
/// it is as a full disk: the store goes on, and works again when the disk does.
pub(super) fn read_only_told(db: &Connection, error: StoreError) -> StoreError {
    let failed_write = |error: &rusqlite::Error| {
        error
            .sqlite_error()
            .is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_WRITE)
    };
    match error {
        StoreError::Database(cause) if failed_write(&cause) && is_read_only(db) => {
            StoreError::Full(cause)
        }
        other => other,
    }
}

fn is_read_only(db: &Connection) -> bool {
    let Some(path) = db.path().map(Path::new) else {
        return false;
    };
    let probe = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(sibling(path, ".probe"));
    probe.is_err_and(|error| error.kind() == io::ErrorKind::ReadOnlyFilesystem)
}

/// Tells damage found while opening from other failures.
pub(super) fn checking<T>(path: &Path, outcome: rusqlite::Result<T>) -> Result<T, StoreError> {
    use rusqlite::ErrorCode as Sqlite;
    outcome.map_err(|error| match error.sqlite_error_code() {
        Some(Sqlite::DatabaseCorrupt | Sqlite::NotADatabase) => corrupt(path, &error.to_string()),
        _ => StoreError::from(error),
    })
}

fn corrupt(path: &Path, detail: &str) -> StoreError {
    StoreError::Corrupt {
        path: path.to_owned(),
        detail: detail.to_owned(),
    }
}

fn file(verb: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::File {
        verb,
        path: path.to_owned(),
        source: Arc::new(source),
    }
}
