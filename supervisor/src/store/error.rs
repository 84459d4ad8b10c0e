//! What can go wrong with the store, told so that a caller knows whose fault it is.

use proto::code::ErrorCode;
use rusqlite::ErrorCode as Sqlite;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a call to the store failed. Clonable, because one failed commit answers every job in it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// There is no such thing.
    #[error("there is no {0}")]
    NotFound(String),
    /// The thing exists already, or is in use.
    #[error("{0}")]
    Conflict(String),
    /// As much is there as may be.
    #[error("{0}")]
    Quota(String),
    /// A caller's token was used before, for something else.
    #[error("this clientToken was used before with another request; use a new one")]
    TokenReused,
    /// An argument breaks a rule.
    #[error("`{field}` {message}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// Which rule.
        message: String,
    },
    /// Every uid range of this instance's block is taken.
    #[error("all {0} uid ranges of this daemon are in use by live sessions; wait until one ends")]
    NoFreeUids(u32),
    /// The disk is full or read-only. Nothing was changed; the store goes on and works again when there is room.
    #[error(
        "the state directory cannot be written; free some space on its file system, or make it writable"
    )]
    Full(#[source] Arc<rusqlite::Error>),
    /// There is no room for new work; why. What runs goes on, and new work is taken again when there is room.
    #[error(
        "the file system of the state directory {0}; no new work is taken until there is room, what runs goes on"
    )]
    NoRoom(Arc<str>),
    /// The database file is damaged.
    #[error(
        "{} is damaged ({detail}). It was left as it is. Move it and its -wal and -shm files away, then put a file of \
         `agentcore backup` in its place, or what `sqlite3 FILE .recover | sqlite3 NEW` saves of it; with neither a new one is \
         begun, which forgets all runtimes (docs/backup.md)", .path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The file is a database of something else, or not a file.
    #[error("{} is not a database of agentcored ({detail}). It was left as it is; is `state_dir` right?", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// A newer daemon wrote the database.
    #[error(
        "{} has schema {found}, written by a newer agentcored; this one knows schemas up to {known}. Nothing was changed. \
         Start the newer version, or restore the backup from before the upgrade", .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema that this binary knows.
        known: i64,
    },
    /// A file operation of opening it failed.
    #[error("cannot {verb} {}", .path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The key that proves the records of usage cannot be used.
    #[error(transparent)]
    Secret(Arc<crate::key_file::KeyFileError>),
    /// SQLite failed in a way that should not happen.
    #[error("the database failed")]
    Database(#[source] Arc<rusqlite::Error>),
    /// The store has failed before and takes no more work.
    #[error("the store has stopped; see the log for the reason, the daemon will restart")]
    Stopped,
}

impl StoreError {
    /// How the failure is told to callers.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound(_) => ErrorCode::NotFound,
            Self::Conflict(_) => ErrorCode::Conflict,
            Self::Quota(_) => ErrorCode::QuotaExceeded,
            Self::Invalid { .. } | Self::TokenReused => ErrorCode::Validation,
            Self::NoFreeUids(_) => ErrorCode::Throttled,
            Self::Full(_) | Self::NoRoom(_) => ErrorCode::StorageFull,
            Self::Corrupt { .. }
            | Self::Foreign { .. }
            | Self::Newer { .. }
            | Self::File { .. }
            | Self::Secret(_)
            | Self::Database(_) => ErrorCode::Internal,
            Self::Stopped => ErrorCode::Unavailable,
        }
    }

    /// Whether nobody knows any more what is on disk: an I/O error or damage found while running. A full disk is not:
    /// SQLite rolls back then.
    pub(super) fn is_fatal(&self) -> bool {
        match self {
            Self::Database(error) => matches!(
                error.sqlite_error_code(),
                Some(Sqlite::SystemIoFailure | Sqlite::DatabaseCorrupt | Sqlite::NotADatabase)
            ),
            Self::NotFound(_)
            | Self::Conflict(_)
            | Self::Quota(_)
            | Self::TokenReused
            | Self::Invalid { .. }
            | Self::NoFreeUids(_)
            | Self::Full(_)
            | Self::NoRoom(_)
            | Self::Corrupt { .. }
            | Self::Foreign { .. }
            | Self::Newer { .. }
            | Self::File { .. }
            | Self::Secret(_)
            | Self::Stopped => false,
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        // SQLITE_FULL is the disk; READONLY, CANTOPEN and PERM are how a remounted or over-quota file system shows; an
        // IOERR on extending the -shm file (SHMSIZE) is ENOSPC too, before anything was written.
        const SHM_SIZE: i32 = rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
        let full = match error.sqlite_error() {
            Some(e) => {
                matches!(
                    e.code,
                    Sqlite::DiskFull
                        | Sqlite::ReadOnly
                        | Sqlite::CannotOpen
                        | Sqlite::PermissionDenied
                ) || e.extended_code == SHM_SIZE
            }
            None => false,
        };
        if full {
            Self::Full(Arc::new(error))
        } else {
            Self::Database(Arc::new(error))
        }
    }
}
