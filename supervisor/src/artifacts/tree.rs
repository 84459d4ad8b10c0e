//! Writing a tree of files beneath one directory, and nowhere else.
//!
//! Names have been checked by then ([`super::entry_path`]); this is the second wall. Every path is resolved by the kernel
//! with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV` from the root's descriptor,
//! every file is made with `O_EXCL | O_NOFOLLOW`, nothing that exists is ever opened for writing or changed, and modes are
//! set by descriptor only (RUSTSEC-2026-0067, RUSTSEC-2021-0080 and their like changed a link's target).

use super::budget::Budget;
use super::entry_path::{self, EntryPath};
use super::{ArtifactError, Refusal};
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstatat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{linkat, symlinkat, syncfs};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Modes of all that is unpacked: readable by every uid, because a session's agent has one of its own; only the
/// executable bit is the archive's (as AWS does, contract §1.10).
const DIRECTORY: Mode = Mode::from_bits_truncate(0o755);
const EXECUTABLE: Mode = Mode::from_bits_truncate(0o755);
const PLAIN: Mode = Mode::from_bits_truncate(0o644);

/// Oldest and newest modification time that is kept. Python compares it with the one in a `.pyc` file, so it is worth
/// keeping; what is outside is pulled in.
const EARLIEST: i64 = 315_532_800; // 1980, where zip's calendar begins
const LATEST: i64 = 4_294_967_295; // what a .pyc file can hold

/// What an archive says of a file beside its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileMeta {
    /// Its owner may execute it.
    pub(super) executable: bool,
    /// Seconds since the epoch.
    pub(super) modified: i64,
}

/// A tree being written.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    root: BorrowedFd<'a>,
    /// The directory of the last entry: archives list a directory's files together.
    last: Option<(String, OwnedFd)>,
    has_links: bool,
}

fn how(flags: OFlag, mode: Mode) -> OpenHow {
    OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .mode(mode)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        )
}

const DIRECTORY_FLAGS: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY);

/// What an errno of a path operation says about the bundle, if it is the bundle's fault.
fn failed(verb: &'static str, path: &str, errno: Errno) -> ArtifactError {
    match errno {
        Errno::EEXIST => Refusal::Duplicate.whole(),
        Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV => Refusal::ThroughLink.whole(),
        Errno::ENAMETOOLONG => Refusal::Path("is too long for the file system").whole(),
        errno => ArtifactError::io(verb, path, errno.into()),
    }
}

impl<'a> Tree<'a> {
    /// Begins in an empty directory.
    pub(super) fn begin(root: BorrowedFd<'a>) -> Result<Self, ArtifactError> {
        Ok(Self {
            root,
            last: None,
            has_links: false,
        })
    }

    /// Makes a directory, and those above it. One that is there is left as it is: it has nothing that a second mention
    /// could change.
    pub(super) fn directory(
        &mut self,
        path: &EntryPath,
        budget: &mut Budget,
    ) -> Result<(), ArtifactError> {
        self.enter(path.as_str(), budget)
    }

    /// Makes a file from all that `content` gives.
    pub(super) fn file(
        &mut self,
        path: &EntryPath,
        meta: FileMeta,
        content: &mut dyn Read,
        budget: &mut Budget,
    ) -> Result<(), ArtifactError> {
        budget.file()?;
        let (parent, name) = path.split();
        self.enter(parent, budget)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let made = openat2(self.at(), name, how(flags, Mode::S_IRUSR | Mode::S_IWUSR));
        let mut file = File::from(made.map_err(|e| failed("create", path.as_str(), e))?);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => return Err(unwrap(error)),
            };
            budget.bytes(count as u64)?;
            file.write_all(&buffer[..count])
                .map_err(|e| ArtifactError::io("write", path.as_str(), e))?;
        }
        let modified = TimeSpec::new(meta.modified.clamp(EARLIEST, LATEST), 0);
        let mode = if meta.executable { EXECUTABLE } else { PLAIN };
        fchmod(&file, mode)
            .and_then(|()| futimens(&file, &modified, &modified))
            .map_err(|e| ArtifactError::io("write", path.as_str(), e.into()))
    }

    /// Makes a symbolic link whose target stays inside.
    pub(super) fn symlink(
        &mut self,
        path: &EntryPath,
        target: &[u8],
        budget: &mut Budget,
    ) -> Result<(), ArtifactError> {
        budget.entry()?;
        let target = entry_path::check_target(path, target).map_err(Refusal::whole)?;
        let (parent, name) = path.split();
        self.enter(parent, budget)?;
        self.has_links = true;
        symlinkat(target.as_str(), self.at(), name).map_err(|e| failed("create", path.as_str(), e))
    }

    /// Makes a second name of an earlier file.
    pub(super) fn hard_link(
        &mut self,
        path: &EntryPath,
        target: &EntryPath,
        budget: &mut Budget,
    ) -> Result<(), ArtifactError> {
        budget.entry()?;
        let (parent, name) = target.split();
        let holder = self
            .open_directory(parent)
            .map_err(|_| Refusal::HardLink.whole())?;
        match fstatat(&holder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) if kind(&found) == SFlag::S_IFREG => {}
            Ok(_) | Err(_) => return Err(Refusal::HardLink.whole()),
        }
        let (parent, new_name) = path.split();
        self.enter(parent, budget)?;
        // Without AT_SYMLINK_FOLLOW the last part is taken as it is.
        linkat(&holder, name, self.at(), new_name, AtFlags::empty())
            .map_err(|e| failed("create", path.as_str(), e))
    }

    /// Checks every link where it lies, now that all that it could go through is there, and brings all to disk.
    pub(super) fn finish(self) -> Result<(), ArtifactError> {
        if self.has_links {
            let root = self
                .open_directory("")
                .map_err(|e| failed("open", ".", e))?;
            check_links(self.root, root, String::new())?;
        }
        // One call for the whole tree: syncing some ten thousand files one by one takes minutes on a slow disk.
        syncfs(self.root).map_err(|e| ArtifactError::io("sync", "the bundle", e.into()))
    }

    /// The directory that was entered last.
    fn at(&self) -> BorrowedFd<'_> {
        self.last.as_ref().map_or(self.root, |(_, fd)| fd.as_fd())
    }

    /// Makes `path` the directory of the next operation, creating what is missing.
    fn enter(&mut self, path: &str, budget: &mut Budget) -> Result<(), ArtifactError> {
        if path.is_empty() {
            self.last = None;
            return Ok(());
        }
        if self.last.as_ref().is_some_and(|(last, _)| last == path) {
            return Ok(());
        }
        let directory = match self.open_directory(path) {
            Ok(directory) => directory,
            Err(Errno::ENOENT) => self.create_directories(path, budget)?,
            Err(errno) => return Err(failed("open", path, errno)),
        };
        self.last = Some((path.to_owned(), directory));
        Ok(())
    }

    fn open_directory(&self, path: &str) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { "." } else { path };
        openat2(self.root, path, how(DIRECTORY_FLAGS, Mode::empty()))
    }

    fn create_directories(
        &self,
        path: &str,
        budget: &mut Budget,
    ) -> Result<OwnedFd, ArtifactError> {
        let mut at = self
            .open_directory("")
            .map_err(|e| failed("open", path, e))?;
        for name in path.split('/') {
            match mkdirat(&at, name, DIRECTORY) {
                Ok(()) => budget.entry()?,
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(failed("create", path, errno)),
            }
            let made = openat2(&at, name, how(DIRECTORY_FLAGS, Mode::empty()))
                .map_err(|e| failed("open", path, e))?;
            // The umask must not decide what sessions can read.
            fchmod(&made, DIRECTORY).map_err(|e| failed("create", path, e))?;
            at = made;
        }
        Ok(at)
    }
}

fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT
}

/// Each link by itself stays inside when it is read part by part, but one may lead through another: `a/l -> ..` is the
/// root, and then `m -> a/l/..` is above it. So the kernel is asked, from the root, with links followed but no way out.
fn check_links(
    root: BorrowedFd<'_>,
    directory: OwnedFd,
    prefix: String,
) -> Result<(), ArtifactError> {
    let failed = |path: &str, errno: Errno| ArtifactError::io("read", path, errno.into());
    let mut listing = Dir::from_fd(directory).map_err(|e| failed(&prefix, e))?;
    let mut below = Vec::new();
    for entry in listing.iter() {
        let entry = entry.map_err(|e| failed(&prefix, e))?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if matches!(name, "." | "..") {
            continue;
        }
        let path = if prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{prefix}/{name}")
        };
        match entry.file_type() {
            Some(Type::Symlink) => check_link(root, &path)?,
            Some(Type::Directory) => below.push(path),
            // A file system that does not tell: ask for each.
            None if readlinkat(root, path.as_str()).is_ok() => check_link(root, &path)?,
            None => below.push(path),
            Some(_) => {}
        }
    }
    drop(listing);
    for path in below {
        match openat2(root, path.as_str(), how(DIRECTORY_FLAGS, Mode::empty())) {
            Ok(inner) => check_links(root, inner, path)?,
            Err(Errno::ENOTDIR) => {}
            Err(errno) => return Err(failed(&path, errno)),
        }
    }
    Ok(())
}

/// How often the kernel is asked again about one link. Each time is a race of microseconds lost.
const MAX_ASKED_AGAIN: u32 = 10_000;

fn check_link(root: BorrowedFd<'_>, path: &str) -> Result<(), ArtifactError> {
    let followed = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut answer = openat2(root, path, followed);
    // Something on this host was renamed or mounted while a `..` was followed: the kernel is not sure, and says to ask again.
    for _ in 0..MAX_ASKED_AGAIN {
        if answer.as_ref().err() != Some(&Errno::EAGAIN) {
            break;
        }
        answer = openat2(root, path, followed);
    }
    match answer {
        // That it leads nowhere does no harm, and some packages ship such links.
        Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(()),
        Err(Errno::EXDEV) => Err(
            Refusal::Target("leads out of the bundle by way of other links").of(path.as_bytes()),
        ),
        Err(errno) => Err(ArtifactError::io("read", path, errno.into())),
    }
}

/// Readers of ours pass refusals through `io::Error`; everything else is the archive's content being broken.
pub(super) fn unwrap(error: io::Error) -> ArtifactError {
    match error.downcast::<ArtifactError>() {
        Ok(refusal) => refusal,
        Err(error) if error.raw_os_error().is_some() => {
            ArtifactError::io("read", "the upload", error)
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Refusal::Content("breaks off").whole()
        }
        Err(_) => Refusal::Content("is not valid compressed data").whole(),
    }
}
