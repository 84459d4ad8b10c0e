//! Host uids of sessions: each daemon instance owns a block of 2^20, each session a range of [`UIDS_PER_SESSION`] in it.
//!
//! Two sessions that share a host uid share keys, inotify and pipe quotas and may signal each other (security bar T1), so
//! no two instances of one host may hand out the same numbers, not even one after the other while anything of the first
//! is left. A **registry** directory, used under a lock, records who has which block:
//!
//! ```text
//! /var/lib/agentcore-uids/          root, 0755
//!   lock                            held while the registry is read or changed
//!   2013265920                      one file per block: instance, state directory, process
//!   2013265920.lock                 held by the instance while it runs
//! ```
//!
//! It is in `/var/lib`, not in `/run`: a state directory outlives a reboot and has files of the block's first uid (the
//! broker's, where the host has no user `agentcore`). If the registry began empty at each boot, the instance that starts
//! first could become the owner of another's files. For the case that the registry was lost nevertheless, the state
//! directory remembers its block (`uids`) and gets it back if nobody else has it.
//!
//! A block is given back when its instance does not run **and** its state directory is gone (or belongs to another
//! instance now) **and** no process has a uid in it: the sessions of a daemon that was killed live on.
//!
//! Not for: handing out ranges within the block (the broker's store does that, so that they survive it).

mod entry;
mod taken;

use entry::Entry;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::ops::{Deref, Range};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Host uids (and gids) of one session.
pub const UIDS_PER_SESSION: u32 = 16;
/// Host uids of one instance: 65,535 sessions and the broker.
pub const BLOCK_SIZE: u32 = 1 << 20;
/// First uid that any instance may get.
pub const FIRST_UID: u32 = 2_013_265_920;
/// First uid that none may get. The numbers from here to 2^31 are left out because systemd's "foreign" range
/// (2147352576–2147418111, systemd.io/UIDS-GIDS) is among them; above 2^31 tools stumble over the sign.
pub const END_UID: u32 = (1 << 31) - BLOCK_SIZE;
/// Where the registry is, unless a test says otherwise.
pub const REGISTRY: &str = "/var/lib/agentcore-uids";

/// The memory of the block in the state directory.
const MEMORY: &str = "uids";

/// Why no block could be had.
#[derive(Debug, thiserror::Error)]
pub enum UidBlockError {
    /// A file or directory operation failed.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The registry could be changed by someone who is not root.
    #[error(
        "{} must be a directory that belongs to root and that nobody else may write to; \
         it decides which uids belong to whom", path.display()
    )]
    Untrusted {
        /// The registry.
        path: PathBuf,
    },
    /// A copy of a state directory.
    #[error(
        "{} bears the instance id `{instance}` of {}, which is still there: it is a copy. Delete the file `instance` in the \
         copy to give it an id of its own", copy.display(), original.display()
    )]
    Copied {
        /// The id that both bear.
        instance: String,
        /// The directory that was to be started.
        copy: PathBuf,
        /// The one that the registry knows.
        original: PathBuf,
    },
    /// The instance runs already.
    #[error("instance `{instance}` runs already, as process {pid}")]
    Running {
        /// Its id.
        instance: String,
        /// Its process.
        pid: u32,
    },
    /// All blocks have an owner.
    #[error(
        "no block of {BLOCK_SIZE} uids between {FIRST_UID} and {END_UID} is free; {} lists who has them, and one is given \
         back when the state directory of an instance that does not run is deleted", path.display()
    )]
    Exhausted {
        /// The registry.
        path: PathBuf,
    },
}

type Result<T> = std::result::Result<T, UidBlockError>;

/// A block of host uids, ours while this lives. [`Deref`] gives its numbers.
#[derive(Debug)]
pub struct UidBlock {
    uids: UidRange,
    /// Held (flock) until every process that inherited it has closed it.
    _lock: File,
}

impl Deref for UidBlock {
    type Target = UidRange;
    fn deref(&self) -> &UidRange {
        &self.uids
    }
}

/// The numbers of a block, for those who do not hold it: the launcher, whose life must not keep the block from the
/// daemon's successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UidRange {
    first: u32,
}

impl UidRange {
    /// All uids of the block.
    #[must_use]
    pub fn range(self) -> Range<u32> {
        self.first..self.first + BLOCK_SIZE
    }

    /// The uid (and gid) of the broker where the host has no user for it. No session has it.
    #[must_use]
    pub fn broker_uid(self) -> u32 {
        self.first
    }

    /// First uids of the ranges that sessions may have, in steps of [`UIDS_PER_SESSION`]; the broker's is left out.
    pub fn session_bases(self) -> impl Iterator<Item = u32> {
        let step = UIDS_PER_SESSION;
        (self.first + step..self.first + BLOCK_SIZE).step_by(step as usize)
    }

    /// Whether `uid_base` begins a session's range of this block.
    #[must_use]
    pub fn has_session_base(self, uid_base: u32) -> bool {
        self.range().contains(&uid_base)
            && uid_base != self.first
            && (uid_base - self.first).is_multiple_of(UIDS_PER_SESSION)
    }
}

/// Gets this instance's block: the one it had, else a free one. `state_dir` must exist and belong to root.
pub fn claim(instance: &str, state_dir: &Path) -> Result<UidBlock> {
    claim_in(Path::new(REGISTRY), instance, state_dir)
}

/// The same with a registry elsewhere.
pub fn claim_in(registry: &Path, instance: &str, state_dir: &Path) -> Result<UidBlock> {
    let registry = Registry::open(registry)?;
    let state_dir = fs::canonicalize(state_dir).map_err(io_at("resolve", state_dir))?;
    // The registry has one line per value.
    if state_dir
        .to_str()
        .is_none_or(|path| path.chars().any(char::is_control))
    {
        let error = io::Error::other("its path has a character that is not allowed");
        return Err(io_at("use", &state_dir)(error));
    }
    let first = match registry.owned_by(instance, &state_dir)? {
        Some(first) => first,
        None => registry.choose(&state_dir)?,
    };
    let lock = registry
        .try_hold(first)?
        .ok_or_else(|| UidBlockError::Running {
            instance: instance.to_owned(),
            pid: registry.entry(first).map_or(0, |entry| entry.pid),
        })?;
    registry.record(first, &Entry::of_self(instance, &state_dir))?;
    let memory = state_dir.join(MEMORY);
    let text = format!("{first}\n");
    // Mostly it says so already, and a disk that is full must not keep a daemon from its sessions.
    if fs::read_to_string(&memory).ok().as_deref() != Some(&text) {
        replace(&memory, &text)?;
    }
    Ok(UidBlock {
        uids: UidRange { first },
        _lock: lock,
    })
}

/// The registry's directory, locked.
struct Registry {
    path: PathBuf,
    _lock: File,
}

impl Registry {
    fn open(path: &Path) -> Result<Self> {
        match DirBuilder::new().mode(0o755).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_at("create", path)(error)),
        }
        let found = fs::symlink_metadata(path).map_err(io_at("look at", path))?;
        if !found.is_dir()
            || found.uid() != nix::unistd::geteuid().as_raw()
            || found.mode() & 0o022 != 0
        {
            return Err(UidBlockError::Untrusted {
                path: path.to_owned(),
            });
        }
        let lock = lock_file(&path.join("lock"))?;
        lock.lock().map_err(io_at("lock", &path.join("lock")))?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    fn blocks() -> impl Iterator<Item = u32> {
        (FIRST_UID..END_UID).step_by(BLOCK_SIZE as usize)
    }

    /// The block that is registered for this very instance.
    fn owned_by(&self, instance: &str, state_dir: &Path) -> Result<Option<u32>> {
        for first in Self::blocks() {
            let Some(entry) = self.entry(first).filter(|e| e.instance == instance) else {
                continue;
            };
            // The directory may have been moved; but two of them with one id would share cgroups too.
            if entry.state_dir != state_dir && entry.still_owns_its_directory() {
                return Err(UidBlockError::Copied {
                    instance: instance.to_owned(),
                    copy: state_dir.to_owned(),
                    original: entry.state_dir,
                });
            }
            return Ok(Some(first));
        }
        Ok(None)
    }

    /// A block for a newcomer: the one its state directory remembers, else the first free one.
    fn choose(&self, state_dir: &Path) -> Result<u32> {
        let in_use = taken::by_processes();
        let reserved = taken::by_configuration()?;
        for first in Self::blocks() {
            self.give_back(first, &in_use)?;
        }
        let free = |first: &u32| {
            let range = *first..*first + BLOCK_SIZE;
            !self.file(*first).exists() && !taken::overlaps(&reserved, &range)
        };
        let remembered = fs::read_to_string(state_dir.join(MEMORY))
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok())
            .filter(|first| Self::blocks().any(|block| block == *first))
            // Its own sessions may be what uses it.
            .filter(free);
        if let Some(first) = remembered {
            return Ok(first);
        }
        Self::blocks()
            .filter(free)
            .find(|first| !taken::overlaps(&in_use, &(*first..*first + BLOCK_SIZE)))
            .ok_or_else(|| UidBlockError::Exhausted {
                path: self.path.clone(),
            })
    }

    /// Forgets the owner of a block if nothing of it is left.
    fn give_back(&self, first: u32, in_use: &[Range<u32>]) -> Result<()> {
        // An entry that cannot be read is nobody's to give away.
        let Some(entry) = self.entry(first) else {
            return Ok(());
        };
        let range = first..first + BLOCK_SIZE;
        if entry.still_owns_its_directory() || taken::overlaps(in_use, &range) {
            return Ok(());
        }
        let Some(_held) = self.try_hold(first)? else {
            return Ok(());
        };
        let path = self.file(first);
        fs::remove_file(&path).map_err(io_at("remove", &path))
    }

    fn file(&self, first: u32) -> PathBuf {
        self.path.join(first.to_string())
    }

    fn entry(&self, first: u32) -> Option<Entry> {
        Entry::parse(&fs::read_to_string(self.file(first)).ok()?)
    }

    /// The lock of a running instance, or `None` if it is held.
    fn try_hold(&self, first: u32) -> Result<Option<File>> {
        let path = self.path.join(format!("{first}.lock"));
        let lock = lock_file(&path)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(io_at("lock", &path)(error)),
        }
    }

    fn record(&self, first: u32, entry: &Entry) -> Result<()> {
        replace(&self.file(first), &entry.to_string())
    }
}

/// Opens a lock file that only root can open: whoever can open it can hold it.
fn lock_file(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(io_at("open", path))
}

/// Replaces a small file so that a crash leaves the old or the new content.
fn replace(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // The name, too, must be on disk before files of this uid are.
        match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(io_at("write", path))
}

fn io_at(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UidBlockError {
    let path = path.to_owned();
    move |source| UidBlockError::Io { verb, path, source }
}

#[cfg(test)]
mod tests;
