//! Session storage: files that outlive their session, each session's in an ext4 image of its own, so that their size and
//! number are capped and nobody else's files are on the same file system.
//!
//! ```text
//! <directory>                      root 0700, never the broker's
//!   <runtime id>/
//!     <key>.<caller>.<version>.img sparse; its lease (flock) is held by whoever has it attached, and last by the kernel
//!     <key>.<caller>.<version>.new not yet whole, or never to be kept: cleared away as soon as nobody has it
//!     <key>.<caller>.<version>.gone its runtime is no more: likewise
//! ```
//!
//! [`mount`] runs in a one-shot process of root's (the steward), outside every session's cgroup: image ▸ loop device ▸
//! detached mount. What it hands over is that mount alone. When the last mount namespace that has it is gone, so is the
//! mount, and with it the device and the lease; a steward that fails on the way leaves nothing but, at most, an image.
//!
//! **An image is never attached twice.** Its lease is a lock on the open file description that the loop device holds, so
//! the kernel gives it back in the moment in which the device lets go, whatever happened to the processes.
//!
//! **What is attached has a name**, and so counts: whoever would remove an image takes its lease first.
//!
//! **A session that ends gives back what it has deleted** ([`leave`]), while its file system is still mounted.
//!
//! **Images are never written but by the kernel's ext4 on behalf of a session.** mke2fs sees a new, empty file only;
//! nothing ever repairs or inspects one: its content is an attacker's.
//!
//! Not for: who may have which key (the broker's), or when (the launcher's).

mod format;
mod room;
mod shelf;
mod trim;

pub use format::{MKE2FS, formatter};
pub use shelf::Shelf;

use crate::cgroup::{Capability, Support};
use crate::plan::{Fault, Step, StorageAct};
use crate::stager::{StepResult, fault, make_fs_of, step};
use crate::sys::loop_device::LoopDevice;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Gid, Uid, fchownat};
use shelf::Image;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Smallest storage: below it a journal does not fit.
pub const MIN_BYTES: u64 = 16 << 20;

/// How long a storage may still be another session's: the one before it, whose last writes are on their way to the disk.
pub const LEASE_PATIENCE: Duration = Duration::from_secs(10);

/// Longest name of a directory in `/mnt`.
pub const MAX_NAME: usize = 195;

/// Which storage.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Directory of its runtime: a name of letters, digits, `_` and `-`.
    pub runtime: String,
    /// Whose it is.
    pub key: [u8; 32],
    /// Whose share it is of.
    pub caller: [u8; 16],
    /// Of the runtime; another one's storage of the same key is removed.
    pub version: u32,
    /// The agent's directory in it.
    pub name: CString,
    /// Its size.
    pub bytes: u64,
    /// Nobody is to find it again.
    pub scratch: bool,
}

/// Why there is no storage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageFault {
    /// It might not fit.
    #[error("{0}")]
    Full(String),
    /// Another session still has it.
    #[error("the session storage is still in use by an earlier session of this id")]
    Busy,
    /// A step failed.
    #[error(transparent)]
    Step(#[from] Fault),
}

/// Whether a name can be a directory in `/mnt` (contract §3.2).
#[must_use]
pub fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=MAX_NAME).contains(&name.len())
        && name.chars().all(plain)
        && !matches!(name, "." | "..")
        // ext4's own, in every image.
        && name != "lost+found"
}

/// What this host offers, for `agentcore doctor`.
#[must_use]
pub fn capability() -> Capability {
    let (support, detail) = match unavailable() {
        None => (
            Support::On,
            format!("ext4 images on loop devices, made with {MKE2FS}"),
        ),
        Some(reason) => (Support::Off, reason),
    };
    Capability {
        name: "session-storage",
        support,
        detail,
    }
}

/// Why there can be no session storage on this host, if there cannot.
#[must_use]
pub fn unavailable() -> Option<String> {
    if formatter().is_none() {
        return Some(format!("{MKE2FS} is not installed"));
    }
    let ext4 = std::fs::read_to_string("/proc/filesystems")
        .is_ok_and(|list| list.lines().any(|line| line.trim() == "ext4"));
    if !ext4 {
        return Some("the kernel has no ext4 (modprobe ext4)".to_owned());
    }
    let control = crate::sys::loop_device::CONTROL;
    if !std::path::Path::new(control).exists() {
        return Some(format!("{control} is not there (modprobe loop)"));
    }
    None
}

/// Performs the plan's `storage` steps: the mount, detached.
pub fn mount(
    steps: &[Step<StorageAct>],
    shelf: &Shelf,
    wanted: &Wanted,
) -> Result<OwnedFd, StorageFault> {
    let mut image: Option<Image> = None;
    let mut device: Option<LoopDevice> = None;
    let mut mounted: Option<OwnedFd> = None;
    let missing = |name: &'static str| StorageFault::Step(fault((name, Errno::EINVAL.into())));
    for Step { name, act } in steps {
        match act {
            StorageAct::Image => {
                step(name, || Ok(())).map_err(fault)?;
                image = Some(shelf.take(name, wanted)?);
            }
            StorageAct::Device => {
                let image = image.as_ref().ok_or_else(|| missing(name))?;
                let attached = step(name, || LoopDevice::attach(image.file.as_fd()));
                device = Some(attached.map_err(fault)?);
            }
            StorageAct::Mount { options, attrs } => {
                let device = device.as_ref().ok_or_else(|| missing(name))?;
                let fs = make_fs_of(name, c"ext4", Some(device.path()), options, attrs);
                mounted = Some(fs.map_err(fault)?);
            }
            StorageAct::Directory { owner } => {
                let root = mounted.as_ref().ok_or_else(|| missing(name))?;
                make_directory(name, root.as_fd(), wanted, *owner).map_err(fault)?;
            }
        }
    }
    // Only what is whole is found by the next one.
    match (image, mounted) {
        (Some(image), Some(mounted)) => {
            step("storage.image", || image.keep()).map_err(fault)?;
            Ok(mounted)
        }
        _ => Err(missing("plan")),
    }
}

/// What is to be done with a session's storage when its last process is gone: `mount` is the last reference to its mount.
/// What was deleted in it is given back to the host, and what is not to be kept is removed.
pub fn leave(shelf: &Shelf, wanted: &Wanted, mount: OwnedFd) -> io::Result<()> {
    let trimmed = if wanted.scratch {
        Ok(())
    } else {
        trim::trim(mount.as_fd(), wanted.bytes)
    };
    drop(mount);
    shelf.leave(wanted)?;
    trimmed
}

/// The agent's directory. The root that it is in is no session's to write to, so what is there is what was made here.
fn make_directory(
    step_name: &'static str,
    root: BorrowedFd<'_>,
    wanted: &Wanted,
    owner: u32,
) -> StepResult<()> {
    step(step_name, || {
        let name = wanted.name.as_c_str();
        match mkdirat(root, name, Mode::S_IRWXU) {
            Err(Errno::EEXIST) => return Ok(()),
            made => made?,
        }
        let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        Ok(fchownat(root, name, Some(uid), Some(gid), flags)?)
    })
}

#[cfg(test)]
mod tests;
