//! `POST /v1/sessions/{id}/exec`: one more process in a session, over an upgraded connection.
//!
//! After the 101 both sides speak frames ([`ExecChannel`]). Without a terminal the process gets three pipes of its own;
//! with one, the shim makes a pseudo-terminal in the session and carries it over one stream.

use super::input::{Path, Reading, bounded};
use super::listener::Place;
use super::obtain::not_begun;
use super::openapi::Refusals;
use super::process::{self, Process, after_hang_up, pump, shell_code};
use super::reply::ApiError;
use super::router::RequestId;
use super::sessions;
use crate::broker::Broker;
use crate::relay::link::Link;
use crate::session::handle::{NoTurn, Purpose, SessionHandle, Unusable, Work};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper_util::rt::TokioIo;
use proto::api::{ExecChannel, ExecOutcome, ExecRequest, MAX_EXEC_FRAME};
use proto::code::ErrorCode;
use proto::ids::ExecId;
use proto::shim::{Resize, TtySize};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// The protocol's name in `Upgrade`.
const PROTOCOL: &str = "agentcore-exec";

/// Frames on their way to the client; more than a screenful of output waits in the pipes instead.
const FRAME_QUEUE: usize = 16;

/// How long a client may take to close after the last frame.
const CLOSE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// Most bytes of an `exec` request.
const MAX_REQUEST: u64 = 60 * 1024;

/// The route.
#[utoipa::path(
    post,
    path = "/sessions/{id}/exec",
    operation_id = "execInSession",
    summary = "One more process in a session, over an upgraded connection",
    tag = "sessions",
    params(("id" = String, Path, description = "Ours, or the caller's"), super::sessions::Which),
    request_body(content = ExecRequest),
    responses(
        (status = 101, description = "`Upgrade: agentcore-exec`; then frames both ways: channel (one byte), length (four, big-endian), payload"),
        Refusals
    )
)]
pub async fn exec(
    State(broker): State<Arc<Broker>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let request_id = request
        .extensions()
        .get::<RequestId>()
        .map(|id| id.0.clone())
        .unwrap_or_default();
    match begin(&broker, &id, request).await {
        Ok(response) => response,
        Err(error) => error.problem(&request_id),
    }
}

async fn begin(broker: &Arc<Broker>, id: &str, mut request: Request) -> Result<Response, ApiError> {
    let upgrade = request
        .headers()
        .get(UPGRADE)
        .and_then(|value| value.to_str().ok());
    if !upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case(PROTOCOL)) {
        return Err(ApiError::field(
            "Upgrade",
            format!("must be `{PROTOCOL}` (HTTP/1.1)"),
        ));
    }
    let on_upgrade = hyper::upgrade::on(&mut request);
    // The connection is counted as one as long as it lasts.
    let place = request.extensions().get::<Place>().cloned();
    let query = request.uri().query().unwrap_or("").to_owned();
    let body = bounded(request.into_body(), MAX_REQUEST).await?;
    let wanted = Reading::<ExecRequest>::of(&body)?.finish(Vec::new())?;
    if wanted.argv.is_empty() || wanted.argv.iter().any(|word| word.contains('\0')) {
        return Err(ApiError::field(
            "argv",
            "must hold a program and its arguments, without NUL",
        ));
    }
    let handle = sessions::live(broker, id, sessions::runtime_of(&query)?.as_ref())?;
    let begun = handle
        .begin(Purpose::Process, &broker.config().limits)
        .await;
    let work = begun.map_err(|error| match error {
        NoTurn::Unusable(Unusable::Ending) => ApiError::not_found("the session is ending"),
        NoTurn::Unusable(Unusable::Failed(end)) => {
            ApiError::new(ErrorCode::AgentFailed, end.detail)
        }
        full @ (NoTurn::Busy | NoTurn::Unusable(Unusable::Full(_) | Unusable::Frozen(_))) => {
            not_begun(&full)
        }
    })?;
    let (tell, verdict) = oneshot::channel();
    // A task of its own from here on: the caller may go away while the process is being started, and then somebody must
    // be there to end it.
    tokio::spawn(async move {
        let process = match process::start(&work.link, &wanted).await {
            Ok(process) => Ok(process),
            Err(error) => match not_run(&error) {
                Some(outcome) => Err(outcome),
                None => {
                    // A caller who is gone has nobody to tell.
                    let _ = tell.send(error);
                    return;
                }
            },
        };
        drop(tell);
        // Fails if the caller is gone, at whatever moment.
        match (process, on_upgrade.await) {
            (Ok(process), Ok(upgraded)) => {
                serve(TokioIo::new(upgraded), process, work, &handle).await;
            }
            // A client that does not take the upgrade leaves a process without input: it is ended.
            (Ok(mut process), Err(_gone)) => {
                let _ = after_hang_up(&work.link, process.id, &mut process.exited).await;
            }
            (Err(outcome), Ok(upgraded)) => {
                let (from_client, to_client) = tokio::io::split(TokioIo::new(upgraded));
                let (frames, queue) = mpsc::channel(1);
                let writer = tokio::spawn(write_frames(to_client, queue));
                tell_outcome(frames, &outcome).await;
                let _ = writer.await;
                until_closed(from_client).await;
            }
            (Err(_), Err(_gone)) => {}
        }
        drop(place);
    });
    if let Ok(error) = verdict.await {
        return Err(error);
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response
        .headers_mut()
        .insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    Ok(response)
}

/// A program that is not there or may not be executed is an outcome as a shell would tell it, not an error of the call.
fn not_run(error: &ApiError) -> Option<ExecOutcome> {
    let exit_code = match error.code {
        ErrorCode::NotFound => 127,
        ErrorCode::AccessDenied => 126,
        _ => return None,
    };
    Some(ExecOutcome {
        exit_code,
        error: Some(error.message.clone()),
    })
}

async fn tell_outcome(frames: mpsc::Sender<(ExecChannel, Vec<u8>)>, outcome: &ExecOutcome) {
    let status = serde_json::to_vec(outcome).unwrap_or_default();
    // A client that is gone has nobody to tell.
    let _ = frames.send((ExecChannel::Status, status)).await;
}

/// Reads what a client still sends until it closes, for a moment: closing first, with its bytes unread, would reset the
/// connection and could take the last frame with it.
async fn until_closed(mut client: impl AsyncRead + Unpin) {
    let mut sink = tokio::io::sink();
    let _ = tokio::time::timeout(CLOSE_PATIENCE, tokio::io::copy(&mut client, &mut sink)).await;
}

async fn serve<S>(connection: S, process: Process, work: Work, handle: &SessionHandle)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let Process {
        id,
        mut exited,
        input,
        outputs,
    } = process;
    let (from_client, to_client) = tokio::io::split(connection);
    let (frames, queue) = mpsc::channel(FRAME_QUEUE);
    let writer = tokio::spawn(write_frames(to_client, queue));
    let mut reader = tokio::spawn(read_frames(from_client, input, Arc::clone(&work.link), id));
    let ended = CancellationToken::new();
    let pumps: Vec<_> = outputs
        .into_iter()
        .map(|(channel, output)| {
            let pump = pump(
                output,
                channel,
                MAX_EXEC_FRAME,
                frames.clone(),
                ended.clone(),
            );
            tokio::spawn(pump)
        })
        .collect();
    let (status, client) = tokio::select! {
        status = &mut exited => (status, Some(reader)),
        Hangup::Gone = gone(&mut reader) => {
            (after_hang_up(&work.link, id, &mut exited).await, None)
        }
    };
    let outcome = match status {
        Ok(status) => ExecOutcome {
            exit_code: shell_code(status),
            error: None,
        },
        Err(_link_closed) => {
            let why = handle
                .ending()
                .await
                .map_or_else(String::new, |end| format!(": {}", end.detail));
            ExecOutcome {
                exit_code: -1,
                error: Some(format!("the session ended{why}")),
            }
        }
    };
    // A client that does not read its output keeps that, not the session, from ending.
    drop(work);
    ended.cancel();
    for pump in pumps {
        let _ = pump.await;
    }
    tell_outcome(frames, &outcome).await;
    let _ = writer.await;
    // See `until_closed`: the client closes when it has the status.
    if let Some(mut reader) = client
        && tokio::time::timeout(CLOSE_PATIENCE, &mut reader)
            .await
            .is_err()
    {
        reader.abort();
    }
}

/// Waits for the client's half to end; a reader that panicked counts as a client that is gone.
async fn gone(reader: &mut tokio::task::JoinHandle<Hangup>) -> Hangup {
    reader.await.unwrap_or(Hangup::Gone)
}

async fn write_frames(
    mut client: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<(ExecChannel, Vec<u8>)>,
) {
    while let Some((channel, payload)) = queue.recv().await {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut frame = Vec::with_capacity(payload.len() + 5);
        frame.push(channel as u8);
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&payload);
        if client.write_all(&frame).await.is_err() {
            return;
        }
    }
    let _ = client.shutdown().await;
}

/// How a client's half ended.
enum Hangup {
    /// It closed the connection, or spoke nonsense.
    Gone,
}

async fn read_frames(
    mut client: impl AsyncRead + Unpin,
    input: Box<dyn AsyncWrite + Send + Unpin>,
    link: Arc<Link>,
    id: ExecId,
) -> Hangup {
    let mut input = Some(input);
    let mut head = [0; 5];
    loop {
        if client.read_exact(&mut head).await.is_err() {
            return Hangup::Gone;
        }
        let [channel, length @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_EXEC_FRAME {
            return Hangup::Gone;
        }
        let mut payload = vec![0; length];
        if client.read_exact(&mut payload).await.is_err() {
            return Hangup::Gone;
        }
        match ExecChannel::from_byte(channel) {
            Some(ExecChannel::Stdin) if payload.is_empty() => input = None,
            Some(ExecChannel::Stdin) => {
                if let Some(stream) = &mut input
                    && stream.write_all(&payload).await.is_err()
                {
                    input = None;
                }
            }
            Some(ExecChannel::Resize) => {
                if let Ok(size) = serde_json::from_slice::<TtySize>(&payload) {
                    link.resize(Resize { id, size }).await;
                }
            }
            Some(ExecChannel::Stdout | ExecChannel::Stderr | ExecChannel::Status) | None => {
                return Hangup::Gone;
            }
        }
    }
}
