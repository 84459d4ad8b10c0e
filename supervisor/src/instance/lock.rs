//! One daemon per directory: a lock file that the kernel releases when its holder dies, however it dies.

use super::directory::Directory;
use super::{InstanceError, Result};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

const NAME: &str = "lock";

/// The lock, held. It belongs to the open file: children of a fork hold it too, until they close it.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the directory's lock and notes this process in it.
    pub(super) fn take(dir: &Directory) -> Result<Self> {
        // Readable for root only: whoever can open it can hold it.
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT;
        let mut file = File::from(dir.open(Path::new(NAME), flags, mode)?);
        let failed = |verb, source| InstanceError::Io {
            verb,
            path: dir.path().join(NAME),
            source,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(InstanceError::Locked {
                    path: dir.path().to_owned(),
                    pid: holder(&mut file),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock", source)),
        }
        note_self(&mut file).map_err(|source| failed("write", source))?;
        Ok(Self { _file: file })
    }
}

fn note_self(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// Who says to hold it. Another daemon may be just about to write: then 0.
fn holder(file: &mut File) -> u32 {
    let mut text = String::new();
    match file.take(32).read_to_string(&mut text) {
        Ok(_) => text.trim().parse().unwrap_or(0),
        Err(_) => 0,
    }
}
