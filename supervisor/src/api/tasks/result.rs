//! `GET /v1/tasks/{id}/result`: a task's answer, as it is kept or as it comes, from the start or from where a client was.

use super::events::last_seen;
use super::numbered::{BEFORE, Numbering, ends_event};
use super::task_id;
use crate::api::evidence::{AgentEvidence, BODY_BYTES};
use crate::api::input::{Path, Query};
use crate::api::openapi::Refusals;
use crate::api::reply::ApiError;
use crate::api::router::RequestId;
use crate::api::runtimes::respond;
use crate::api::session_header::set_session;
use crate::broker::Broker;
use crate::session::log::Tail;
use crate::store::{Head, TaskKind, TaskRow};
use crate::tasks::answer::{Answer, Unread};
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, future, stream};
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, HeaderName, HeaderValue, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use proto::api::{TASK_ID_HEADER, TaskStatus};
use proto::code::ErrorCode;
use proto::ids::TaskId;
use serde::Deserialize;
use std::pin::Pin;
use std::sync::Arc;
use utoipa::IntoParams;

/// The end of what is still coming, as RFC 8673 §2.2 has it: a number that no answer reaches.
const NO_END: u64 = (1 << 53) - 1;

/// From here on an agent's status says that it failed.
const FAILED: u16 = 400;

/// Query of the result.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Follow {
    /// Of a task that goes on: what there is of its answer, and what comes. Of one that was cut off: what there is.
    #[serde(default)]
    follow: bool,
}

/// `GET /v1/tasks/{id}/result`.
#[utoipa::path(
    get,
    path = "/tasks/{id}/result",
    operation_id = "taskResult",
    summary = "A task's answer",
    tag = "tasks",
    params(
        ("id" = TaskId, Path),
        Follow,
        ("Range" = Option<String>, Header, description = "`bytes=N-`: from this byte on"),
        ("Last-Event-ID" = Option<u64>, Header, description = "Of an event stream: from the event after this one on")
    ),
    responses(
        (status = 200, content_type = "*/*", body = Vec<u8>, description = "The agent's answer, of the agent's type; events of a stream are numbered"),
        (status = 206, content_type = "*/*", body = Vec<u8>, description = "The rest of it"),
        (status = 204, description = "There is no more of it"),
        Refusals
    )
)]
pub async fn result(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(task): Path<String>,
    Query(Follow { follow }): Query<Follow>,
    headers: HeaderMap,
) -> Response {
    let result = async {
        let row = broker.store.task(&task_id(&task)?).await?;
        let from = From::of(&headers)?;
        let (row, answer) = match follow {
            true => following(&broker, row).await?,
            false => {
                let answer = kept(&broker, &row).await?;
                (row, answer)
            }
        };
        respond_with(&broker, &row, answer, from).await
    };
    respond(result.await, &id)
}

/// From where a client wants an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// From the start.
    Start,
    /// From this byte.
    Byte(u64),
    /// After the event of this number.
    Event(u64),
}

impl From {
    /// As a request says it.
    pub fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        if let Some(seen) = last_seen(headers)? {
            return Ok(Self::Event(seen));
        }
        let Some(range) = headers.get(RANGE) else {
            return Ok(Self::Start);
        };
        let byte = range.to_str().ok().and_then(|text| {
            let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
            // Somebody who names an end far away wants the rest as well (RFC 8673).
            let all = last.is_empty() || last.parse::<u64>().ok()? >= NO_END;
            all.then(|| first.parse().ok())?
        });
        byte.map(Self::Byte)
            .ok_or_else(|| ApiError::field("Range", "must be `bytes=N-`: from a byte to the end"))
    }
}

/// The answer of a task that is over, if it is one.
async fn kept(broker: &Arc<Broker>, row: &TaskRow) -> Result<Arc<Answer>, ApiError> {
    match row.status {
        TaskStatus::Succeeded => over(broker, row).await,
        TaskStatus::Queued | TaskStatus::Starting | TaskStatus::Running => Err(ApiError::new(
            ErrorCode::Conflict,
            format!(
                "task {} is {}: its answer is not complete; `?follow=true` reads it as it comes",
                row.id,
                row.status.as_str()
            ),
        )),
        TaskStatus::Failed | TaskStatus::Cancelled | TaskStatus::TimedOut | TaskStatus::Lost => {
            Err(no_answer(broker, row).await)
        }
    }
}

/// Why there is none; with what the agent answered instead, as a call that fails has it.
async fn no_answer(broker: &Broker, row: &TaskRow) -> ApiError {
    let error = why_not(row);
    let Some(status) = row.result_status.filter(|status| *status >= FAILED) else {
        return error;
    };
    let most = u64::try_from(BODY_BYTES).unwrap_or(u64::MAX);
    // What cannot be read is not said: the reason has its beginning.
    let said = match stored(broker, row, status).await {
        Ok(answer) => answer.read(0, answer.told().bytes.min(most)).await.ok(),
        Err(_) => None,
    };
    let said = said.unwrap_or_default();
    error.evidence(AgentEvidence::answered(status, &said, Tail::default()))
}

fn why_not(row: &TaskRow) -> ApiError {
    let code = match row.status {
        TaskStatus::Failed => ErrorCode::AgentFailed,
        TaskStatus::TimedOut => ErrorCode::AgentTimeout,
        TaskStatus::Cancelled => ErrorCode::Cancelled,
        TaskStatus::Lost => ErrorCode::AgentClosed,
        TaskStatus::Queued | TaskStatus::Starting | TaskStatus::Running | TaskStatus::Succeeded => {
            ErrorCode::Conflict
        }
    };
    let reason = row.reason.as_deref().unwrap_or("nobody knows why");
    ApiError::new(
        code,
        format!("task {} is {}: {reason}", row.id, row.status.as_str()),
    )
}

/// The answer of a task that has its outcome, as much as there is of it.
async fn over(broker: &Arc<Broker>, row: &TaskRow) -> Result<Arc<Answer>, ApiError> {
    match row.result_status {
        Some(status) if status < FAILED => stored(broker, row, status).await,
        // The agent's error is told as one.
        Some(_) | None => Err(no_answer(broker, row).await),
    }
}

/// What is kept of an answer that is over.
async fn stored(broker: &Broker, row: &TaskRow, status: u16) -> Result<Arc<Answer>, ApiError> {
    let head = Head {
        status,
        content_type: row.result_type.clone(),
    };
    if !row.result_filed {
        let body = broker.store.task_result(row.seq).await?;
        return Ok(Answer::whole(head, &body, row.result_complete));
    }
    let path = broker.tasks.result_path(&row.id);
    Answer::filed(path, head, row.result_bytes, row.result_complete)
        .await
        .map_err(|error| ApiError::internal(&error))
}

/// The answer of a task as soon as it begins; what there is of it, if the task is over.
pub async fn following(
    broker: &Arc<Broker>,
    mut row: TaskRow,
) -> Result<(TaskRow, Arc<Answer>), ApiError> {
    let mut hear = broker.tasks.watch(row.seq);
    loop {
        hear.mark_unchanged();
        row = broker.store.task(&row.id).await?;
        if row.status.is_final() {
            let answer = over(broker, &row).await?;
            return Ok((row, answer));
        }
        let running = broker.tasks.find(row.seq);
        let begun = async {
            match &running {
                Some(running) => running.answer().await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            answer = begun => {
                // An agent's error is told when it is known what it said.
                if let Some(answer) = answer.filter(|answer| answer.head.status < FAILED) {
                    return Ok((row, answer));
                }
                // Its outcome, or its next attempt, is on its way.
                wait(broker, &mut hear).await?;
            }
            heard = wait(broker, &mut hear) => heard?,
        }
    }
}

async fn wait(
    broker: &Broker,
    hear: &mut tokio::sync::watch::Receiver<()>,
) -> Result<(), ApiError> {
    tokio::select! {
        _ = hear.changed() => Ok(()),
        () = broker.stopping() => Err(ApiError::new(
            ErrorCode::Unavailable,
            "the daemon is stopping; the task goes on, and so can you in a moment",
        )),
    }
}

/// An answer on the wire, from where its client wants it.
pub async fn respond_with(
    broker: &Arc<Broker>,
    row: &TaskRow,
    answer: Arc<Answer>,
    from: From,
) -> Result<Response, ApiError> {
    let told = answer.told();
    let streamed = answer.streamed();
    let at = match from {
        From::Start => 0,
        From::Byte(at) => at,
        From::Event(at) => event(&answer, at, streamed).await?,
    };
    // Of what is still coming nobody knows whether it will have that byte.
    if at > told.bytes && (told.over.is_some() || streamed) {
        return Err(ApiError::field(
            "Range",
            format!("begins after the end: the answer has {} bytes", told.bytes),
        ));
    }
    let mut response = Response::new(Body::empty());
    put_headers(response.headers_mut(), row, &answer);
    if from != From::Start && told.over == Some(true) && at == told.bytes {
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().remove(CONTENT_TYPE);
        return Ok(response);
    }
    if let From::Byte(at) = from {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = match told.over {
            Some(_) => format!("bytes {at}-{}/{}", told.bytes.saturating_sub(1), told.bytes),
            None => format!("bytes {at}-{NO_END}/*"),
        };
        put(response.headers_mut(), CONTENT_RANGE, &range);
    }
    // Bytes that were asked for by their numbers are the agent's.
    let numbers = (streamed && !matches!(from, From::Byte(_))).then(|| Numbering::from(at));
    if numbers.is_none() && told.over == Some(true) {
        let left = (told.bytes - at).to_string();
        put(response.headers_mut(), CONTENT_LENGTH, &left);
    }
    let open = streamed.then(|| broker.metrics.stream());
    let pieces = until_stopped(Arc::clone(broker), answer.follow(at), told.over.is_none());
    // Open as long as it is read.
    let pieces = pieces.inspect(move |_| {
        let _ = &open;
    });
    *response.body_mut() = body(pieces, numbers);
    Ok(response)
}

/// The place after an event.
async fn event(answer: &Arc<Answer>, at: u64, streamed: bool) -> Result<u64, ApiError> {
    let fault = |text: &str| ApiError::field("Last-Event-ID", text);
    if !streamed {
        return Err(fault("is for event streams; go on with `Range: bytes=N-`"));
    }
    if at > answer.told().bytes {
        return Err(fault("is not the id of an event of this stream"));
    }
    let begin = at.saturating_sub(BEFORE);
    let mut before = Vec::new();
    while begin + before.len() as u64 != at {
        let some = answer.read(begin + before.len() as u64, at).await;
        before.extend_from_slice(&some.map_err(|error| ApiError::internal(&error))?);
    }
    if at > 0 && !ends_event(&before) {
        return Err(fault("is not the id of an event of this stream"));
    }
    // An event is numbered when its empty line is seen to be one, which is before the line feed that may follow its return.
    let end = answer.told().bytes;
    if before.last() == Some(&b'\r') && at < end {
        let next = answer.read(at, at + 1).await;
        let next = next.map_err(|error| ApiError::internal(&error))?;
        return Ok(at + u64::from(next.starts_with(b"\n")));
    }
    Ok(at)
}

/// What is still coming when its daemon stops, comes from the next one: that end must not look like one.
fn until_stopped(
    broker: Arc<Broker>,
    pieces: impl Stream<Item = Result<Bytes, Unread>> + Send + 'static,
    live: bool,
) -> impl Stream<Item = Result<Bytes, Unread>> + Send {
    let stopping = Box::pin(async move { broker.stopping().await });
    stream::unfold(
        Some((Box::pin(pieces), stopping)),
        move |state| async move {
            let (mut pieces, mut stopping) = state?;
            tokio::select! {
                biased;
                piece = pieces.next() => match piece? {
                    Ok(bytes) => Some((Ok(bytes), Some((pieces, stopping)))),
                    Err(error) => Some((Err(error), None)),
                },
                () = &mut stopping, if live => Some((Err(Unread::Incomplete), None)),
            }
        },
    )
}

/// The pieces as they go out.
fn body(
    pieces: impl Stream<Item = Result<Bytes, Unread>> + Send + 'static,
    mut numbers: Option<Numbering>,
) -> Body {
    let pieces: Pin<Box<dyn Stream<Item = Result<Bytes, Unread>> + Send>> = Box::pin(pieces);
    Body::new(StreamBody::new(pieces.map(move |piece| {
        let bytes = piece?;
        let bytes = match &mut numbers {
            Some(numbers) => numbers.number(&bytes),
            None => bytes,
        };
        Ok::<_, Unread>(Frame::data(bytes))
    })))
}

fn put_headers(headers: &mut HeaderMap, row: &TaskRow, answer: &Answer) {
    if let Some(kind) = &answer.head.content_type {
        put(headers, CONTENT_TYPE, kind);
    }
    put(
        headers,
        HeaderName::from_static(TASK_ID_HEADER),
        row.id.as_str(),
    );
    put(headers, ACCEPT_RANGES, "bytes");
    put(headers, CACHE_CONTROL, "no-store");
    set_session(headers, &row.client_id);
    if row.kind == TaskKind::Task {
        // An agent's page is not of the daemon's origin.
        put(headers, CONTENT_SECURITY_POLICY, "sandbox");
        put(headers, X_CONTENT_TYPE_OPTIONS, "nosniff");
    }
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
