//! The base: the root file system that sessions of code bundles see, below `/app`.
//!
//! Built once by root, at the daemon's start, out of what this host's packages list: a shell with the usual tools, the
//! C library, certificates, Python, Node where it is installed. It is a **copy**: were the host's `/usr` bound into
//! sessions, a kernel bug that writes to the page cache (Dirty Pipe and its kin) would let an agent change programs that
//! root runs. The result is `<state>/bases/<key>/`, owned by root, written by nobody, mounted read-only; the key is made
//! of everything that it is made from, so a package upgrade leads to a new base and running sessions keep theirs.
//!
//! ```text
//! dpkg's lists ─▶ packages (closure of Depends) ─▶ key ──there already?──▶ done
//!                                                   │ no
//!   under a lock: copy ▸ missing libraries ▸ generated /etc ▸ built-in Python ▸ ld.so.cache ▸ .pyc ▸ run it ▸ sync ▸ rename
//! ```
//!
//! Alternatively the operator prepares any root file system and names it (`base = "/path"`): it is checked, not changed.
//!
//! Not for: mounting it (sandbox); container images.

mod build;
mod builtin;
mod command;
mod content;
mod elf;
mod error;
mod etc;
mod given;
mod library;
mod package;
mod prune;
mod record;

pub use error::BaseError;
pub use prune::prune;

use command::versions;
use package::Packages;
use record::Record;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

type Result<T> = std::result::Result<T, BaseError>;

/// Where sessions find the built-in Python package.
pub const BUILTIN_PYTHON: &str = session_core::spec::BUILT_IN_PYTHON;
/// Directories that sessions mount something on. They must be there, because the base is read-only.
pub const MOUNT_POINTS: [&str; 8] = [
    "proc",
    "dev",
    "tmp",
    "app",
    "home/agent",
    "mnt",
    "run",
    "etc",
];

/// A root file system for sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Its root.
    pub root: PathBuf,
    /// Versions of what runs agents: `bash`, `node`, `python3`; what it does not have is not in it.
    pub versions: BTreeMap<String, String>,
    /// What a person should hear about though sessions can run. To be logged once.
    pub notes: Vec<String>,
}

/// Checks the operator's root file system, or gets the one of this host's packages, building it if it is not there yet
/// (a few seconds). Must run as root; `state_dir` must exist.
pub fn prepare(state_dir: &Path, given: Option<&Path>) -> Result<Base> {
    match given {
        Some(root) => given::check(root),
        None => from_packages(&state_dir.join("bases")),
    }
}

fn from_packages(bases: &Path) -> Result<Base> {
    match DirBuilder::new().create(bases) {
        Ok(()) => {
            // Whatever the umask.
            fs::set_permissions(bases, Permissions::from_mode(0o755))
                .map_err(io_at("set the mode of", bases))?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io_at("create", bases)(error)),
    }
    let packages = Packages::of_host()?;
    let key = record::key(&packages)?;
    let root = bases.join(&key);
    if let Some(base) = finished(&root)? {
        return Ok(base);
    }
    let lock_path = bases.join("lock");
    let lock = File::create(&lock_path).map_err(io_at("create", &lock_path))?;
    lock.lock().map_err(io_at("lock", &lock_path))?;
    // Another daemon may have built it while this one waited.
    if let Some(base) = finished(&root)? {
        return Ok(base);
    }
    build::build(&packages, &key, bases)?;
    finished(&root)?.ok_or_else(|| BaseError::Broken {
        detail: format!("{} was built but has no record", root.display()),
    })
}

/// A base that has been built. It got its name last, so whatever has the name is whole.
fn finished(root: &Path) -> Result<Option<Base>> {
    if !root.exists() {
        return Ok(None);
    }
    let Record {
        versions, notes, ..
    } = Record::read(root)?;
    Ok(Some(Base {
        root: root.to_owned(),
        versions,
        notes,
    }))
}

fn io_at(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BaseError {
    let path = path.to_owned();
    move |source| BaseError::Io { verb, path, source }
}

/// Reads a file of the host that may be missing.
fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_at("read", path)(error)),
    }
}

#[cfg(test)]
mod tests;
