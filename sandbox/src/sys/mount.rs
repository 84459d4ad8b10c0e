//! The descriptor-based mount interface: [fsopen(2)](https://man7.org/linux/man-pages/man2/fsopen.2.html),
//! [open_tree(2)](https://man7.org/linux/man-pages/man2/open_tree.2.html),
//! [mount_setattr(2)](https://man7.org/linux/man-pages/man2/mount_setattr.2.html),
//! [move_mount(2)](https://man7.org/linux/man-pages/man2/move_mount.2.html), all since Linux 5.12 or earlier.
//!
//! A mount is made detached, gets its options one call each (so a fault names the option), its attributes before anyone
//! can see it, and is attached to a directory that was opened without following a link.

use super::check;
use nix::errno::Errno;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Attributes of a mount (`MOUNT_ATTR_*`, and its propagation).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountAttrs {
    bits: u64,
    private: bool,
}

impl MountAttrs {
    /// Nothing below can be written.
    pub const RDONLY: Self = Self::bits(libc::MOUNT_ATTR_RDONLY);
    /// Set-uid bits and file capabilities below are ignored.
    pub const NOSUID: Self = Self::bits(libc::MOUNT_ATTR_NOSUID);
    /// Device nodes below cannot be opened.
    pub const NODEV: Self = Self::bits(libc::MOUNT_ATTR_NODEV);
    /// Nothing below can be executed.
    pub const NOEXEC: Self = Self::bits(libc::MOUNT_ATTR_NOEXEC);
    /// In no peer group: a clone is born into that of its original, which systemd makes shared.
    pub const PRIVATE: Self = Self {
        bits: 0,
        private: true,
    };

    const fn bits(bits: u64) -> Self {
        Self {
            bits,
            private: false,
        }
    }
}

impl std::ops::BitOr for MountAttrs {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self {
            bits: self.bits | other.bits,
            private: self.private | other.private,
        }
    }
}

fn new_fd(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(check(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: every caller passes the result of a call that makes a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A file system under construction.
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// Begins a file system of that type.
    pub fn open(fstype: &CStr) -> io::Result<Self> {
        // SAFETY: `fstype` is null-terminated.
        new_fd(unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), libc::FSOPEN_CLOEXEC) })
            .map(Self)
    }

    /// Sets one option.
    pub fn option(&self, key: &CStr, value: &CStr) -> io::Result<()> {
        self.config(libc::FSCONFIG_SET_STRING, Some(key), Some(value))
    }

    /// Sets one option that has no value.
    pub fn flag(&self, key: &CStr) -> io::Result<()> {
        self.config(libc::FSCONFIG_SET_FLAG, Some(key), None)
    }

    /// Makes the superblock and gives it a detached mount with these attributes (a new mount is in no peer group).
    pub fn mount(self, attrs: MountAttrs) -> io::Result<OwnedFd> {
        self.config(libc::FSCONFIG_CMD_CREATE, None, None)?;
        // SAFETY: takes plain numbers.
        new_fd(unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.0.as_raw_fd(),
                libc::FSMOUNT_CLOEXEC,
                attrs.bits,
            )
        })
    }

    fn config(
        &self,
        command: libc::c_uint,
        key: Option<&CStr>,
        value: Option<&CStr>,
    ) -> io::Result<()> {
        let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: both texts are null-terminated or null, as the command wants them.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                command,
                pointer(key),
                pointer(value),
                0,
            )
        })?;
        Ok(())
    }
}

/// A detached mount of the directory or file that `of` is open on; without what is mounted below it.
pub fn clone_tree(of: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    clone_tree_with(of, 0)
}

/// The same with all that is mounted below it.
#[cfg(feature = "fault-injection")]
pub fn clone_whole_tree(of: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    clone_tree_with(of, libc::AT_RECURSIVE.cast_unsigned())
}

fn clone_tree_with(of: BorrowedFd<'_>, flags: libc::c_uint) -> io::Result<OwnedFd> {
    // SAFETY: the empty path is null-terminated.
    new_fd(unsafe {
        libc::syscall(
            libc::SYS_open_tree,
            of.as_raw_fd(),
            c"".as_ptr(),
            flags
                | libc::OPEN_TREE_CLONE
                | libc::OPEN_TREE_CLOEXEC
                | libc::AT_EMPTY_PATH.cast_unsigned(),
        )
    })
}

fn setattr(mount: BorrowedFd<'_>, mut attr: libc::mount_attr) -> io::Result<()> {
    // SAFETY: the empty path is null-terminated, and the size is that of `attr`.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw mut attr,
            std::mem::size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// Adds attributes to a mount.
pub fn add_attrs(mount: BorrowedFd<'_>, attrs: MountAttrs) -> io::Result<()> {
    setattr(
        mount,
        libc::mount_attr {
            attr_set: attrs.bits,
            attr_clr: 0,
            propagation: if attrs.private { libc::MS_PRIVATE } else { 0 },
            userns_fd: 0,
        },
    )
}

/// Makes the owners of the files below a detached mount those that the user namespace `userns` maps them to.
pub fn map_ids(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<()> {
    setattr(
        mount,
        libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd: u64::try_from(userns.as_raw_fd()).map_err(|_| Errno::EBADF)?,
        },
    )
}

/// Attaches a detached mount on the directory that `target` is open on.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both empty paths are null-terminated.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH,
        )
    })?;
    Ok(())
}

/// Opens what `path` names below `root` (`O_PATH`), following no symbolic link and leaving `root` in no way.
pub fn open_beneath(root: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: all zeroes is the documented default of every field.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((libc::O_PATH | libc::O_CLOEXEC).cast_unsigned());
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: `path` is null-terminated and the size is that of `how`.
    new_fd(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            std::mem::size_of::<libc::open_how>(),
        )
    })
}
