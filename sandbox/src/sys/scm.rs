//! Descriptor passing over Unix sockets: [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html), `SCM_RIGHTS`.

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Most descriptors that one packet may carry here. The kernel's own limit is 253.
pub const MAX_FDS: usize = 4;

/// One received packet.
#[derive(Debug)]
pub struct Received {
    /// Bytes of the packet, at the start of the buffer; 0 means that the other end is closed.
    pub len: usize,
    /// Descriptors that came along, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// The packet was larger than the buffer, or carried more descriptors than [`MAX_FDS`]: what is here is not all.
    pub truncated: bool,
}

/// Sends one packet with descriptors. `MSG_NOSIGNAL`: a closed peer is an error, never a signal.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    Ok(sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?)
}

/// Receives one packet with its descriptors. Descriptors past [`MAX_FDS`] are closed by the kernel (`MSG_CTRUNC`).
pub fn recv(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = cmsg_space!([RawFd; MAX_FDS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    // cmsgs() fails only where the control buffer was truncated; the flag below says so too.
    if let Ok(messages) = message.cmsgs() {
        for entry in messages {
            if let ControlMessageOwned::ScmRights(raw) = entry {
                for fd in raw {
                    // SAFETY: the kernel has just made `fd` in this process for this message, and nix hands each
                    // number out once, so nobody else owns it.
                    fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
        }
    }
    let truncated = message
        .flags
        .intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
    Ok(Received {
        len: message.bytes,
        fds,
        truncated,
    })
}
