//! One invocation, whatever wire it came by: obtain the session ▸ relay ▸ answer (architecture §4, stages 4–7).

use super::answer::{AnswerBody, Bounds};
use super::evidence::{AgentEvidence, BODY_BYTES};
use super::intake::Intake;
use super::reply::ApiError;
use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::ledger::Charge;
use crate::owner::Owner;
use crate::relay::exchange::{self, Exchange, RequestBody};
use crate::relay::link::CallError;
use crate::session::handle::{SessionHandle, SessionKey, Work};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use proto::code::ErrorCode;
use proto::config::Protocol;
use proto::ids::InvocationId;
use proto::shim::Invoke;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

pub use super::obtain::obtain;

/// The caller's session header, both ways.
pub const SESSION_ID: HeaderName =
    HeaderName::from_static("x-amzn-bedrock-agentcore-runtime-session-id");

/// The request's id, for the agent.
pub const REQUEST_ID: &str = "x-amzn-bedrock-agentcore-runtime-request-id";

/// Names an MCP client's session.
const MCP_SESSION_ID: &str = "mcp-session-id";

/// How long to wait for the reason when a session's link breaks in the middle of an exchange: the end is already on its
/// way from the launcher.
const REASON_PATIENCE: Duration = Duration::from_secs(2);

/// How long an agent's words about its own failure are read.
const WORDS_PATIENCE: Duration = Duration::from_secs(2);

/// Headers of an answer that belong to one connection, or frame its body; this server says its own.
const THIS_HOP: &[&str] = &[
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A call that is understood: what every wire's request becomes.
#[derive(Debug)]
pub struct Call {
    /// Which session, of which runtime.
    pub key: SessionKey,
    /// The version that a new session runs.
    pub version: Arc<RuntimeVersion>,
    /// Method and path at the agent.
    pub method: String,
    /// See `method`.
    pub target: String,
    /// Headers for the agent, checked and without hop-by-hop ones.
    pub headers: Vec<(String, String)>,
    /// Another port of the session than the agent's own.
    pub port: Option<u16>,
    /// If the caller's SDK may try again.
    pub attempt: Option<Attempt>,
    /// What an error of the agent's own becomes.
    pub agent_errors: AgentErrors,
}

/// What makes attempts of an SDK one call, beside session and body.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// Who calls: of a session that is shared, not everybody whose it is.
    pub caller: Owner,
    /// `amz-sdk-invocation-id`.
    pub invocation: String,
}

/// What a wire makes of an agent's answer that is not a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentErrors {
    /// An error of the call, with the agent's words in it ([`agent_error`]).
    Explained,
    /// The answer, as it is.
    Passed,
}

/// The agent's answer, ready to be put on a wire.
#[derive(Debug)]
pub struct Answer {
    /// The agent's status.
    pub status: u16,
    /// The agent's headers.
    pub headers: HeaderMap,
    /// Whether it is a stream of events.
    pub streamed: bool,
    /// The agent's body, as it comes.
    pub body: AnswerBody,
}

/// Relays a call over a session that is held by `work`.
pub async fn relay(
    broker: &Broker,
    handle: &SessionHandle,
    work: Work,
    call: &Call,
    intake: Intake,
) -> Result<Answer, ApiError> {
    let began = Instant::now();
    let bytes = match &intake.body {
        RequestBody::Whole(body) => u64::try_from(body.len()).unwrap_or(u64::MAX),
        RequestBody::Stream(_) => intake.length.unwrap_or(0),
    };
    handle.meters.taken(bytes);
    let answer = pass(broker, handle, work, call, intake).await;
    let (streamed, status) = match &answer {
        Ok(answer) => (answer.streamed, answer.status),
        Err(error) => (false, error.code.row().http),
    };
    handle.meters.answered(streamed, status, began.elapsed());
    answer
}

async fn pass(
    broker: &Broker,
    handle: &SessionHandle,
    work: Work,
    call: &Call,
    intake: Intake,
) -> Result<Answer, ApiError> {
    let Intake {
        body,
        length,
        trouble,
    } = intake;
    let request = Invoke {
        id: InvocationId(0),
        method: call.method.clone(),
        target: call.target.clone(),
        headers: for_agent(call, handle),
        content_length: match &body {
            RequestBody::Whole(_) => None,
            RequestBody::Stream(_) => length,
        },
        port: call.port,
        keep: None,
    };
    let charge = work.charge();
    if let Some(charge) = &charge
        && (call.method.as_str(), call.target.as_str()) == ("GET", "/ping")
    {
        charge.waive();
    }
    let body = counted(body, charge);
    let timeout = handle.version.spec.timeouts.invocation;
    let deadline = Instant::now() + timeout;
    let answered =
        tokio::time::timeout_at(deadline, exchange::exchange(&work.link, request, body)).await;
    let exchange = match answered {
        Ok(Ok(exchange)) => exchange,
        Ok(Err(error)) => {
            return Err(match trouble.told() {
                // The caller's own doing: what the agent made of it does not matter.
                Some(told) => told,
                None => relay_failure(handle, &error).await,
            });
        }
        // Dropping the exchange has told the agent; the session stays.
        Err(_elapsed) => return Err(too_late(handle, timeout)),
    };
    let answer = assemble(broker, handle, work, exchange, deadline)?;
    if call.port.is_none() {
        remember_mcp_session(handle, &answer.headers);
    }
    Ok(answer)
}

/// A request's body whose bytes are charged as they go.
fn counted<B>(body: RequestBody<B>, charge: Option<Arc<Charge>>) -> RequestBody<Counted<B>> {
    match body {
        RequestBody::Whole(bytes) => {
            if let Some(charge) = charge {
                charge.came(bytes.len());
            }
            RequestBody::Whole(bytes)
        }
        RequestBody::Stream(body) => RequestBody::Stream(Counted { body, charge }),
    }
}

struct Counted<B> {
    body: B,
    charge: Option<Arc<Charge>>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(charge)) = (&polled, &self.charge) {
            charge.came(frame.data_ref().map_or(0, Bytes::len));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An agent's answer from its head and body; `deadline` is that of the invocation.
pub(super) fn assemble(
    broker: &Broker,
    handle: &SessionHandle,
    work: Work,
    exchange: Exchange,
    deadline: Instant,
) -> Result<Answer, ApiError> {
    let config = broker.config();
    let limits = &config.limits;
    // A shim lets through only what it was asked for, and is not believed.
    if !(200..600).contains(&exchange.head.status) {
        return Err(ApiError::new(
            ErrorCode::AgentFailed,
            format!("the agent answered with status {}", exchange.head.status),
        ));
    }
    let mut headers = HeaderMap::with_capacity(exchange.head.headers.len());
    for (name, value) in &exchange.head.headers {
        // The shim has taken these off; one that has not would decide how the client reads this answer's end.
        if THIS_HOP.iter().any(|hop| name.eq_ignore_ascii_case(hop)) {
            continue;
        }
        // The shim has checked them; what this library finds wrong all the same is not passed on.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    let streamed = headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("text/event-stream"));
    let limit = (!streamed).then_some(limits.max_body.0);
    if let (Some(limit), Some(length)) = (limit, exchange.head.content_length)
        && length > limit
    {
        return Err(ApiError::new(
            ErrorCode::AgentFailed,
            format!(
                "the agent's answer has {length} bytes; at most {limit} are passed on (limits.max_body), unless it is an event stream"
            ),
        ));
    }
    // A stream has a time of its own, as a WebSocket has (contract §6).
    let (deadline, named) = if streamed {
        let end = Instant::now() + limits.stream_duration;
        (end, "limits.stream_duration")
    } else {
        (deadline, "lifecycle.invocation_timeout")
    };
    // These have no body whatever length they declare (RFC 9110 §6.4.1).
    let body = if matches!(exchange.head.status, 204 | 304) {
        AnswerBody::none()
    } else {
        let bounds = Bounds {
            limit,
            deadline,
            named,
        };
        AnswerBody::new(exchange.body, work, bounds, handle)
    };
    Ok(Answer {
        status: exchange.head.status,
        headers,
        streamed,
        body,
    })
}

/// The call's headers; an MCP server is told the session that it knows, whatever the client calls it (contract §1.6).
pub(crate) fn for_agent(call: &Call, handle: &SessionHandle) -> Vec<(String, String)> {
    let mut headers = call.headers.clone();
    if call.port.is_none()
        && let Some(known) = handle.mcp_session()
    {
        headers.retain(|(name, _)| name != MCP_SESSION_ID);
        headers.push((MCP_SESSION_ID.to_owned(), known));
    }
    headers
}

/// Keeps the id that an MCP server gave a session of its own.
fn remember_mcp_session(handle: &SessionHandle, answer: &HeaderMap) {
    if handle.version.spec.protocol != Protocol::Mcp {
        return;
    }
    let said = answer.get(MCP_SESSION_ID).map(HeaderValue::to_str);
    if let Some(Ok(id)) = said
        && id.len() <= MAX_MCP_SESSION_ID
    {
        handle.set_mcp_session(id);
    }
}

/// Longest id of an MCP session (contract §2.2).
const MAX_MCP_SESSION_ID: usize = 1024;

/// The refusal of a body over its bound.
pub fn too_large(announced: Option<u64>, max: u64) -> ApiError {
    let found = announced.map_or_else(|| "more".to_owned(), |size| format!("{size} bytes"));
    ApiError::too_large(
        "payload",
        format!("has {found}; at most {max} bytes are taken (limits.max_body)"),
    )
}

/// The error of an agent that has not answered in time.
pub(super) fn too_late(handle: &SessionHandle, timeout: Duration) -> ApiError {
    ApiError::new(
        ErrorCode::AgentTimeout,
        format!(
            "the agent did not answer within {} s (lifecycle.invocation_timeout)",
            timeout.as_secs()
        ),
    )
    .evidence(AgentEvidence::logged(handle.log.tail()))
}

/// Why an exchange failed: if the session ended over it, the session's reason says more than the broken connection.
pub(crate) async fn relay_failure(handle: &SessionHandle, error: &CallError) -> ApiError {
    let code = error.code();
    if code == ErrorCode::TooManyInvocations {
        return ApiError::new(
            code,
            format!(
                "session {} has its highest number of invocations in flight (limits.max_invocations_per_session); try again when some have ended",
                handle.key.client
            ),
        )
        .retry_after(Duration::from_secs(1));
    }
    let session_may_be_ending = matches!(
        code,
        ErrorCode::AgentClosed | ErrorCode::AgentUnreachable | ErrorCode::Cancelled
    );
    let end = if session_may_be_ending {
        tokio::time::timeout(REASON_PATIENCE, handle.ending())
            .await
            .ok()
            .flatten()
    } else {
        None
    };
    if end.is_none() {
        handle.log.settled().await;
    }
    let log = handle.log.tail();
    match end {
        Some(end) => ApiError::new(
            ErrorCode::AgentFailed,
            format!(
                "the session ended before the agent answered: {}",
                end.detail
            ),
        ),
        // Nothing was sent yet; its next attempt starts a new session.
        None if code == ErrorCode::RetryableConflict => {
            ApiError::new(code, format!("the agent did not answer: {error}"))
                .retry_after(Duration::from_secs(1))
        }
        None => ApiError::new(code, format!("the agent did not answer: {error}")),
    }
    .evidence(AgentEvidence::logged(log))
}

/// The 424 of the AWS wire for an agent that answered with an error, with its own words (contract §2.2).
pub async fn agent_error(handle: &SessionHandle, answer: Answer) -> ApiError {
    let Answer {
        status, mut body, ..
    } = answer;
    let mut begun = Vec::new();
    let read = async {
        while begun.len() < BODY_BYTES
            && let Some(Ok(frame)) = body.frame().await
        {
            if let Ok(data) = frame.into_data() {
                begun.extend_from_slice(&data[..data.len().min(BODY_BYTES - begun.len())]);
            }
        }
    };
    // It is evidence, not an answer: an agent that goes on talking about its failure is not listened to for long.
    let _late = tokio::time::timeout(WORDS_PATIENCE, read).await;
    handle.log.settled().await;
    let evidence = AgentEvidence::answered(status, &begun, handle.log.tail());
    // The rest is not wanted. That cancels the invocation, of which an agent may complain in its log; the reason is before that.
    drop(body);
    let said = evidence.said();
    ApiError::new(
        ErrorCode::AgentFailed,
        format!("Received error ({status}) from runtime. The agent answered: {said}"),
    )
    .evidence(evidence)
}
