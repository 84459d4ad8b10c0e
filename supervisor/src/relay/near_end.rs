//! Our end of an invocation's stream, which meets the reactor only if it has to wait.
//!
//! Most requests and answers fit the socket's buffer: they are written and read at once. Registering such a short-lived
//! descriptor with epoll, and taking it out again, would be most of what the daemon does for them.

use bytes::BytesMut;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Unwatched;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::io::poll_read_buf;

/// See the module.
#[derive(Debug)]
pub(super) struct NearEnd(State);

#[derive(Debug)]
enum State {
    Unwatched(Unwatched),
    Watched(UnixStream),
    /// The other half is with who sends the request.
    Half(OwnedReadHalf),
    /// It could not be registered.
    Broken,
}

/// A new stream: our end, and the one for the session.
pub(super) fn pair() -> io::Result<(NearEnd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
    Ok((NearEnd(State::Unwatched(ours.into())), theirs))
}

impl NearEnd {
    /// Writes all of it.
    pub(super) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let State::Unwatched(stream) = &mut self.0 {
            if bytes.is_empty() {
                return Ok(());
            }
            match stream.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.watch()?,
                Err(error) => return Err(error),
            }
        }
        match &mut self.0 {
            State::Watched(stream) => stream.write_all(bytes).await,
            State::Unwatched(_) | State::Half(_) | State::Broken => {
                Err(ErrorKind::BrokenPipe.into())
            }
        }
    }

    /// The two directions apart, for a request that is sent while its answer is read.
    pub(super) fn split(mut self) -> io::Result<(Self, OwnedWriteHalf)> {
        self.watch()?;
        match self.0 {
            State::Watched(stream) => {
                let (reader, writer) = stream.into_split();
                Ok((Self(State::Half(reader)), writer))
            }
            State::Unwatched(_) | State::Half(_) | State::Broken => {
                Err(ErrorKind::NotConnected.into())
            }
        }
    }

    /// Reads at most `most` bytes behind what is in `buffer`; 0 is the end.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        while let State::Unwatched(stream) = &mut self.0 {
            let before = buffer.len();
            buffer.resize(before + most, 0);
            let read = stream.read(&mut buffer[before..]);
            buffer.truncate(before + read.as_ref().map_or(0, |count| *count));
            match read {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.watch()?,
                other => return Poll::Ready(other),
            }
        }
        buffer.reserve(most);
        match &mut self.0 {
            State::Watched(stream) => poll_read_buf(Pin::new(stream), cx, buffer),
            State::Half(reader) => poll_read_buf(Pin::new(reader), cx, buffer),
            State::Unwatched(_) | State::Broken => Poll::Ready(Err(ErrorKind::NotConnected.into())),
        }
    }

    fn watch(&mut self) -> io::Result<()> {
        self.0 = match std::mem::replace(&mut self.0, State::Broken) {
            State::Unwatched(stream) => State::Watched(UnixStream::from_std(stream)?),
            other => other,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt as _;

    fn far(theirs: OwnedFd) -> UnixStream {
        UnixStream::from_std(theirs.into()).expect("registers")
    }

    async fn read(near: &mut NearEnd) -> Vec<u8> {
        let mut buffer = BytesMut::new();
        let count = poll_fn(|cx| near.poll_read(cx, &mut buffer, 5)).await;
        assert_eq!(count.expect("reads"), buffer.len());
        buffer.to_vec()
    }

    #[tokio::test]
    async fn what_is_there_is_read_without_the_reactor_and_the_rest_with_it() {
        let (mut near, theirs) = pair().expect("pair");
        let mut far = far(theirs);
        far.write_all(b"hello, you").await.expect("writes");
        assert_eq!(read(&mut near).await, b"hello");
        assert_eq!(read(&mut near).await, b", you");
        assert!(matches!(near.0, State::Unwatched(_)));
        let later = async {
            tokio::task::yield_now().await;
            far.write_all(b"late").await.expect("writes");
            drop(far);
        };
        let (late, ()) = tokio::join!(read(&mut near), later);
        assert_eq!(late, b"late");
        assert!(matches!(near.0, State::Watched(_)));
        assert_eq!(read(&mut near).await, b"");
    }

    #[tokio::test]
    async fn what_does_not_fit_the_buffer_waits_for_a_reader() {
        let (mut near, theirs) = pair().expect("pair");
        let mut far = far(theirs);
        let sent: Vec<u8> = (0..4_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut received = vec![0; sent.len()];
        let (wrote, got) = tokio::join!(near.write_all(&sent), far.read_exact(&mut received));
        wrote.expect("writes");
        got.expect("reads");
        assert!(sent == received);
    }

    #[tokio::test]
    async fn split_halves_work_apart() {
        let (near, theirs) = pair().expect("pair");
        let (mut near, mut writer) = near.split().expect("splits");
        let mut far = far(theirs);
        writer.write_all(b"ping").await.expect("writes");
        let mut got = [0; 4];
        far.read_exact(&mut got).await.expect("reads");
        far.write_all(&got).await.expect("writes");
        assert_eq!(read(&mut near).await, b"ping");
    }
}
