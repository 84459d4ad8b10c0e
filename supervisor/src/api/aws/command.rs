//! InvokeAgentRuntimeCommand (contract §2.3): one shell command in a session, its output as it comes.
//!
//! The command is a process of its own beside the agent: same files, environment, folder and isolation. It does not wait for
//! invocations, nor they for it. Its standard input is at its end from the start (AWS's never ends, so that `cat` hangs
//! there). A command whose time is over, whose output is over its bound or whose caller has gone is killed with its process
//! group; what left that group lives on as long as the session.
//!
//! ```text
//! stdout ─pump─┐                                              ┌─ contentStart
//!              ├─ frames ▸ Delivery: text, bounded ▸ events ▸ ├─ contentDelta …
//! stderr ─pump─┘                                              └─ contentStop, or an exception
//! ```

mod delivery;
mod text;

use super::event_stream;
use super::headers::of_command;
use super::target::Target;
use crate::api::identify::Caller;
use crate::api::input::{Reading, bounded};
use crate::api::invoke;
use crate::api::process::{self, Process, pump, shell_code};
use crate::api::reply::ApiError;
use crate::api::router::request_id;
use crate::api::session_header::{fresh_session_id, session_id, set_session};
use crate::broker::Broker;
use crate::session::handle::{Purpose, SessionHandle, SessionKey, Work};
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use delivery::Delivery;
use http::header::{self, HeaderValue};
use proto::api::{ExecRequest, FieldFault};
use proto::code::ErrorCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Longest command, in characters (contract §2.3).
const MAX_COMMAND: usize = 65_536;

/// Seconds that a command may ask for, and those of one that does not ask (contract §2.3).
const TIMEOUTS: std::ops::RangeInclusive<u32> = 1..=3600;
const DEFAULT_TIMEOUT: u32 = 300;

/// Most bytes of a request: the longest command with every character escaped (`\ud83d\ude42`), and something around it.
const MAX_REQUEST: u64 = 1024 * 1024;

/// Longest command, as JSON, that is an argument; a longer one would not fit the packet that orders it, nor, from 128 KiB on,
/// an argument (execve(2)). It comes by the standard input of a shell that reads it and then has none.
const MAX_ARGUMENT: usize = 60 * 1024;

/// How bash and other shells run a command that comes by their standard input.
const BASH_READS: &str = "IFS= read -r -d '' command; exec </dev/null; eval \"$command\"";
const SH_READS: &str = "command=$(cat); exec </dev/null; eval \"$command\"";

/// Most characters of the command in the session's log.
const MAX_NOTE: usize = 4096;

/// Frames on their way from the pipes, and events on their way to the caller; more than that waits in the pipes.
const QUEUE: usize = 8;

/// The request's body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    command: String,
    timeout: Option<u32>,
}

/// How a command ended.
enum Outcome {
    /// By itself.
    Exited(i32),
    /// Its time was over.
    TimedOut,
    /// Its output was over the bound.
    TooMuch,
    /// Its session ended.
    SessionEnded,
    /// Nobody listens any more.
    Abandoned,
}

pub(super) async fn command(
    broker: &Arc<Broker>,
    caller: &Caller,
    target: &Target,
    request: Request,
) -> Result<Response, ApiError> {
    let request_id = request_id(&request);
    let (parts, body) = request.into_parts();
    let session = session_id(&parts.headers)?.unwrap_or_else(fresh_session_id);
    let owner = caller.owner(broker, &parts.headers)?;
    let key = target.session(session.clone(), owner);
    let trace = of_command(&parts.headers)?;
    let wanted = Wanted::read(body).await?;
    let mut response = match begin(broker, &key, target, wanted, &request_id).await {
        Ok(events) => {
            let kind = [(
                header::CONTENT_TYPE,
                HeaderValue::from_static(event_stream::CONTENT_TYPE),
            )];
            axum::response::IntoResponse::into_response((kind, events))
        }
        Err(error) => error.aws(&request_id),
    };
    response.headers_mut().extend(trace);
    set_session(response.headers_mut(), &session);
    Ok(response)
}

impl Wanted {
    async fn read(body: Body) -> Result<Self, ApiError> {
        let body = bounded(body, MAX_REQUEST).await?;
        let reading = Reading::<Self>::of(&body)?;
        let mut faults = Vec::new();
        let mut fault = |name: &str, message: String| {
            faults.push(FieldFault {
                name: name.to_owned(),
                message,
            });
        };
        if let Some(wanted) = &reading.value {
            let length = wanted.command.chars().count();
            if !(1..=MAX_COMMAND).contains(&length) {
                let message = format!("must have 1 to {MAX_COMMAND} characters, has {length}");
                fault("command", message);
            }
            if wanted.command.contains('\0') {
                fault("command", "must not have a NUL character".to_owned());
            }
            if let Some(seconds) = wanted.timeout.filter(|asked| !TIMEOUTS.contains(asked)) {
                let (least, most) = (TIMEOUTS.start(), TIMEOUTS.end());
                let message = format!("must be {least} to {most} seconds, is {seconds}");
                fault("timeout", message);
            }
        }
        reading.finish(faults).map_err(in_body)
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.unwrap_or(DEFAULT_TIMEOUT).into())
    }

    /// For the session's log: on one line, and not all of a long one.
    fn note(&self, request_id: &str) -> String {
        let mut characters = self.command.chars();
        let shown: String = characters.by_ref().take(MAX_NOTE).collect();
        let more = if characters.next().is_some() {
            " …"
        } else {
            ""
        };
        format!("command {request_id}: {}{more}", shown.escape_debug())
    }
}

/// A fault's field as callers of SDKs know it: the body is a member, and what is in it is that member's.
fn in_body(mut error: ApiError) -> ApiError {
    for fault in error.fields.iter_mut().filter(|fault| fault.name != "body") {
        fault.name.insert_str(0, "body.");
    }
    ApiError::fields(error.fields)
}

/// Starts the command; the answer's body.
async fn begin(
    broker: &Arc<Broker>,
    key: &SessionKey,
    target: &Target,
    wanted: Wanted,
    request_id: &str,
) -> Result<Body, ApiError> {
    let (handle, work) = invoke::obtain(broker, key, &target.version, Purpose::Process).await?;
    handle.log.note(&wanted.note(request_id));
    let most = broker.config().limits.max_body.0;
    let (events, queue) = mpsc::channel::<Bytes>(QUEUE);
    let (tell, verdict) = oneshot::channel();
    // A task of its own from here on: the caller may go away while the process is being started, and then somebody must
    // be there to end it.
    tokio::spawn(async move {
        match start(&work, &wanted).await {
            Ok(process) => {
                // A caller who is gone has dropped the queue too, and that is noticed next.
                let _ = tell.send(Ok(()));
                run(process, work, &handle, wanted.timeout(), most, events).await;
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        }
    });
    verdict.await.unwrap_or_else(|_| {
        Err(ApiError::new(
            ErrorCode::Internal,
            "the command was given up",
        ))
    })?;
    let pieces = futures_util::stream::unfold(queue, |mut queue| async {
        let piece = queue.recv().await?;
        Some((Ok::<_, Infallible>(piece), queue))
    });
    Ok(Body::from_stream(pieces))
}

/// Starts it by bash, or where the base has none by sh.
async fn start(work: &Work, wanted: &Wanted) -> Result<Process, ApiError> {
    let as_argument =
        serde_json::to_string(&wanted.command).is_ok_and(|argument| argument.len() <= MAX_ARGUMENT);
    let by = |shell: &str, reads: &str| {
        let script = if as_argument { &wanted.command } else { reads };
        let argv = [shell, "-c", script].map(str::to_owned).to_vec();
        ExecRequest {
            argv,
            env: std::collections::BTreeMap::new(),
            cwd: None,
            tty: None,
        }
    };
    let mut process = match process::start(&work.link, &by("bash", BASH_READS)).await {
        Err(error) if error.code == ErrorCode::NotFound => {
            process::start(&work.link, &by("sh", SH_READS)).await
        }
        other => other,
    }
    // What the base lacks is not for callers to find, nor is their permission asked.
    .map_err(|error| match error.code {
        ErrorCode::NotFound | ErrorCode::AccessDenied => {
            ApiError::new(ErrorCode::AgentFailed, error.message)
        }
        _ => error,
    })?;
    let mut input = std::mem::replace(&mut process.input, Box::new(tokio::io::sink()));
    if !as_argument {
        let command = wanted.command.clone();
        // Ends with the command's last byte, or with the shell.
        tokio::spawn(async move { input.write_all(command.as_bytes()).await });
    }
    Ok(process)
}

/// How long a caller may take to read what an ended command has left.
const LAST_PATIENCE: Duration = Duration::from_secs(120);

/// Sees a command to its end.
async fn run(
    process: Process,
    work: Work,
    handle: &SessionHandle,
    timeout: Duration,
    most: u64,
    events: mpsc::Sender<Bytes>,
) {
    let Process {
        id,
        mut exited,
        outputs,
        input: _,
    } = process;
    let ended = CancellationToken::new();
    let too_much = CancellationToken::new();
    let (frames, queue) = mpsc::channel(QUEUE);
    let mut pumps: Vec<_> = outputs
        .into_iter()
        .map(|(channel, output)| {
            let pump = pump(
                output,
                channel,
                delivery::PIECE,
                frames.clone(),
                ended.clone(),
            );
            AbortOnDropHandle::new(tokio::spawn(pump))
        })
        .collect();
    drop(frames);
    let delivery = Delivery::new(events.clone(), most, too_much.clone());
    let mut delivering = AbortOnDropHandle::new(tokio::spawn(delivery.run(queue)));
    let unless_exited = tokio::select! {
        status = &mut exited => Err(status),
        () = tokio::time::sleep(timeout) => Ok(Outcome::TimedOut),
        () = too_much.cancelled() => Ok(Outcome::TooMuch),
        () = events.closed() => Ok(Outcome::Abandoned),
    };
    let outcome = match unless_exited {
        Ok(outcome) => {
            process::kill(&work.link, id).await;
            match exited.await {
                Ok(_killed) => outcome,
                Err(_link_closed) => Outcome::SessionEnded,
            }
        }
        Err(Ok(status)) => Outcome::Exited(shell_code(status)),
        Err(Err(_link_closed)) => Outcome::SessionEnded,
    };
    // A caller that does not read its output keeps that, not the session, from ending; and for a while only: its output takes
    // memory and a place among the daemon's work.
    let _place = work.end();
    ended.cancel();
    let rest = async {
        for pump in &mut pumps {
            let _ = pump.await;
        }
        let _ = (&mut delivering).await;
        if let Some(last) = last_event(outcome, handle, most).await {
            // A caller who is gone has nobody to tell.
            let _ = events.send(last).await;
        }
    };
    // Dropping them ends what is still waiting for the caller; the answer then breaks off.
    let _ = tokio::time::timeout(LAST_PATIENCE, rest).await;
}

async fn last_event(outcome: Outcome, handle: &SessionHandle, most: u64) -> Option<Bytes> {
    let stop = |exit_code: i32, status: &str| -> Value {
        json!({"contentStop": {"exitCode": exit_code, "status": status}})
    };
    Some(match outcome {
        Outcome::Exited(code) => event_stream::event(&stop(code, "COMPLETED")),
        Outcome::TimedOut => event_stream::event(&stop(-1, "TIMED_OUT")),
        Outcome::TooMuch => event_stream::exception(
            "serviceQuotaExceededException",
            &format!("the command's output is over {most} bytes (limits.max_body); it was ended"),
        ),
        Outcome::SessionEnded => {
            let why = handle
                .ending()
                .await
                .map_or_else(String::new, |end| format!(": {}", end.detail));
            event_stream::exception("runtimeClientError", &format!("the session ended{why}"))
        }
        Outcome::Abandoned => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fault_of(body: Value) -> Vec<(String, String)> {
        match Wanted::read(Body::from(body.to_string())).await {
            Ok(_) => Vec::new(),
            Err(error) => {
                assert_eq!(error.code, ErrorCode::Validation, "{error:?}");
                let fields = error.fields.into_iter();
                fields.map(|fault| (fault.name, fault.message)).collect()
            }
        }
    }

    #[tokio::test]
    async fn bounds_of_the_request_name_their_field() {
        for body in [
            json!({"command": "x"}),
            json!({"command": "🙂".repeat(MAX_COMMAND), "timeout": 1}),
            json!({"command": "x", "timeout": 3600}),
        ] {
            assert_eq!(fault_of(body).await, []);
        }
        for (body, field) in [
            (json!({}), "body.command"),
            (json!({"command": ""}), "body.command"),
            (json!({"command": 1}), "body.command"),
            (json!({"command": "a\0"}), "body.command"),
            (
                json!({"command": "x".repeat(MAX_COMMAND + 1)}),
                "body.command",
            ),
            (json!({"command": "x", "timeout": 0}), "body.timeout"),
            (json!({"command": "x", "timeout": 3601}), "body.timeout"),
            (json!({"command": "x", "timeout": -1}), "body.timeout"),
            (json!({"command": "x", "timeout": 1.5}), "body.timeout"),
            (json!({"command": "x", "stdin": "y"}), "body.stdin"),
            (json!([]), "body"),
        ] {
            let faults = fault_of(body.clone()).await;
            let names: Vec<_> = faults.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, [field], "{body} {faults:?}");
        }
    }

    #[test]
    fn the_note_is_one_line_and_bounded() {
        let wanted = |command: String| Wanted {
            command,
            timeout: None,
        };
        assert_eq!(wanted("a\nb".to_owned()).note("id"), "command id: a\\nb");
        let note = wanted("ü".repeat(MAX_COMMAND)).note("id");
        assert!(note.chars().count() < MAX_NOTE + 30 && note.ends_with(" …"));
    }
}
