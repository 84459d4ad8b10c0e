//! Bundles of code: received, checked, unpacked and kept by the hash of their packed bytes (security-bar §4.2).
//!
//! ```text
//! <state>/broker/artifacts/
//!   sha256/<64 hex>/tree/…       the bundle's files, as sessions see them at /app
//!   sha256/<64 hex>/meta.json    its measures
//!   incoming/…                   being unpacked or deleted; emptied at start
//! ```
//!
//! An [`Upload`] spools to a file without a name, so that nothing is left of one that is given up. [`Upload::unpack`]
//! writes the tree into `incoming/` and syncs it; [`Unpacked::publish`] renames it into place, which is the moment from
//! which it exists. What is published never changes.
//!
//! The bytes are a stranger's. They are parsed here, in the broker, which has no privilege and whose own files are all that
//! a mistake could reach; and every path operation goes through a descriptor of the tree's root with
//! `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS` ([`tree`]), so that a mistake in the checks of names would still not lead out.
//!
//! Not for: knowing which runtime uses what (that is the store; [`Library`] keeps both in step).

mod budget;
mod entry_path;
mod error;
mod library;
mod tar_gz;
mod tree;
mod upload;
mod zip;

pub use budget::Bounds;
pub use error::{ArtifactError, Refusal};
pub use library::Library;
pub use upload::{Unpacked, Upload};

use crate::store::NewArtifact;
use budget::Budget;
use nix::fcntl::{OFlag, OpenHow, RenameFlags, ResolveFlag, openat2, renameat2};
use nix::sys::stat::Mode;
use proto::ids::ArtifactId;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tree::Tree;

/// The bundles of one daemon; cheap to clone. All methods block.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    places: Arc<Places>,
}

#[derive(Debug)]
struct Places {
    published: PathBuf,
    incoming: PathBuf,
    bounds: Bounds,
}

/// Measures of a tree that was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measures {
    /// Bytes of its files.
    pub unpacked_bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

impl ArtifactStore {
    /// Opens the directory, making it if it is not there, and empties what an earlier daemon left half done.
    pub fn open(root: &Path, bounds: Bounds) -> Result<Self, ArtifactError> {
        let places = Places {
            published: root.join("sha256"),
            incoming: root.join("incoming"),
            bounds,
        };
        for directory in [&places.published, &places.incoming] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(|e| ArtifactError::io("create", directory, e))?;
        }
        for entry in list_directory(&places.incoming)? {
            remove(&entry)?;
        }
        Ok(Self {
            places: Arc::new(places),
        })
    }

    /// Refuses a bundle of this many bytes if that is too many.
    pub fn admit(&self, packed: u64) -> Result<(), ArtifactError> {
        let most = self.places.bounds.packed;
        if packed > most {
            return Err(Refusal::Packed(most).whole());
        }
        Ok(())
    }

    fn bounds(&self) -> &Bounds {
        &self.places.bounds
    }

    /// Begins to receive a bundle.
    pub fn begin_upload(&self) -> Result<Upload, ArtifactError> {
        Upload::begin(self.clone())
    }

    /// The root of a bundle's files, as a descriptor to hand on (`O_PATH`).
    pub fn tree_dir(&self, id: &ArtifactId) -> Result<OwnedFd, ArtifactError> {
        let path = self.directory(id).join("tree");
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC);
        openat2(nix::fcntl::AT_FDCWD, &path, how).map_err(|errno| match errno {
            nix::Error::ENOENT => ArtifactError::NotFound(id.clone()),
            errno => ArtifactError::io("open", &path, errno.into()),
        })
    }

    /// Whether a bundle has a file at this relative path (`None` if not), and whether it may be executed. Links are
    /// followed as far as they stay in the bundle.
    pub fn file(&self, id: &ArtifactId, path: &str) -> Result<Option<BundleFile>, ArtifactError> {
        let root = self.tree_dir(id)?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let Ok(found) = openat2(&root, path, how) else {
            return Ok(None);
        };
        let found = File::from(found)
            .metadata()
            .map_err(|e| ArtifactError::io("read", path, e))?;
        Ok(found.is_file().then(|| BundleFile {
            executable: found.mode() & 0o100 != 0,
        }))
    }

    /// Measures of a published bundle.
    pub fn measures(&self, id: &ArtifactId) -> Result<Option<NewArtifact>, ArtifactError> {
        let path = self.directory(id).join("meta.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ArtifactError::io("read", &path, error)),
        };
        let meta: Meta = serde_json::from_slice(&text)
            .map_err(|error| ArtifactError::io("read", &path, error.into()))?;
        Ok(Some(NewArtifact {
            id: id.clone(),
            packed_bytes: meta.packed_bytes,
            unpacked_bytes: meta.unpacked_bytes,
            entries: meta.entries,
        }))
    }

    /// Ids of all published bundles, in no order.
    pub fn list(&self) -> Result<Vec<ArtifactId>, ArtifactError> {
        let entries = list_directory(&self.places.published)?;
        let names = entries.iter().filter_map(|path| path.file_name()?.to_str());
        Ok(names
            .filter_map(|name| ArtifactId::parse(name).ok())
            .collect())
    }

    /// Deletes a bundle; false if there is none. It is gone at once, though removing its files may take a while.
    pub fn delete(&self, id: &ArtifactId) -> Result<bool, ArtifactError> {
        let gone = self
            .places
            .incoming
            .join(format!("gone-{}", uuid::Uuid::new_v4()));
        match fs::rename(self.directory(id), &gone) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(ArtifactError::io("delete", self.directory(id), error)),
        }
        sync_directory(&self.places.published)?;
        remove(&gone)?;
        Ok(true)
    }

    fn directory(&self, id: &ArtifactId) -> PathBuf {
        self.places.published.join(id.as_str())
    }

    /// Renames a complete directory into place; false if the bundle is there already.
    fn publish(&self, id: &ArtifactId, from: &Path) -> Result<bool, ArtifactError> {
        let to = self.directory(id);
        let cwd = nix::fcntl::AT_FDCWD;
        match renameat2(cwd, from, cwd, &to, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => {}
            Err(nix::Error::EEXIST) => return Ok(false),
            Err(errno) => return Err(ArtifactError::io("publish", &to, errno.into())),
        }
        sync_directory(&self.places.published)?;
        Ok(true)
    }
}

/// A file of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleFile {
    /// Whether its owner may execute it.
    pub executable: bool,
}

/// What `meta.json` holds.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Meta {
    packed_bytes: u64,
    unpacked_bytes: u64,
    entries: u64,
}

/// Unpacks a zip or tar.gz file into an empty directory. On an error the directory holds some part of it, and nothing
/// outside the directory has been touched.
pub fn unpack(
    packed: &File,
    into: BorrowedFd<'_>,
    bounds: &Bounds,
) -> Result<Measures, ArtifactError> {
    let length = packed
        .metadata()
        .map_err(|e| ArtifactError::io("read", "the upload", e))?
        .len();
    let mut budget = Budget::new(bounds, length);
    let mut tree = Tree::begin(into)?;
    let mut magic = [0; 4];
    let known = read_start(packed, &mut magic)?;
    match &magic[..known] {
        [0x1f, 0x8b, ..] => tar_gz::unpack(packed, &mut tree, &mut budget)?,
        // The second is a zip of no files: refused there, with a better reason.
        b"PK\x03\x04" | b"PK\x05\x06" => zip::unpack(packed, length, &mut tree, &mut budget)?,
        _ => return Err(Refusal::Format.whole()),
    }
    tree.finish()?;
    budget.finish()
}

fn read_start(packed: &File, magic: &mut [u8; 4]) -> Result<usize, ArtifactError> {
    use std::os::unix::fs::FileExt;
    let mut read = 0;
    while read < magic.len() {
        match packed.read_at(&mut magic[read..], read as u64) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ArtifactError::io("read", "the upload", error)),
        }
    }
    Ok(read)
}

fn list_directory(directory: &Path) -> Result<Vec<PathBuf>, ArtifactError> {
    fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(|e| ArtifactError::io("list", directory, e))
}

/// Removes a directory or file of ours, whatever is in it. `remove_dir_all` works by descriptors and follows no links; its
/// depth is that of a tree, which is bounded.
fn remove(path: &Path) -> Result<(), ArtifactError> {
    let found = fs::symlink_metadata(path).map_err(|e| ArtifactError::io("read", path, e))?;
    let removed = if found.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.map_err(|e| ArtifactError::io("remove", path, e))
}

fn sync_directory(path: &Path) -> Result<(), ArtifactError> {
    File::open(path)
        .and_then(|d| d.sync_all())
        .map_err(|e| ArtifactError::io("sync", path, e))
}

fn make_directory(path: &Path, mode: u32) -> Result<OwnedFd, ArtifactError> {
    let made = DirBuilder::new()
        .mode(mode)
        .create(path)
        .and_then(|()| File::open(path));
    let directory = made.map_err(|e| ArtifactError::io("create", path, e))?;
    // The umask must not decide what sessions can read.
    nix::sys::stat::fchmod(directory.as_fd(), Mode::from_bits_truncate(mode))
        .map_err(|e| ArtifactError::io("create", path, e.into()))?;
    Ok(directory.into())
}

#[cfg(test)]
mod tests;
