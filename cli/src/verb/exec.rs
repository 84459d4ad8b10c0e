//! `agentcore exec`: a command beside the agent, with its identity and isolation.
//!
//! For: asking for it, and moving bytes between it and this terminal. Frames are `frames`, the terminal is `terminal`.
//! The exit code is the command's own.

use super::Desk;
use crate::args::Exec;
use crate::daemon::{full, json};
use crate::failure::{Exit, Failure, chain};
use crate::target;
use frames::{FrameError, Frames};
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use proto::api::{ExecChannel, ExecOutcome, ExecRequest, MAX_EXEC_FRAME};
use std::io::{ErrorKind, IsTerminal};
use std::process::ExitCode;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::signal::unix::{Signal, SignalKind, signal};

mod frames;
mod terminal;

/// Runs the command and passes its exit code on.
pub(super) async fn run(desk: &Desk, args: Exec) -> Result<ExitCode, Failure> {
    if args.tty && !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
        return Err(
            Failure::usage("-t needs a terminal on standard input and output")
                .advice("leave -t out; -i alone passes standard input on"),
        );
    }
    let link = open(desk, &args).await?;
    // Restores the terminal when it goes, however this ends.
    let _raw = if args.tty {
        Some(terminal::Raw::enter()?)
    } else {
        None
    };
    let outcome = relay(link, &args).await?;
    if let Some(error) = &outcome.error {
        return Err(not_run(&args, outcome.exit_code, error));
    }
    Ok(u8::try_from(outcome.exit_code).unwrap_or(u8::MAX).into())
}

async fn open(desk: &Desk, args: &Exec) -> Result<TokioIo<Upgraded>, Failure> {
    let order = ExecRequest {
        argv: args.command.clone(),
        env: args.environment.iter().cloned().collect(),
        cwd: args.workdir.clone(),
        tty: args.tty.then(terminal::size),
    };
    let path = target::session_path(&args.session, "/exec", args.agent.as_deref());
    let body = serde_json::to_vec(&order).expect("strings and numbers serialise");
    let mut request = desk.daemon.request(Method::POST, &path, full(body));
    json(&mut request);
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("agentcore-exec"));
    let answer = desk.daemon.call(request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::new(
            Exit::Unreachable,
            format!("{} does not speak agentcore-exec", desk.daemon.endpoint()),
        )
        .advice("a proxy in between may not pass upgrades on; use the daemon's own socket"));
    }
    let link = hyper::upgrade::on(answer).await;
    link.map(TokioIo::new)
        .map_err(|error| broken(&chain(&error)))
}

/// Moves frames until the command's outcome comes. Both directions at once: a command that waits for its output to be
/// read must not keep us from reading it while we wait for it to read its input.
async fn relay(link: TokioIo<Upgraded>, args: &Exec) -> Result<ExecOutcome, Failure> {
    let (reader, writer) = tokio::io::split(link);
    let (mut hangup, mut terminate) = (
        listen(SignalKind::hangup())?,
        listen(SignalKind::terminate())?,
    );
    tokio::select! {
        outcome = receive(Frames::new(reader)) => outcome,
        failure = transmit(writer, args) => Err(failure),
        _ = hangup.recv() => Ok(interrupted(1)),
        _ = terminate.recv() => Ok(interrupted(15)),
    }
}

/// Shows output until the outcome.
async fn receive(mut frames: Frames<ReadHalf<TokioIo<Upgraded>>>) -> Result<ExecOutcome, Failure> {
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    loop {
        let frame = frames
            .next()
            .await
            .map_err(|error| broken(&chain(&error)))?;
        let frame = frame.ok_or_else(|| broken("it ended without the command's exit code"))?;
        match frame.channel {
            ExecChannel::Stdout => copy(&mut out, &frame.payload).await?,
            ExecChannel::Stderr => copy(&mut err, &frame.payload).await?,
            ExecChannel::Status => return outcome(&frame.payload),
            ExecChannel::Stdin | ExecChannel::Resize => {
                return Err(broken("it sent a frame that only we may send"));
            }
        }
    }
}

/// Sends input and sizes; comes back only with a failure.
async fn transmit(mut link: WriteHalf<TokioIo<Upgraded>>, args: &Exec) -> Failure {
    let sending = async {
        let mut input = args.interactive.then(tokio::io::stdin);
        if input.is_none() && !args.tty {
            send(&mut link, ExecChannel::Stdin, b"").await?;
        }
        let mut resized = listen(SignalKind::window_change())?;
        let mut chunk = vec![0; MAX_EXEC_FRAME / 4];
        loop {
            tokio::select! {
                read = read(&mut input, &mut chunk) => {
                    // An empty payload closes the command's standard input; an unreadable one is at its end too.
                    let length = read.unwrap_or(0);
                    send(&mut link, ExecChannel::Stdin, &chunk[..length]).await?;
                    if length == 0 {
                        input = None;
                    }
                }
                _ = resized.recv(), if args.tty => {
                    let size = serde_json::to_vec(&terminal::size()).expect("two numbers serialise");
                    send(&mut link, ExecChannel::Resize, &size).await?;
                }
            }
        }
    };
    let ended: Result<std::convert::Infallible, Failure> = sending.await;
    match ended {
        Err(failure) => failure,
        Ok(never) => match never {},
    }
}

/// Our own end by a signal, as a shell would show it. Dropping the connection ends the command.
const fn interrupted(signal: i32) -> ExecOutcome {
    ExecOutcome {
        exit_code: 128 + signal,
        error: None,
    }
}

async fn read(input: &mut Option<tokio::io::Stdin>, into: &mut [u8]) -> std::io::Result<usize> {
    match input {
        Some(input) => input.read(into).await,
        None => std::future::pending().await,
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot listen for signals: {error}")))
}

async fn copy(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), Failure> {
    to.write_all(bytes)
        .await
        .map_err(|error| Failure::output(&error))?;
    to.flush().await.map_err(|error| Failure::output(&error))
}

async fn send(
    link: &mut WriteHalf<TokioIo<Upgraded>>,
    channel: ExecChannel,
    payload: &[u8],
) -> Result<(), Failure> {
    match frames::write(link, channel, payload).await {
        Ok(()) => Ok(()),
        // The command may end before it has read all its input; its outcome is on the way.
        Err(FrameError::Io(error))
            if matches!(
                error.kind(),
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(broken(&chain(&error))),
    }
}

fn outcome(payload: &[u8]) -> Result<ExecOutcome, Failure> {
    serde_json::from_slice(payload)
        .map_err(|error| broken(&format!("the exit code cannot be read: {error}")))
}

fn not_run(args: &Exec, code: i32, error: &str) -> Failure {
    let program = args.command.first().map_or("", String::as_str);
    let exit = match u8::try_from(code) {
        Ok(code) if code != 0 => Exit::Command(code),
        Ok(_) | Err(_) => Exit::Failed,
    };
    Failure::new(exit, format!("{program}: {error}"))
}

fn broken(why: &str) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("the connection to the command broke: {why}"),
    )
    .advice("the session may have ended; see `agentcore session list --all`")
}
