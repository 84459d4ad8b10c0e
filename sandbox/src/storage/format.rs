//! A new, empty file becomes an ext4 file system: e2fsprogs' work, which is on every host that has ext4 itself.

use nix::errno::Errno;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program's name, for people.
pub const MKE2FS: &str = "mke2fs (package e2fsprogs)";

/// Where packages put it.
const PLACES: [&str; 3] = ["/usr/sbin/mke2fs", "/sbin/mke2fs", "/usr/bin/mke2fs"];

/// One inode for so many bytes: 131,072 files in 1 GiB, as on AWS (contract §6).
const BYTES_PER_INODE: u64 = 8192;

/// Said here, so that it does not depend on the host's mke2fs.conf, and readable for Linux 6.1.
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum,64bit";

/// The program, if this host has it.
#[must_use]
pub fn formatter() -> Option<PathBuf> {
    PLACES.iter().map(PathBuf::from).find(|path| path.is_file())
}

/// Formats the file at `path`, which is `bytes` long and all zeroes. That it is lets the inode tables and the journal be left
/// as they are: the file stays as sparse as it was, and nobody has to zero anything later.
pub(super) fn format(path: &Path, bytes: u64) -> io::Result<()> {
    let program = formatter().ok_or(Errno::ENOENT)?;
    let journal_mib = (bytes >> 26).clamp(4, 64);
    let status = Command::new(program)
        .args([
            "-q",
            "-F",
            "-b",
            "4096",
            "-I",
            "256",
            "-m",
            "0",
            "-e",
            "remount-ro",
        ])
        .args(["-O", FEATURES])
        .arg("-i")
        .arg(BYTES_PER_INODE.to_string())
        .arg("-J")
        .arg(format!("size={journal_mib}"))
        .args([
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
        ])
        .arg(path)
        .env_clear()
        .env("MKE2FS_CONFIG", "/dev/null")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("mke2fs ended with {status}")))
    }
}
