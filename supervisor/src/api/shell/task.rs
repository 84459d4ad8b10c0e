//! The one task that owns a shell: its process in a terminal, its output of late, and the connection that it has, if any.
//!
//! ```text
//!  terminal ─▶ replay, and the connection   (waits while its client does not read)
//!  terminal ◀─ what the client types        (waits while the terminal takes nothing)
//! ```
//!
//! A newer connection takes the place of an older one, which is closed with 4000. Without one the shell goes on for
//! `limits.shell_idle`, its output kept in the replay alone; then it is hung up, as a terminal's is whose line is gone.
//! Its session counts as busy as long as it lives.

use super::ShellId;
use super::channel::{self, Said};
use super::connection::{Client, Connection, Held};
use super::registry::Place;
use super::replay::Replay;
use crate::api::process::{self, Process, after_hang_up};
use crate::api::reply::ApiError;
use crate::api::websocket::{code_of, stopping};
use crate::broker::Broker;
use crate::session::handle::{SessionHandle, Work};
use crate::websocket::close::{Close, CloseCode};
use bytes::{Buf, Bytes};
use proto::api::ExecRequest;
use proto::code::ErrorCode;
use proto::shim::{ExitStatus, Resize, TtySize};
use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::sync::oneshot::error::RecvError;
use tokio::time::{Instant, sleep_until, timeout};

/// Bytes of output in one message at most; the frame has one more, and there is room for others' bounds.
const PIECE: usize = 16 * 1024;

/// The terminal of a client that has not said its size.
const FIRST_SIZE: TtySize = TtySize { rows: 24, cols: 80 };

/// How long the output of a shell that has ended may stay open.
const LEFT_PATIENCE: Duration = Duration::from_secs(1);

/// How long the client of a shell that has ended may take for the rest of its output.
const LAST_PATIENCE: Duration = Duration::from_secs(30);

/// How long the first client may take for the switch that it has asked for.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// Clients on their way to the task.
pub(in crate::api) const CLIENTS: usize = 4;

/// A shell that has been started.
pub(in crate::api) struct Shell {
    pub(in crate::api) id: ShellId,
    pub(in crate::api) process: Process,
    pub(in crate::api) work: Work,
    pub(in crate::api) handle: Arc<SessionHandle>,
    /// Its name, until it is over.
    pub(in crate::api) place: Place,
}

/// Starts a login shell: bash, or where the base has none sh.
pub(in crate::api) async fn start(work: &Work) -> Result<Process, ApiError> {
    let by = |shell: &str| ExecRequest {
        argv: vec![shell.to_owned(), "-l".to_owned()],
        env: BTreeMap::from([("TERM".to_owned(), "xterm-256color".to_owned())]),
        cwd: None,
        tty: Some(FIRST_SIZE),
    };
    let started = match process::start(&work.link, &by("bash")).await {
        Err(error) if error.code == ErrorCode::NotFound => {
            process::start(&work.link, &by("sh")).await
        }
        other => other,
    };
    started.map_err(|error| match error.code {
        ErrorCode::NotFound | ErrorCode::AccessDenied => {
            ApiError::new(ErrorCode::AgentFailed, error.message)
        }
        _ => error,
    })
}

/// How a shell ended.
enum Ended {
    /// By itself, or because its client wanted it.
    Exited(ExitStatus),
    /// With its session.
    Session,
    /// Nobody came back.
    Left,
    /// This daemon stops; the shell is its session's now.
    Daemon(Close),
}

/// Sees a shell to its end.
pub(in crate::api) async fn run(
    broker: Arc<Broker>,
    shell: Shell,
    mut clients: mpsc::Receiver<Client>,
) {
    let Shell {
        id,
        mut process,
        work,
        handle,
        place,
    } = shell;
    let limits = broker.config().limits.clone();
    let held = Held {
        shell: limits.shell,
        websocket: limits.websocket,
    };
    let mut line = Line {
        id,
        held,
        broker: Arc::clone(&broker),
        replay: Replay::default(),
        undelivered: None,
        connection: None,
        said: None,
        had_one: false,
        alone_until: Instant::now() + FIRST_PATIENCE.min(held.shell.idle),
    };
    let ended = line.drive(&mut process, &work, &mut clients).await;
    // The name is free before the client hears of the end: it may come again at once.
    clients.close();
    drop((place, work, process));
    line.goodbye(ended, &handle).await;
}

/// The task's state beside the process.
struct Line {
    id: ShellId,
    held: Held,
    broker: Arc<Broker>,
    replay: Replay,
    /// Output that the connection has not taken yet; it is in the replay too.
    undelivered: Option<Bytes>,
    connection: Option<Connection>,
    /// What its client says.
    said: Option<mpsc::Receiver<Said>>,
    had_one: bool,
    /// When the shell ends that has no connection.
    alone_until: Instant,
}

impl Line {
    async fn drive(
        &mut self,
        process: &mut Process,
        work: &Work,
        clients: &mut mpsc::Receiver<Client>,
    ) -> Ended {
        let told = stopping(Arc::clone(&self.broker));
        tokio::pin!(told);
        let mut output = process.outputs.pop().map(|(_, output)| output);
        let mut typed = Bytes::new();
        let mut buffer = vec![0; PIECE];
        let mut status = None;
        let mut left_until = None;
        let mut over_at = None;
        loop {
            if let (Some(status), None, None) = (status, &output, &self.undelivered) {
                return Ended::Exited(status);
            }
            let alone_until = self.connection.is_none().then_some(self.alone_until);
            let room = self.undelivered.is_none();
            tokio::select! {
                read = read(&mut output, &mut buffer), if room => match read {
                    0 => output = None,
                    count => {
                        let bytes = &buffer[..count];
                        self.replay.keep(bytes);
                        if self.connection.is_some() {
                            self.undelivered = Some(channel::stdout(bytes));
                        }
                    }
                },
                delivered = deliver(self.connection.as_ref(), &mut self.undelivered), if !room => {
                    if !delivered {
                        self.lose_connection();
                    }
                }
                wrote = process.input.write(&typed), if !typed.is_empty() => match wrote {
                    Ok(count @ 1..) => typed.advance(count),
                    // Nobody reads it any more.
                    Ok(0) | Err(_) => typed.clear(),
                },
                said = said(&mut self.said), if typed.is_empty() => match said {
                    Some(Said::Stdin(bytes)) => typed = bytes,
                    Some(Said::Resize(size)) => {
                        let id = process.id;
                        work.link.resize(Resize { id, size }).await;
                    }
                    Some(Said::Heartbeat) => self.tell(channel::heartbeat()),
                    Some(Said::Unknown(Some(fault))) => {
                        self.tell(channel::diagnostic(&format!("agentcore: {fault}")));
                    }
                    Some(Said::Unknown(None)) => {}
                    Some(Said::Close) => {
                        drop(output);
                        return match hang_up(process, work).await {
                            Ok(status) => Ended::Exited(status),
                            Err(_link_closed) => Ended::Session,
                        };
                    }
                    None => self.lose_connection(),
                },
                () = closed(self.connection.as_ref()) => self.lose_connection(),
                Some(client) = clients.recv() => self.take(client).await,
                ended = &mut process.exited, if status.is_none() => match ended {
                    Ok(ended) => {
                        status = Some(ended);
                        left_until = Some(Instant::now() + LEFT_PATIENCE);
                        over_at = Some(Instant::now() + LAST_PATIENCE);
                    }
                    Err(_link_closed) => return Ended::Session,
                },
                () = until(left_until) => {
                    output = None;
                    left_until = None;
                }
                // A client that does not read does not keep a shell that has ended.
                () = until(over_at) => {
                    output = None;
                    self.undelivered = None;
                }
                () = until(alone_until) => {
                    drop(output);
                    let _ = hang_up(process, work).await;
                    return Ended::Left;
                }
                close = &mut told => return Ended::Daemon(close),
            }
        }
    }

    /// A client has come: it takes the place of the one before.
    async fn take(&mut self, client: Client) {
        if let Some(older) = self.connection.take() {
            older.close(Close::new(
                CloseCode::Replaced,
                "a newer connection has this shell now",
            ));
        }
        self.undelivered = None;
        let (connection, said) = Connection::open(client, self.held, &self.broker.open);
        let mut frames = vec![channel::connected(&self.id, self.had_one)];
        frames.extend(self.replay.pieces(PIECE).map(channel::stdout));
        self.had_one = true;
        let sender = connection.frames.clone();
        self.connection = Some(connection);
        self.said = Some(said);
        let all = async {
            for frame in frames {
                if sender.send(frame).await.is_err() {
                    return;
                }
            }
        };
        // A client that does not even take what it has missed is as good as none.
        if timeout(FIRST_PATIENCE, all).await.is_err() {
            self.lose_connection();
        }
    }

    /// Gives the connection a small message of this end.
    fn tell(&self, frame: Bytes) {
        if let Some(connection) = &self.connection {
            // Without room its client does not read, and needs no answer.
            let _ = connection.frames.try_send(frame);
        }
    }

    fn lose_connection(&mut self) {
        self.connection = None;
        self.said = None;
        self.undelivered = None;
        self.alone_until = Instant::now() + self.held.shell.idle;
    }

    /// The last words to the client.
    async fn goodbye(self, ended: Ended, handle: &SessionHandle) {
        let Some(connection) = self.connection else {
            return;
        };
        // What kills a shell with its session is the session's end, whichever is heard of first.
        let killed = matches!(ended, Ended::Exited(ExitStatus::Signal(_)));
        let ended = if killed && handle.view().end.is_some() {
            Ended::Session
        } else {
            ended
        };
        let (frames, close) = match ended {
            Ended::Exited(status) => (
                vec![channel::exited(status)],
                Close::new(CloseCode::Normal, ""),
            ),
            Ended::Session => {
                let end = handle.ending().await;
                let (code, text) = match end {
                    Some(end) => (
                        code_of(end.reason),
                        format!("the session ended: {}", end.detail),
                    ),
                    None => (CloseCode::Error, "the session ended".to_owned()),
                };
                let frames = vec![
                    channel::diagnostic(&format!("agentcore: {text}")),
                    channel::close(),
                ];
                (frames, Close::new(code, text))
            }
            Ended::Daemon(close) => (Vec::new(), close),
            Ended::Left => return,
        };
        for frame in frames {
            // The queue is the connection's own; what waits in it goes before the close.
            let sent = timeout(FIRST_PATIENCE, connection.frames.send(frame)).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
        connection.close(close);
    }
}

/// Ends a shell whose output is dropped: without both halves of its stream the shim closes the terminal, and the kernel hangs
/// up on what runs in the foreground, so that the shell is free to do the same to its jobs.
async fn hang_up(process: &mut Process, work: &Work) -> Result<ExitStatus, RecvError> {
    process.input = Box::new(tokio::io::sink());
    after_hang_up(&work.link, process.id, &mut process.exited).await
}

/// Reads the output, if it is open; 0 at its end.
async fn read(
    output: &mut Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>,
    buffer: &mut [u8],
) -> usize {
    match output {
        // An error is a terminal that is gone.
        Some(output) => output.read(buffer).await.unwrap_or(0),
        None => pending().await,
    }
}

/// Gives the connection what it has not taken; `false` if it is over.
async fn deliver(connection: Option<&Connection>, undelivered: &mut Option<Bytes>) -> bool {
    match connection {
        Some(connection) if undelivered.is_some() => {
            let Ok(place) = connection.frames.reserve().await else {
                return false;
            };
            if let Some(frame) = undelivered.take() {
                place.send(frame);
            }
            true
        }
        Some(_) | None => pending().await,
    }
}

/// What the client says; `None` at the connection's end.
async fn said(said: &mut Option<mpsc::Receiver<Said>>) -> Option<Said> {
    match said {
        Some(said) => said.recv().await,
        None => pending().await,
    }
}

/// Resolves when the connection is over.
async fn closed(connection: Option<&Connection>) {
    match connection {
        Some(connection) => connection.frames.closed().await,
        None => pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
