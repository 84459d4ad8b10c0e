//! An open cgroup directory. All file access goes through its descriptor, and every error says what was tried on which path.

use super::{CgroupError, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A directory of a cgroup hierarchy, held open. The path is for messages only.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens a hierarchy's mount point.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let fd = nix::fcntl::open(
            path,
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .map_err(fault("open", path))?;
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    /// Its path when it was opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory below.
    pub(super) fn open_child(&self, name: &str) -> Result<Self> {
        Ok(Self {
            fd: self.open_file(name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?,
            path: self.path.join(name),
        })
    }

    /// Makes a directory below.
    pub(super) fn make_child(&self, name: &str) -> Result<()> {
        mkdirat(&self.fd, name, Mode::from_bits_truncate(0o755))
            .map_err(fault("create", &self.path.join(name)))
    }

    /// Removes a directory below.
    pub(super) fn remove_child(&self, name: &str) -> Result<()> {
        unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir)
            .map_err(fault("remove", &self.path.join(name)))
    }

    /// Names of the directories below.
    pub(super) fn children(&self) -> Result<Vec<String>> {
        let open = || -> nix::Result<Vec<String>> {
            // A descriptor of its own: reading a directory moves the offset, which duplicates share.
            let own = openat2(&self.fd, ".", how(OFlag::O_RDONLY | OFlag::O_DIRECTORY))?;
            let mut names = Vec::new();
            for entry in nix::dir::Dir::from_fd(own)?.iter() {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy();
                if entry.file_type() == Some(nix::dir::Type::Directory)
                    && name != "."
                    && name != ".."
                {
                    names.push(name.into_owned());
                }
            }
            Ok(names)
        };
        open().map_err(fault("list", &self.path))
    }

    /// Whether there is a file or directory of this name (a path of plain components) below.
    pub(super) fn has(&self, file: &str) -> bool {
        openat2(&self.fd, file, how(OFlag::O_PATH)).is_ok()
    }

    /// Opens a control file (or directory) below.
    pub(super) fn open_file(&self, file: &str, flags: OFlag) -> Result<OwnedFd> {
        openat2(&self.fd, file, how(flags)).map_err(fault("open", &self.path.join(file)))
    }

    /// The content of a control file.
    pub(super) fn read(&self, file: &str) -> Result<String> {
        let mut text = String::new();
        File::from(self.open_file(file, OFlag::O_RDONLY)?)
            .read_to_string(&mut text)
            .map_err(|source| self.error("read", file, source))?;
        Ok(text)
    }

    /// The same, or `None` where there is no such file.
    pub(super) fn read_if_there(&self, file: &str) -> Result<Option<String>> {
        match self.read(file) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.is_errno(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The content as one number.
    pub(super) fn number(&self, file: &str) -> Result<u64> {
        self.read(file)?
            .trim()
            .parse()
            .map_err(|_| self.unusable(file, "number"))
    }

    /// The number behind `key` in a file of `key number` lines.
    pub(super) fn keyed(&self, file: &str, key: &'static str) -> Result<u64> {
        keyed(&self.read(file)?, key).ok_or_else(|| self.unusable(file, key))
    }

    /// Writes a control file in one call, as the kernel's parsers want it.
    pub(super) fn write(&self, file: &str, text: &str) -> Result<()> {
        File::from(self.open_file(file, OFlag::O_WRONLY)?)
            .write_all(text.as_bytes())
            .map_err(|source| self.error("write", file, source))
    }

    /// Inode number.
    pub(super) fn inode(&self) -> Result<u64> {
        Ok(fstat(&self.fd).map_err(fault("stat", &self.path))?.st_ino)
    }

    /// An error about a file below.
    pub(super) fn error(&self, verb: &'static str, file: &str, source: io::Error) -> CgroupError {
        CgroupError::Io {
            verb,
            path: self.path.join(file),
            source,
        }
    }

    /// A file whose content is not understood.
    pub(super) fn unusable(&self, file: &str, what: &'static str) -> CgroupError {
        CgroupError::Content {
            path: self.path.join(file),
            what,
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The number behind `key` in text of `key number` lines.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(found, _)| *found == key)
        .and_then(|(_, number)| number.trim().parse().ok())
}

fn how(flags: OFlag) -> OpenHow {
    OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_XDEV,
    )
}

fn fault(verb: &'static str, path: &Path) -> impl FnOnce(Errno) -> CgroupError {
    move |errno| CgroupError::Io {
        verb,
        path: path.to_owned(),
        source: errno.into(),
    }
}
