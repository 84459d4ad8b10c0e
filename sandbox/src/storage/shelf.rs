//! The directory that the images are in. Root's alone, and so is every name below it: nothing else ever makes one there.

use super::format::format;
use super::room::{Bounds, Census, Entry};
use super::{LEASE_PATIENCE, StorageFault, Wanted};
use crate::stager::fault;
use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Between two looks at a lock: flock(2) has no timeout, and whoever looks is a process that does nothing else.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// `st_blocks` counts these.
const BLOCK: u64 = 512;

/// See the module.
#[derive(Debug, Clone)]
pub struct Shelf {
    /// Where. Must belong to root, and be open to nobody else.
    pub directory: PathBuf,
    /// Bytes that all images together may take, what sessions may still write included.
    pub total: u64,
    /// Bytes that those of one caller may take, counted in the same way.
    pub per_caller: u64,
}

/// An image, and its lease for as long as the file is open, in a loop device for one.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) file: File,
    /// Its name until it is whole, and the one it then gets; none, if it is not to be kept.
    made: Option<(PathBuf, Option<PathBuf>)>,
}

impl Image {
    /// It is whole and in use from now on.
    pub(super) fn keep(mut self) -> io::Result<()> {
        self.file.set_modified(SystemTime::now())?;
        match self.made.take() {
            Some((new, Some(whole))) => fs::rename(new, whole),
            Some((_, None)) | None => Ok(()),
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Some((new, _)) = &self.made {
            // The next one of this key, or the next sweep, clears it away otherwise.
            let _ = fs::remove_file(new);
        }
    }
}

/// Who holds it looks at the shelf, or changes it, alone.
struct Guard(#[expect(dead_code, reason = "held for its lock")] File);

impl Shelf {
    /// Finds the image or makes it; fails if others' storage leaves no room for it, or if it stays another session's. One of
    /// another version that a session still has is waited for as well.
    pub(super) fn take(&self, name: &'static str, wanted: &Wanted) -> Result<Image, StorageFault> {
        let told = |trouble: Trouble| match trouble {
            Trouble::Full(reason) => StorageFault::Full(reason),
            Trouble::Io(error) => StorageFault::Step(fault((name, error))),
        };
        let failed = |error: io::Error| told(error.into());
        let deadline = Instant::now() + LEASE_PATIENCE;
        loop {
            let guard = match self.guard(deadline) {
                // Others look at the shelf all the time.
                Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {
                    return Err(StorageFault::Busy);
                }
                other => other.map_err(failed)?,
            };
            if let Some(held) = self.lease_all(wanted).map_err(failed)? {
                return self.find_or_make(wanted, held).map_err(told);
            }
            drop(guard);
            if Instant::now() >= deadline {
                return Err(StorageFault::Busy);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Every image of a key, of whatever version and whole or not, with its lease; none, if somebody else has one of them.
    fn lease_all(&self, wanted: &Wanted) -> io::Result<Option<Vec<(PathBuf, File)>>> {
        let mut held = Vec::new();
        for path in list_or_none(&self.runtime(wanted))? {
            if !name_of(&path).starts_with(&hex(&wanted.key)) {
                continue;
            }
            let Some(file) = open(&path)? else { continue };
            if !lease(&file)? {
                return Ok(None);
            }
            held.push((path, file));
        }
        Ok(Some(held))
    }

    fn find_or_make(
        &self,
        wanted: &Wanted,
        mut held: Vec<(PathBuf, File)>,
    ) -> Result<Image, Trouble> {
        let whole = self.path(wanted, "img");
        // From before images had a caller in their name.
        let old = self
            .runtime(wanted)
            .join(format!("{}.{}.img", hex(&wanted.key), wanted.version));
        for (path, _) in held.iter_mut().filter(|(path, _)| *path == old) {
            fs::rename(&old, &whole)?;
            path.clone_from(&whole);
        }
        if let Some((_, file)) = held.iter().find(|(path, _)| *path == whole) {
            // The same open file, and so the same lease.
            let file = file.try_clone()?;
            // What a launch that was given up has left beside it is nobody's, and must not count.
            for (path, _) in held.iter().filter(|(path, _)| *path != whole) {
                fs::remove_file(path)?;
            }
            self.require_room(&file, &whole, wanted)?;
            return Ok(Image { file, made: None });
        }
        // Those of other versions; and what a crash has left of this one.
        for (path, _) in &held {
            fs::remove_file(path)?;
        }
        drop(held);
        self.make(wanted, whole)
    }

    /// A new one. It gets its name when it is whole: [`Image::keep`].
    fn make(&self, wanted: &Wanted, whole: PathBuf) -> Result<Image, Trouble> {
        make_private_directory(&self.runtime(wanted))?;
        let new = self.path(wanted, "new");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        let image = Image {
            file,
            made: Some((new.clone(), (!wanted.scratch).then_some(whole))),
        };
        lease(&image.file)?;
        image.file.set_len(wanted.bytes)?;
        self.require_room(&image.file, &new, wanted)?;
        format(&new, wanted.bytes)?;
        Ok(image)
    }

    fn runtime(&self, wanted: &Wanted) -> PathBuf {
        self.directory.join(&wanted.runtime)
    }

    fn path(&self, wanted: &Wanted, kind: &str) -> PathBuf {
        let (key, caller) = (hex(&wanted.key), hex(&wanted.caller));
        self.runtime(wanted)
            .join(format!("{key}.{caller}.{}.{kind}", wanted.version))
    }

    /// Removes the storage of a runtime that is no more. What a session still has goes with the session ([`Self::leave`]), or
    /// else with the next sweep: until then it has a name, and counts.
    pub fn forget(&self, runtime: &str) -> io::Result<()> {
        let _guard = self.guard(Instant::now() + LEASE_PATIENCE)?;
        let directory = self.directory.join(runtime);
        for path in list_or_none(&directory)? {
            let Some(file) = open(&path)? else { continue };
            if lease(&file)? {
                fs::remove_file(&path)?;
            } else {
                fs::rename(&path, path.with_extension("gone"))?;
            }
        }
        remove_if_empty(&directory)
    }

    /// After a session has let go of its image: removes it, if it is not to be kept.
    pub(super) fn leave(&self, wanted: &Wanted) -> io::Result<()> {
        let deadline = Instant::now() + LEASE_PATIENCE;
        let doomed = ["gone", "new"].map(|kind| self.path(wanted, kind));
        let doomed = &doomed[..if wanted.scratch { 2 } else { 1 }];
        loop {
            let guard = self.guard(deadline)?;
            let mut left = false;
            for path in doomed {
                match open(path)? {
                    Some(file) if lease(&file)? => {
                        fs::remove_file(path)?;
                        remove_if_empty(&self.runtime(wanted))?;
                    }
                    Some(_) => left = true,
                    None => {}
                }
            }
            if !left {
                return Ok(());
            }
            drop(guard);
            if Instant::now() >= deadline {
                return Err(Errno::EBUSY.into());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Removes what no session has had for `keep`, and what never became whole. The kernel writes to an image when it is
    /// mounted and when it is not any more, so its time is that of its last use.
    pub fn sweep(&self, keep: Duration) -> io::Result<()> {
        let _guard = self.guard(Instant::now() + LEASE_PATIENCE)?;
        let now = SystemTime::now();
        for path in self.images()? {
            let Some(file) = open(&path)? else { continue };
            let whole = path.extension().is_some_and(|kind| kind == "img");
            let idle = now
                .duration_since(file.metadata()?.modified()?)
                // A clock that was set back makes nothing older.
                .unwrap_or_default();
            if lease(&file)? && (!whole || idle > keep) {
                fs::remove_file(&path)?;
            }
        }
        for directory in list(&self.directory)? {
            remove_if_empty(&directory)?;
        }
        Ok(())
    }

    fn guard(&self, deadline: Instant) -> io::Result<Guard> {
        // Opened anew: a descriptor that came by fork would share its lock with everyone else who has it.
        let directory = File::open(&self.directory)?;
        while !lease(&directory)? {
            if Instant::now() >= deadline {
                return Err(Errno::EBUSY.into());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(Guard(directory))
    }

    fn require_room(&self, own: &File, path: &Path, wanted: &Wanted) -> Result<(), Trouble> {
        let caller = hex(&wanted.caller);
        let mut census = Census::default();
        for other in self.images()? {
            if other == path {
                continue;
            }
            let Some(file) = open(&other)? else { continue };
            let own = name_of(&other).split('.').nth(1) == Some(&caller);
            census.add(Entry {
                in_use: !lease(&file)?,
                own,
                ..entry(&file)?
            });
        }
        let disk = fstatvfs(own).map_err(io::Error::from)?;
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        let bounds = Bounds {
            total: self.total,
            per_caller: self.per_caller,
            free,
        };
        match census.refuse(entry(own)?, bounds) {
            Some(reason) => Err(Trouble::Full(reason)),
            None => Ok(()),
        }
    }

    /// Every image there is, whole or not.
    fn images(&self) -> io::Result<Vec<PathBuf>> {
        let mut all = Vec::new();
        for directory in list(&self.directory)? {
            all.extend(list(&directory)?);
        }
        Ok(all)
    }
}

/// Why an image cannot be had.
enum Trouble {
    Full(String),
    Io(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn entry(file: &File) -> io::Result<Entry> {
    let found = file.metadata()?;
    Ok(Entry {
        bytes: found.len(),
        taken: found.blocks().saturating_mul(BLOCK),
        in_use: true,
        own: true,
    })
}

/// Takes the lock of an open file; says false if somebody else has it. It is given back with the last reference to this
/// open file.
fn lease(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Opens an image; `None` if there is none.
fn open(path: &Path) -> io::Result<Option<File>> {
    let opened = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    match opened {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(Errno::EINVAL.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect()
}

fn list_or_none(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match list(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

fn name_of(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

fn remove_if_empty(directory: &Path) -> io::Result<()> {
    match fs::remove_dir(directory) {
        // It holds something.
        Err(error) if error.raw_os_error() == Some(Errno::ENOTEMPTY as i32) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn make_private_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
