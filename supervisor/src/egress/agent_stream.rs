//! The agent's connection, as its shim passed it: one open file description for both, so the flags on it are the shim's
//! too. Here nothing depends on them. Every call says `MSG_DONTWAIT` itself, because a shim that cleared `O_NONBLOCK`
//! would otherwise hold one of the runtime's threads in a read, and with a few connections all of them; and the last
//! close does not linger, whatever was set.

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the module.
#[derive(Debug)]
pub struct AgentStream(AsyncFd<TcpStream>);

impl AgentStream {
    /// Registers it with the runtime: as soon as it is there, so that it is closed as it should be wherever it is given up.
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        // Small writes of a conversation should not wait for each other.
        stream.set_nodelay(true)?;
        // `new` is deprecated for types whose descriptor may change or close under it; a `TcpStream` owns one descriptor.
        #[expect(
            deprecated,
            reason = "the safe constructor is sound for an owned, constant descriptor"
        )]
        Ok(Self(AsyncFd::new(stream)?))
    }
}

impl Drop for AgentStream {
    fn drop(&mut self) {
        let none = nix::libc::linger {
            l_onoff: 0,
            l_linger: 0,
        };
        // Cannot fail on a socket.
        let _ = setsockopt(self.0.get_ref(), sockopt::Linger, &none);
    }
}

fn blocked(error: Errno) -> io::Error {
    // EWOULDBLOCK becomes the kind that tokio waits on.
    error.into()
}

impl AsyncRead for AgentStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let room = buffer.initialize_unfilled();
            let outcome = ready.try_io(|socket| {
                recv(socket.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT).map_err(blocked)
            });
            match outcome {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for AgentStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            match ready.try_io(|socket| send(socket.as_raw_fd(), bytes, flags).map_err(blocked)) {
                Ok(outcome) => return Poll::Ready(outcome),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.get_ref().shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;
    use std::time::Duration;
    use tokio::io::AsyncReadExt;

    /// On one thread, so that a read that blocks would keep the timer from firing; from outside, so that it is noticed.
    #[test]
    fn a_shim_that_clears_the_flag_holds_no_thread() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mut agent =
            TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (passed, _) = listener.accept().expect("accept");
        passed.set_nonblocking(true).expect("as the link does");
        let shims = passed.try_clone().expect("dup");
        let (done, finished) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime");
            let outcome = runtime.block_on(async {
                let mut stream = AgentStream::new(passed).expect("register");
                shims.set_nonblocking(false).expect("the attack");
                agent.write_all(b"abc").expect("write");
                let mut buffer = [0; 3];
                stream.read_exact(&mut buffer).await.expect("read");
                // A buffer that was filled leaves the socket "ready": a plain read would wait in the kernel now.
                tokio::time::timeout(Duration::from_millis(50), stream.read(&mut buffer))
                    .await
                    .is_err()
            });
            let _ = done.send(outcome);
            drop(agent);
        });
        assert_eq!(finished.recv_timeout(Duration::from_secs(10)), Ok(true));
    }
}
