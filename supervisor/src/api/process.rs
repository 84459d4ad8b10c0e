//! One more process in a session: started with streams of its own, its output passed on, ended when nobody wants it any more.
//!
//! What its client sees of it is the routes' business: `/v1` exec ([`super::exec`]), commands and shells of the AWS wire.

use super::reply::ApiError;
use crate::relay::link::Link;
use proto::api::{ExecChannel, ExecRequest};
use proto::ids::ExecId;
use proto::shim::{Exec, ExitStatus, Signal};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How long a process may go on after its client has gone and it was told so.
const HANG_UP_GRACE: Duration = Duration::from_secs(10);

/// How long an ended process's output may stay open without anything in it.
const LEFT_PATIENCE: Duration = Duration::from_secs(1);

/// Most bytes that an ended process can have left: the largest pipe that an unprivileged process may have (pipe(7),
/// `pipe-max-size`).
const MOST_LEFT: usize = 1024 * 1024;

/// A started process and our ends of its streams.
pub(super) struct Process {
    /// For signals and sizes.
    pub(super) id: ExecId,
    /// How it ended; an error if its session ended first.
    pub(super) exited: oneshot::Receiver<ExitStatus>,
    /// Its standard input, or what is typed at its terminal.
    pub(super) input: Box<dyn AsyncWrite + Send + Unpin>,
    /// Its outputs; a terminal has one.
    pub(super) outputs: Vec<(ExecChannel, Box<dyn AsyncRead + Send + Unpin>)>,
}

/// The client of a process is gone: tell it as a terminal would, then as a service manager would.
async fn hang_up(link: &Link, id: ExecId) {
    for signal in [nix::libc::SIGHUP, nix::libc::SIGTERM] {
        // An exec that has ended by itself is no error here.
        let _ = link
            .signal(Signal {
                id: Some(id),
                signal,
            })
            .await;
    }
}

/// [`hang_up`], and what follows for a process that does not listen: nobody could ever end it, or use it, and the session
/// would count as busy for its sake.
pub(super) async fn after_hang_up(
    link: &Link,
    id: ExecId,
    exited: &mut oneshot::Receiver<ExitStatus>,
) -> Result<ExitStatus, oneshot::error::RecvError> {
    hang_up(link, id).await;
    if let Ok(status) = tokio::time::timeout(HANG_UP_GRACE, &mut *exited).await {
        return status;
    }
    kill(link, id).await;
    exited.await
}

/// Kills its process group.
pub(super) async fn kill(link: &Link, id: ExecId) {
    // It has ended by itself just now, or ends by this.
    let _ = link
        .signal(Signal {
            id: Some(id),
            signal: nix::libc::SIGKILL,
        })
        .await;
}

/// Starts one.
pub(super) async fn start(link: &Arc<Link>, wanted: &ExecRequest) -> Result<Process, ApiError> {
    let id = ExecId(link.next_id());
    let exec = Exec {
        id,
        argv: wanted.argv.clone(),
        env: wanted.env.clone(),
        cwd: wanted.cwd.clone(),
        tty: wanted.tty,
    };
    let failed = |error: io::Error| ApiError::internal(&error);
    let (theirs, input, outputs) = if wanted.tty.is_some() {
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let (output, input) = ours.into_split();
        let theirs: Vec<OwnedFd> = vec![theirs.into_std().map_err(failed)?.into()];
        (
            theirs,
            boxed_write(input),
            vec![(ExecChannel::Stdout, boxed_read(output))],
        )
    } else {
        let (stdin, their_stdin) = pipe::pipe().map_err(failed)?;
        let (their_stdout, stdout) = pipe::pipe().map_err(failed)?;
        let (their_stderr, stderr) = pipe::pipe().map_err(failed)?;
        // The process's ends block, as programs expect of their standard streams.
        let theirs = vec![
            their_stdin.into_blocking_fd().map_err(failed)?,
            their_stdout.into_blocking_fd().map_err(failed)?,
            their_stderr.into_blocking_fd().map_err(failed)?,
        ];
        let outputs = vec![
            (ExecChannel::Stdout, boxed_read(stdout)),
            (ExecChannel::Stderr, boxed_read(stderr)),
        ];
        (theirs, boxed_write(stdin), outputs)
    };
    let fds: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
    let (_pid, exited) = link.exec(&exec, &fds).await.map_err(|error| {
        ApiError::new(
            error.code(),
            format!("the process could not be started: {error}"),
        )
    })?;
    Ok(Process {
        id,
        exited,
        input,
        outputs,
    })
}

fn boxed_write(
    stream: impl AsyncWrite + Send + Unpin + 'static,
) -> Box<dyn AsyncWrite + Send + Unpin> {
    Box::new(stream)
}

fn boxed_read(
    stream: impl AsyncRead + Send + Unpin + 'static,
) -> Box<dyn AsyncRead + Send + Unpin> {
    Box::new(stream)
}

/// The exit code as a shell would give it.
pub(super) fn shell_code(status: ExitStatus) -> i32 {
    match status {
        ExitStatus::Code(code) => code,
        ExitStatus::Signal(signal) => 128 + signal,
    }
}

/// Passes output on: until its end, or, once the process has `ended`, until the output that it left is passed on. What a
/// grandchild still holds open, or still writes, is nobody's.
/// A frame has at most `most` bytes.
pub(super) async fn pump(
    mut output: impl AsyncRead + Unpin,
    channel: ExecChannel,
    most: usize,
    frames: mpsc::Sender<(ExecChannel, Vec<u8>)>,
    ended: CancellationToken,
) {
    let mut buffer = vec![0; most];
    let mut left = None;
    loop {
        let room = left.unwrap_or(most).min(most);
        let read = tokio::select! {
            read = output.read(&mut buffer[..room]) => read,
            () = ended.cancelled(), if left.is_none() => {
                left = Some(MOST_LEFT);
                continue;
            }
            () = tokio::time::sleep(LEFT_PATIENCE), if left.is_some() => return,
        };
        // An error is a process that is gone (EIO of a terminal): the end of its output. None, too, if nothing was left.
        let Ok(count @ 1..) = read else {
            return;
        };
        left = left.map(|left| left - count);
        // A client that reads slowly gets everything all the same.
        let frame = (channel, buffer[..count].to_vec());
        if frames.send(frame).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::api::MAX_EXEC_FRAME;
    use tokio::io::AsyncWriteExt;

    fn ended() -> CancellationToken {
        let ended = CancellationToken::new();
        ended.cancel();
        ended
    }

    /// A process that has ended and left `bytes`, and a grandchild that keeps the output open.
    async fn left(bytes: usize) -> (pipe::Sender, pipe::Receiver) {
        let (mut grandchild, output) = pipe::pipe().expect("pipe");
        grandchild
            .write_all(&vec![b'x'; bytes])
            .await
            .expect("write");
        (grandchild, output)
    }

    #[tokio::test]
    async fn a_grandchild_that_keeps_the_output_open_keeps_nothing_else() {
        let (grandchild, output) = left(10).await;
        let (frames, mut queue) = mpsc::channel(16);
        let bound = LEFT_PATIENCE * 5;
        let pump = pump(output, ExecChannel::Stdout, MAX_EXEC_FRAME, frames, ended());
        tokio::time::timeout(bound, pump)
            .await
            .expect("an end of the pump");
        assert_eq!(queue.recv().await.map(|(_, bytes)| bytes.len()), Some(10));
        assert!(queue.recv().await.is_none(), "a sender is left");
        drop(grandchild);
    }

    #[tokio::test]
    async fn a_grandchild_that_goes_on_writing_is_not_waited_for() {
        let (grandchild, output) = left(10).await;
        let writing = tokio::spawn(async move {
            let mut grandchild = grandchild;
            while grandchild.write_all(&[b'y'; 4096]).await.is_ok() {}
        });
        let (frames, mut queue) = mpsc::channel(16);
        let pump = tokio::spawn(pump(
            output,
            ExecChannel::Stdout,
            MAX_EXEC_FRAME,
            frames,
            ended(),
        ));
        let mut total = 0;
        while let Some((_, bytes)) = queue.recv().await {
            total += bytes.len();
        }
        assert_eq!(total, MOST_LEFT);
        pump.await.expect("pump");
        writing.await.expect("a broken pipe");
    }

    #[tokio::test]
    async fn a_client_that_reads_slowly_gets_what_was_left() {
        let (grandchild, output) = left(60_000).await;
        let (frames, mut queue) = mpsc::channel(1);
        let full = (ExecChannel::Stdout, Vec::new());
        frames.send(full).await.expect("room");
        let pump = tokio::spawn(pump(
            output,
            ExecChannel::Stdout,
            MAX_EXEC_FRAME,
            frames,
            ended(),
        ));
        tokio::time::sleep(LEFT_PATIENCE * 2 + Duration::from_millis(100)).await;
        let mut total = 0;
        while let Some((_, bytes)) = queue.recv().await {
            total += bytes.len();
        }
        assert_eq!(total, 60_000);
        pump.await.expect("pump");
        drop(grandchild);
    }
}
