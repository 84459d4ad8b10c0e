//! A file as a disk: [loop(4)](https://man7.org/linux/man-pages/man4/loop.4.html), `<linux/loop.h>`.

use super::check;
use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat, major, minor};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Gives out the numbers of free devices.
pub const CONTROL: &str = "/dev/loop-control";

/// Major number of every loop device.
const MAJOR: u64 = 7;

const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// Others may take the device that was free a moment ago.
const TRIES: u32 = 64;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// An attached device. It frees itself when this is dropped and nothing has it mounted any more.
#[derive(Debug)]
pub struct LoopDevice {
    path: CString,
    _open: File,
}

impl LoopDevice {
    /// Attaches `file`, whole, for reading and writing. The device refers to the open file description: a lock on it is
    /// held as long as the device is attached.
    ///
    /// Past the host's page cache, where its file system can do that: what a session has written is on the disk when its
    /// mount is gone, and no second copy of it is left in memory.
    pub fn attach(file: BorrowedFd<'_>) -> io::Result<Self> {
        let control = File::options().read(true).write(true).open(CONTROL)?;
        for _ in 0..TRIES {
            // SAFETY: LOOP_CTL_GET_FREE takes no argument.
            let free = check(libc::c_long::from(unsafe {
                libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE)
            }))?;
            let path = format!("/dev/loop{free}");
            let device = File::options().read(true).write(true).open(&path)?;
            require_loop_device(&device, u64::try_from(free).map_err(io::Error::other)?)?;
            match configure(&device, file) {
                Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {}
                outcome => {
                    return outcome.and_then(|()| {
                        Ok(Self {
                            path: CString::new(path)?,
                            _open: device,
                        })
                    });
                }
            }
        }
        Err(Errno::EBUSY.into())
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &std::ffi::CStr {
        &self.path
    }
}

/// Whatever else may lie at its path is not to be written to.
fn require_loop_device(device: &File, number: u64) -> io::Result<()> {
    let found = fstat(device)?;
    let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
    let numbers = (major(found.st_rdev), minor(found.st_rdev));
    if kind == SFlag::S_IFBLK && numbers == (MAJOR, number) {
        Ok(())
    } else {
        Err(Errno::ENOTBLK.into())
    }
}

fn configure(device: &File, file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all zeroes is the documented default of every field.
    let mut config: Config = unsafe { std::mem::zeroed() };
    config.fd = u32::try_from(file.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    config.info.flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
    // SAFETY: LOOP_CONFIGURE reads one loop_config, which `config` is.
    check(libc::c_long::from(unsafe {
        libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config)
    }))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_the_kernels() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Config>(), 304);
    }
}
