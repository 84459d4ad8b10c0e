//! The first acts of a shim: what it must do before it reads a byte, and the descriptors that it was started with.

use crate::faults;
use crate::seqpacket::SeqpacketListener;
use crate::sys::capability::{self, CapMask, CapSets};
use crate::sys::standard_fds::take_over;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::{SFlag, fstat};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

/// Number of the sealed boot file.
pub const BOOT_FD: RawFd = 3;
/// Number of the listening socket.
pub const LISTENER_FD: RawFd = 4;
/// Number of the exit record.
pub const EXIT_RECORD_FD: RawFd = 5;

/// Largest boot file, in bytes.
pub const MAX_BOOT: u64 = 1 << 20;

/// Makes the shim what it stays for its life: unreadable for the agent, and its capabilities out of reach of every child.
///
/// exec has made the process dumpable again unless its file was unreadable, so that is set anew here (CVE-2016-9962 is
/// the window that this closes). The ambient set was only the way to carry three capabilities through exec.
pub fn harden() -> io::Result<()> {
    if !faults::is_off("dumpable") {
        prctl::set_dumpable(false)?;
    }
    if !faults::is_off("shim.capabilities") {
        capability::clear_ambient()?;
        capability::set(CapSets {
            inheritable: CapMask::EMPTY,
            ..capability::get()?
        })?;
    }
    Ok(())
}

/// The sealed file with the shim's `Boot`, positioned at its start. Once.
pub fn claim_boot() -> io::Result<File> {
    let fd = take_over(BOOT_FD)?;
    if !crate::memfd::is_sealed(fd.as_fd(), MAX_BOOT)? {
        return Err(Errno::EINVAL.into());
    }
    Ok(File::from(fd))
}

/// The socket that the broker connects to. Once.
pub fn claim_listener() -> io::Result<SeqpacketListener> {
    let fd = take_over(LISTENER_FD)?;
    if !getsockopt(&fd, sockopt::AcceptConn)? || !is_seqpacket(&fd)? {
        return Err(Errno::EINVAL.into());
    }
    Ok(SeqpacketListener::from_fd(fd))
}

/// The pipe on which the exit record is left, see [`crate::exit_mark`]. Once.
pub fn claim_exit_record() -> io::Result<OwnedFd> {
    let fd = take_over(EXIT_RECORD_FD)?;
    let kind = SFlag::from_bits_truncate(fstat(&fd)?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFIFO {
        return Err(Errno::EINVAL.into());
    }
    Ok(fd)
}

fn is_seqpacket(fd: &OwnedFd) -> io::Result<bool> {
    Ok(getsockopt(fd, sockopt::SockType)? == nix::sys::socket::SockType::SeqPacket)
}
