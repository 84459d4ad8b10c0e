//! A directory held open, and what is made below it. No symbolic link is ever followed, on no part of a path.

use super::{InstanceError, Result};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, fchown};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Uid and gid of root.
pub(super) const ROOT: (u32, u32) = (0, 0);
/// How deep the hand-over goes. What daemons make is a few levels deep.
pub(super) const MAX_DEPTH: usize = 64;

/// A directory, held open. The path is for messages, and for programs that take only a path.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens the directory at `path`, which must be root's and be reached only through directories in which nobody else
    /// can replace it. Missing ones are made, 0755.
    pub(super) fn open_or_make_path(path: &Path) -> Result<Self> {
        let path = absolute(path)?;
        let mut dir = Self::open_root()?;
        for component in path.components() {
            let Component::Normal(name) = component else {
                continue;
            };
            dir.check_on_the_way()?;
            let name = Path::new(name);
            dir = match dir.open_dir(name) {
                Err(InstanceError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    dir.make(name, 0o755, ROOT)?
                }
                other => other?,
            };
        }
        dir.check_owner(ROOT.0)?;
        Ok(dir)
    }

    fn open_root() -> Result<Self> {
        let fd = nix::fcntl::open("/", dir_flags(), Mode::empty())
            .map_err(at("open", Path::new("/")))?;
        Ok(Self {
            fd,
            path: PathBuf::from("/"),
        })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory below.
    pub(super) fn open_dir(&self, name: &Path) -> Result<Self> {
        Ok(Self {
            fd: self.open(name, dir_flags(), Mode::empty())?,
            path: self.path.join(name),
        })
    }

    /// Opens a file below.
    pub(super) fn open(&self, name: &Path, flags: OFlag, mode: Mode) -> Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .mode(mode)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        openat2(&self.fd, name, how).map_err(|errno| match errno {
            Errno::ELOOP => InstanceError::Link {
                path: self.path.join(name),
            },
            other => at("open", &self.path.join(name))(other),
        })
    }

    /// Opens a directory below with exactly this mode and owner, making it if it is missing. One that is there must have
    /// the owner already.
    pub(super) fn make(&self, name: &Path, mode: u32, owner: (u32, u32)) -> Result<Self> {
        let path = self.path.join(name);
        // Made closed: nobody enters before it has its owner.
        let fresh = match mkdirat(&self.fd, name, Mode::S_IRWXU) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(errno) => return Err(at("create", &path)(errno)),
        };
        let dir = self.open_dir(name)?;
        if fresh {
            dir.set_owner(owner)?;
        }
        dir.check_owner(owner.0)?;
        dir.set_mode(mode)?;
        Ok(dir)
    }

    /// Sets its permissions, whatever the umask.
    pub(super) fn set_mode(&self, mode: u32) -> Result<()> {
        fchmod(&self.fd, Mode::from_bits_truncate(mode)).map_err(at("set the mode of", &self.path))
    }

    pub(super) fn set_owner(&self, (uid, gid): (u32, u32)) -> Result<()> {
        fchown(&self.fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(at("set the owner of", &self.path))
    }

    pub(super) fn stat(&self) -> Result<FileStat> {
        fstat(&self.fd).map_err(at("look at", &self.path))
    }

    pub(super) fn check_owner(&self, wanted: u32) -> Result<()> {
        let found = self.stat()?.st_uid;
        if found == wanted {
            return Ok(());
        }
        Err(InstanceError::Owner {
            path: self.path.clone(),
            found,
            wanted,
        })
    }

    /// What must hold of every directory above ours: others may enter it, and nobody but root and its owner may put
    /// something else in our directory's place (the sticky bit of /tmp is enough).
    pub(super) fn check_on_the_way(&self) -> Result<()> {
        let mode = Mode::from_bits_truncate(self.stat()?.st_mode);
        if !mode.contains(Mode::S_IXOTH) {
            return Err(InstanceError::Unreachable {
                path: self.path.clone(),
            });
        }
        if mode.contains(Mode::S_IWOTH) && !mode.contains(Mode::S_ISVTX) {
            return Err(InstanceError::Replaceable {
                path: self.path.clone(),
            });
        }
        Ok(())
    }

    /// What a name below is, not following links; `None` if there is nothing.
    pub(super) fn look_at(&self, name: &Path) -> Result<Option<FileStat>> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(at("look at", &self.path.join(name))(errno)),
        }
    }

    /// Names below.
    pub(super) fn names(&self) -> Result<Vec<OsString>> {
        let list = || -> nix::Result<Vec<OsString>> {
            // A descriptor of its own: reading moves the offset, which duplicates share.
            let own = openat2(&self.fd, ".", OpenHow::new().flags(dir_flags()))?;
            let mut names = Vec::new();
            for entry in nix::dir::Dir::from_fd(own)?.iter() {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.push(OsStr::from_bytes(name).to_owned());
                }
            }
            Ok(names)
        };
        list().map_err(at("list", &self.path))
    }

    /// Writes what was renamed or made here to disk.
    pub(super) fn sync(&self) -> Result<()> {
        let synced = self
            .fd
            .try_clone()
            .map(File::from)
            .and_then(|dir| dir.sync_all());
        synced.map_err(|source| InstanceError::Io {
            verb: "sync",
            path: self.path.clone(),
            source,
        })
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether it is a directory.
pub(super) fn is_directory(found: &FileStat) -> bool {
    kind(found) == SFlag::S_IFDIR
}

/// The type bits.
pub(super) fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits())
}

fn dir_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC
}

/// Makes a path absolute, `.` and `..` taken out. As no link is followed, `a/b/..` is `a`.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    let full = std::path::absolute(path).map_err(|source| InstanceError::Io {
        verb: "resolve",
        path: path.to_owned(),
        source,
    })?;
    let mut plain = PathBuf::from("/");
    for component in full.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(plain)
}

/// Turns an error number into an error about a path.
pub(super) fn at(verb: &'static str, path: &Path) -> impl FnOnce(Errno) -> InstanceError {
    let path = path.to_owned();
    move |errno| InstanceError::Io {
        verb,
        path,
        source: errno.into(),
    }
}
