//! Sealed memory files: bytes (or a program) that nobody can change any more, passed as a descriptor.

use crate::faults;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::lseek;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// What a sealed file can no longer suffer.
const SEALS: SealFlag = SealFlag::F_SEAL_WRITE
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_SEAL);

/// How long sealing is tried. The kernel refuses it (EBUSY) while it holds a page of the file for purposes of its own, as when memory that
/// is rarely used is looked for: it cannot know that nobody writes to it.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(2);

/// A sealed file with these bytes, position 0, close-on-exec.
pub fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(
        c"sealed",
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )?);
    file.write_all(bytes)?;
    finish(file, Mode::S_IRUSR)
}

/// A sealed copy of a program, for `execveat`. Mode 0111: whoever runs it is not thereby allowed to read it, which makes
/// the kernel treat the process as non-dumpable right from the exec.
pub fn sealed_program(name: &CStr, mut from: impl Read) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Since 6.3 a host may want to be told that a memfd is meant for execution; older kernels do not know the flag.
    let fd = match memfd_create(name, flags | MFdFlags::from_bits_retain(libc::MFD_EXEC)) {
        Err(Errno::EINVAL) => memfd_create(name, flags)?,
        other => other?,
    };
    let mut file = File::from(fd);
    io::copy(&mut from, &mut file)?;
    let mode = if faults::is_off("dumpable") {
        0o755
    } else {
        0o111
    };
    finish(file, Mode::from_bits_truncate(mode))
}

/// Whether `fd` is a file of at most `max` bytes that nobody can change.
pub fn is_sealed(fd: BorrowedFd<'_>, max: u64) -> io::Result<bool> {
    // Only memory files have seals: any other descriptor answers EINVAL here.
    let seals = match fcntl(fd, FcntlArg::F_GET_SEALS) {
        Err(Errno::EINVAL) => return Ok(false),
        other => SealFlag::from_bits_retain(other?),
    };
    let size = u64::try_from(fstat(fd)?.st_size).unwrap_or(u64::MAX);
    Ok(seals.contains(SEALS) && size <= max)
}

fn finish(file: File, mode: Mode) -> io::Result<OwnedFd> {
    fchmod(file.as_fd(), mode)?;
    let until = Instant::now() + PATIENCE;
    loop {
        match fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS)) {
            Err(Errno::EBUSY) if Instant::now() < until => std::thread::sleep(PAUSE),
            sealed => {
                sealed?;
                break;
            }
        }
    }
    lseek(file.as_fd(), 0, nix::unistd::Whence::SeekSet)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn sealed_bytes_can_be_read_and_never_changed() {
        let fd = sealed(b"constant").expect("memfd");
        assert!(is_sealed(fd.as_fd(), 8).expect("seals"));
        assert!(!is_sealed(fd.as_fd(), 7).expect("seals"), "too large");
        let mut file = File::from(fd);
        let mut text = String::new();
        file.read_to_string(&mut text).expect("read");
        assert_eq!(text, "constant");
        assert!(file.write_all(b"x").is_err() && file.set_len(0).is_err());
    }

    #[test]
    fn a_page_that_somebody_holds_is_waited_for() {
        let mut file =
            File::from(memfd_create(c"held", MFdFlags::MFD_ALLOW_SEALING).expect("memfd"));
        file.write_all(b"constant").expect("write");
        let same = file.try_clone().expect("dup");
        let (reader, writer) = io::pipe().expect("pipe");
        // The pipe holds the page itself then, not a copy of it.
        let sent = std::process::Command::new("/usr/bin/python3")
            .args(["-c", "import os; assert os.sendfile(1, 0, 0, 8) == 8"])
            .stdin(same.try_clone().expect("dup"))
            .stdout(writer)
            .status();
        assert!(sent.expect("python3").success());
        let holder = std::thread::spawn(move || {
            // The kernel takes one at a time: by the second refusal of ours there was one of the other's.
            for _ in 0..2 {
                let sealed = fcntl(&same, FcntlArg::F_ADD_SEALS(SEALS));
                assert_eq!(sealed, Err(Errno::EBUSY), "the page is not held");
            }
            drop(reader);
        });
        let fd = finish(file, Mode::S_IRUSR).expect("sealed when it is let go");
        assert!(is_sealed(fd.as_fd(), 8).expect("seals"));
        holder.join().expect("held it");
    }

    #[test]
    fn other_descriptors_are_not_sealed() {
        let (reader, _writer) = io::pipe().expect("pipe");
        assert!(!is_sealed(reader.as_fd(), 8).expect("fcntl"));
        let open = memfd_create(c"open", MFdFlags::MFD_ALLOW_SEALING).expect("memfd");
        assert!(!is_sealed(open.as_fd(), 8).expect("fcntl"));
    }

    #[test]
    fn a_sealed_program_runs() {
        let program = File::open("/bin/true").expect("open");
        let fd = sealed_program(c"true", program).expect("memfd");
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let status = std::process::Command::new(path).status().expect("exec");
        assert!(status.success());
    }
}
