//! Descriptor passing over Unix sockets: [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html), `SCM_RIGHTS`.

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Most descriptors that one packet may carry here. The kernel's own limit is 253. Even, because the room for them is counted
/// in words of eight bytes: with an odd number one more would come through.
pub const MAX_FDS: usize = 8;

/// One received packet.
#[derive(Debug)]
pub struct Received {
    /// Bytes of the packet, at the start of the buffer; 0 means that the other end is closed.
    pub len: usize,
    /// Descriptors that came along, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// The packet was larger than the buffer, or carried more descriptors than [`MAX_FDS`]: what is here is not all.
    pub truncated: bool,
    /// All bytes are here, but not all descriptors: there were too many, or **this process had no room for them**
    /// (`RLIMIT_NOFILE`), which is nobody's fault at the other end.
    pub lost_fds: bool,
}

/// `SO_PASSRIGHTS` (Linux 6.16), the same number on all architectures that we run on.
const SO_PASSRIGHTS: libc::c_int = 83;

/// Refuses descriptors to whoever sends any to this socket, or to a connection of this listener: they would otherwise stay
/// in flight, and open, until the bytes that they came with are read. Older kernels know no such thing, which is no error.
/// [socket(7)](https://man7.org/linux/man-pages/man7/socket.7.html)
pub fn refuse_descriptors(socket: BorrowedFd<'_>) -> io::Result<()> {
    const LENGTH: libc::socklen_t = 4;
    let off: libc::c_int = 0;
    // SAFETY: the value is an int, of that length, which lives across the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const off).cast(),
            LENGTH,
        )
    };
    match super::check(result.into()) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        other => other.map(|_| ()),
    }
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
///
/// Not through nix: its `cmsgs()` gives nothing at all of a truncated control buffer, while the kernel has put those
/// descriptors that did fit into this process, where they would stay for good (security bar C08).
pub fn recv(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all zeroes is a header without name, parts and control.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL;
    // SAFETY: the header points to one part and one control buffer of the lengths that it says; all live across the call.
    let len =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    // Negative: an error.
    let Ok(len) = usize::try_from(len) else {
        return Err(io::Error::last_os_error());
    };
    Ok(Received {
        len,
        fds: take_rights(&message),
        truncated: message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
        lost_fds: message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) == libc::MSG_CTRUNC,
    })
}

/// Bytes of the descriptors themselves.
#[expect(
    clippy::cast_possible_truncation,
    reason = "four descriptors of four bytes"
)]
const RIGHTS: libc::c_uint = (MAX_FDS * size_of::<RawFd>()) as libc::c_uint;

/// Room for the control message of [`MAX_FDS`] descriptors.
// SAFETY: plain arithmetic on a number.
const CONTROL: usize = unsafe { libc::CMSG_SPACE(RIGHTS) } as usize;

/// A control buffer begins with a header, and is aligned for it.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// All descriptors that the kernel has put into this process with `message`, whether it was truncated or not.
fn take_rights(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled the control buffer of `message` (which is borrowed, and lives) and said in its length
    // how much of it holds.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a header that lies in the buffer.
        let (level, kind, length) = unsafe {
            (
                (*header).cmsg_level,
                (*header).cmsg_type,
                (*header).cmsg_len,
            )
        };
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: plain arithmetic.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            // SAFETY: the data follows the header, within the buffer.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            for at in 0..length.saturating_sub(empty) / size_of::<RawFd>() {
                // SAFETY: within the length that the kernel gave; it has just made the descriptor in this process for
                // this message, each is read once, so nobody else owns it.
                fds.push(unsafe { OwnedFd::from_raw_fd(data.add(at).read_unaligned()) });
            }
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    fds
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_connection_of_a_listener_that_refuses_descriptors_takes_bytes_only() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).expect("bind");
        refuse_descriptors(listener.as_fd()).expect("set");
        let ours = UnixStream::connect(&path).expect("connect");
        let (theirs, _) = listener.accept().expect("accept");
        send(ours.as_fd(), b"x", &[]).expect("bytes");
        let (reader, _writer) = io::pipe().expect("pipe");
        let refused = send(ours.as_fd(), b"x", &[reader.as_fd()]);
        match refused.map_err(|error| error.raw_os_error()) {
            Err(Some(libc::EPERM)) => {}
            Ok(_) => eprintln!("SKIPPED: this kernel has no SO_PASSRIGHTS (Linux 6.16)"),
            other => panic!("{other:?}"),
        }
        send(theirs.as_fd(), b"x", &[reader.as_fd()]).expect("the other way it is as ever");
    }
}
