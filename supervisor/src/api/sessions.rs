//! `/v1/sessions`: list, inspect, stop, logs.

use super::input::{Path, Query};
use super::openapi::Refusals;
use super::reply::ApiError;
use super::router::RequestId;
use super::runtimes::{Paging, respond, runtime_param};
use crate::broker::Broker;
use crate::session::handle::SessionHandle;
use crate::session::log;
use crate::store::{FrozenNote, SessionFilter};
use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use proto::api::{EndReason, LogRecord, Page, Phase, Session};
use proto::code::ErrorCode;
use proto::ids::{ClientSessionId, RuntimeName, SessionId};
use proto::shim::LogStream;
use serde::Deserialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast;
use utoipa::IntoParams;

/// Lines of a log shown at most without being asked for more.
const DEFAULT_TAIL: usize = 1000;

/// Most lines that may be asked for. A log can hold more; its file in the state directory is the operator's to read.
const MAX_TAIL: usize = 10_000;

/// Query of the list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Of this runtime.
    #[param(value_type = Option<RuntimeName>)]
    runtime: Option<String>,
    /// In this phase.
    #[param(value_type = Option<Phase>)]
    phase: Option<String>,
    /// Only live ones.
    #[serde(default)]
    live: bool,
    /// Also those that wait in pools, or ended there: they are, or were, nobody's.
    #[serde(default)]
    pool: bool,
    /// With what the kernel tells of how much live ones wait.
    #[serde(default)]
    pressure: bool,
}

/// Which of the sessions that share a caller's id.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// The one of this runtime.
    #[param(value_type = Option<RuntimeName>)]
    runtime: Option<String>,
}

/// Query of the stop.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Stop {
    /// The one of this runtime.
    #[param(value_type = Option<RuntimeName>)]
    runtime: Option<String>,
    /// Answers when it is over.
    #[serde(default)]
    wait: bool,
}

/// Query of the logs.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Logs {
    /// The one of this runtime.
    #[param(value_type = Option<RuntimeName>)]
    runtime: Option<String>,
    /// The last so many lines.
    #[param(maximum = 10_000, default = 1000)]
    tail: Option<usize>,
    /// Goes on until the session is over.
    #[serde(default)]
    follow: bool,
}

/// A live session by our id, or by the caller's if only one runtime knows it.
pub fn live(
    broker: &Broker,
    id: &str,
    runtime: Option<&RuntimeName>,
) -> Result<Arc<SessionHandle>, ApiError> {
    let unknown = || {
        ApiError::not_found(format!(
            "there is no live session {id}; `agentcore session list` shows them"
        ))
    };
    if let Ok(id) = SessionId::parse(id)
        && let Some(handle) = broker.registry.get(&id)
    {
        return Ok(handle);
    }
    let client = ClientSessionId::parse(id).map_err(|_| unknown())?;
    let mut found: Vec<_> = broker
        .registry
        .all()
        .into_iter()
        .filter(|handle| handle.key.client == client)
        .filter(|handle| runtime.is_none_or(|runtime| handle.version.name == *runtime))
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(handle), true) => Ok(handle),
        (Some(_), false) => Err(ambiguous(id)),
        (None, _) => Err(unknown()),
    }
}

fn ambiguous(id: &str) -> ApiError {
    ApiError::new(
        ErrorCode::Conflict,
        format!(
            "there are several sessions {id}; say of which runtime (?runtime=<name>, or -a NAME), or use the daemon's own id (`agentcore session list`)"
        ),
    )
}

/// `runtime` of a query string.
pub fn runtime_of(query: &str) -> Result<Option<RuntimeName>, ApiError> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix("runtime="))
        .map(runtime_param)
        .transpose()
}

/// A session, live or over, as the API shows it.
pub async fn find(broker: &Broker, id: &str, runtime: Option<&str>) -> Result<Session, ApiError> {
    let runtime = runtime.map(runtime_param).transpose()?;
    match live(broker, id, runtime.as_ref()) {
        Ok(handle) => {
            let row = broker.store.session(&handle.id).await;
            return Ok(view(broker, row.ok().map(|row| row.to_api()), &handle).await);
        }
        Err(error) if error.code == ErrorCode::Conflict => return Err(error),
        Err(_not_live) => {}
    }
    if let Ok(id) = SessionId::parse(id) {
        return Ok(broker.store.session(&id).await?.to_api());
    }
    let client_id = ClientSessionId::parse(id)
        .map_err(|_| ApiError::not_found(format!("there is no session {id}")))?;
    let filter = SessionFilter {
        runtime,
        client_id: Some(client_id),
        ..SessionFilter::default()
    };
    let page = broker
        .store
        .sessions(Paging::default().request()?, filter)
        .await?;
    let mut rows = page.items.into_iter();
    let newest = rows
        .next()
        .ok_or_else(|| ApiError::not_found(format!("there is no session {id}")))?;
    if rows.any(|row| row.runtime != newest.runtime) {
        return Err(ambiguous(id));
    }
    Ok(newest.to_api())
}

/// What the store knows, brought up to now.
async fn view(broker: &Broker, row: Option<Session>, handle: &SessionHandle) -> Session {
    let mut session = row.unwrap_or_else(|| broker.fresh_view(handle));
    let seen = handle.view();
    session.phase = seen.phase;
    session.frozen = seen.frozen.as_ref().map(FrozenNote::to_api);
    session.pid = seen.pid;
    session.uid_base = handle.uid_base.get().copied();
    if let Some(end) = seen.end {
        session.end_reason = Some(end.reason);
        session.end_detail = Some(end.detail);
    }
    if let Some(activity) = handle.activity().await {
        session.phase = activity.phase;
        session.in_flight = activity.in_flight;
        let idle = std::time::Duration::from_millis(activity.idle_ms);
        let at = std::time::SystemTime::now()
            .checked_sub(idle)
            .unwrap_or(std::time::UNIX_EPOCH);
        session.last_activity_at = crate::time::rfc3339(at);
    }
    session.egress_refused = handle
        .egress_refused
        .load(std::sync::atomic::Ordering::Relaxed);
    session.log_lines_dropped = handle.log.dropped();
    let reading = broker.launcher.usage(handle.id.clone());
    if let Ok(counters) = broker.usage.of(&handle.id, reading).await {
        session.usage = counters.to_api();
    }
    // It ended meanwhile: then its last figures are on record, and what was read here is older.
    if matches!(session.phase, Phase::Ended | Phase::Failed)
        && let Ok(row) = broker.store.session(&handle.id).await
    {
        return row.to_api();
    }
    session
}

/// `GET /v1/sessions`.
#[utoipa::path(
    get,
    path = "/sessions",
    operation_id = "listSessions",
    summary = "Sessions, newest first",
    tag = "sessions",
    params(Paging, Filter),
    responses(
        (status = 200, body = Page<Session>, description = "Found"),
        Refusals
    )
)]
pub async fn list(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Query(paging): Query<Paging>,
    Query(filter): Query<Filter>,
) -> Response {
    let result = async {
        let phase: Option<Phase> = filter
            .phase
            .map(|phase| {
                serde_json::from_value(serde_json::Value::String(phase.to_ascii_lowercase()))
                    .map_err(|error| ApiError::field("phase", error.to_string()))
            })
            .transpose()?;
        let over = match filter.live {
            true => Some(false),
            false => phase.map(|phase| matches!(phase, Phase::Ended | Phase::Failed)),
        };
        let wanted = SessionFilter {
            runtime: filter.runtime.as_deref().map(runtime_param).transpose()?,
            over,
            pool: filter.pool,
            ..SessionFilter::default()
        };
        let asked = wanted.runtime.clone();
        let page = broker.store.sessions(paging.request()?, wanted).await?;
        // Sessions of a deleted runtime are remembered; of one that never was there are none to list.
        if let Some(name) = asked
            && page.items.is_empty()
            && broker.catalogue.by_name(&name).is_none()
        {
            return Err(ApiError::not_found(format!("there is no runtime {name}")));
        }
        let mut items = Vec::with_capacity(page.items.len());
        for row in page.items {
            let mut session = row.to_api();
            if let Some(handle) = broker.registry.get(&session.id) {
                session = view(&broker, Some(session), &handle).await;
                if filter.pressure {
                    let pressure = broker.launcher.pressure(handle.id.clone()).await;
                    let pressure = pressure.ok().flatten();
                    session.pressure = pressure.map(|pressure| pressure.to_api());
                }
            }
            // The store knows only whether it is over; the rest of the phase is the driver's.
            if phase.is_none_or(|phase| phase == session.phase) {
                items.push(session);
            }
        }
        Ok(Json(Page {
            items,
            next_token: page.next_token,
        })
        .into_response())
    };
    respond(result.await, &id)
}

/// `GET /v1/sessions/{id}`.
#[utoipa::path(
    get,
    path = "/sessions/{id}",
    operation_id = "getSession",
    summary = "A session",
    tag = "sessions",
    params(("id" = String, Path, description = "Ours, or the caller's"), Which),
    responses(
        (status = 200, body = Session, description = "Found"),
        Refusals
    )
)]
pub async fn show(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(session): Path<String>,
    Query(filter): Query<Which>,
) -> Response {
    let result = async {
        Ok(Json(find(&broker, &session, filter.runtime.as_deref()).await?).into_response())
    };
    respond(result.await, &id)
}

/// `DELETE /v1/sessions/{id}`.
#[utoipa::path(
    delete,
    path = "/sessions/{id}",
    operation_id = "stopSession",
    summary = "Stops a session",
    tag = "sessions",
    params(("id" = String, Path, description = "Ours, or the caller's"), Stop),
    responses(
        (status = 202, body = Session, description = "It ends"),
        (status = 200, body = Session, description = "It has ended"),
        Refusals
    )
)]
pub async fn stop(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(session): Path<String>,
    Query(query): Query<Stop>,
) -> Response {
    let result = async {
        let runtime = query.runtime.as_deref().map(runtime_param).transpose()?;
        let handle = live(&broker, &session, runtime.as_ref())?;
        handle.stop(EndReason::Stopped).await;
        handle.stopping().await;
        if query.wait {
            handle.over().await;
        }
        let status = if query.wait {
            StatusCode::OK
        } else {
            StatusCode::ACCEPTED
        };
        let session = find(&broker, handle.id.as_str(), None).await?;
        Ok((status, Json(session)).into_response())
    };
    respond(result.await, &id)
}

/// `GET /v1/sessions/{id}/logs`.
#[utoipa::path(
    get,
    path = "/sessions/{id}/logs",
    operation_id = "getSessionLogs",
    summary = "A session's output",
    tag = "sessions",
    params(("id" = String, Path, description = "Ours, or the caller's"), Logs),
    responses(
        (status = 200, content((String = "text/plain"), (LogRecord = "application/x-ndjson")), description = "Lines, one record each with `Accept: application/x-ndjson`"),
        Refusals
    )
)]
pub async fn logs(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(session): Path<String>,
    Query(query): Query<Logs>,
    headers: HeaderMap,
) -> Response {
    let result = async {
        let tail = query.tail.unwrap_or(DEFAULT_TAIL);
        if tail > MAX_TAIL {
            return Err(ApiError::field(
                "tail",
                format!("must be at most {MAX_TAIL} lines, is {tail}"),
            ));
        }
        let session = find(&broker, &session, query.runtime.as_deref()).await?;
        let ndjson = headers
            .get(ACCEPT)
            .and_then(|accept| accept.to_str().ok())
            .is_some_and(|accept| accept.contains("ndjson"));
        let handle = broker.registry.get(&session.id);
        // Followed before it is read, so that no line falls between.
        let follow = handle
            .filter(|_| query.follow)
            .map(|handle| (handle.log.follow(), handle));
        let path = broker.log_path(&session.id);
        let stored = tokio::task::spawn_blocking(move || log::read_last(&path, tail))
            .await
            .map_err(|error| ApiError::internal(&error))?
            .map_err(|error| ApiError::internal(&error))?;
        let kind = if ndjson {
            "application/x-ndjson"
        } else {
            "text/plain; charset=utf-8"
        };
        let mut response = Response::new(lines(stored, follow, ndjson));
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Ok(response)
    };
    respond(result.await, &id)
}

type Follow = (broadcast::Receiver<LogRecord>, Arc<SessionHandle>);

fn lines(stored: Vec<LogRecord>, follow: Option<Follow>, ndjson: bool) -> Body {
    struct State {
        stored: VecDeque<LogRecord>,
        follow: Option<Follow>,
        last: Option<LogRecord>,
        ndjson: bool,
    }
    let state = State {
        last: stored.last().cloned(),
        stored: stored.into(),
        follow,
        ndjson,
    };
    let frames = stream::unfold(state, |mut state| async move {
        if let Some(record) = state.stored.pop_front() {
            let line = line(&record, state.ndjson);
            return Some((Ok::<_, Infallible>(Frame::data(line)), state));
        }
        loop {
            let (receiver, handle) = state.follow.as_mut()?;
            let record = tokio::select! {
                biased;
                record = receiver.recv() => record,
                () = handle.over() => return None,
            };
            match record {
                // Followed before it was read: what was in the file already is not told twice.
                Ok(record)
                    if state
                        .last
                        .as_ref()
                        .is_some_and(|last| record.at < last.at || record == *last) => {}
                Ok(record) => {
                    state.last = None;
                    let line = line(&record, state.ndjson);
                    return Some((Ok(Frame::data(line)), state));
                }
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    let note = LogRecord {
                        at: crate::time::rfc3339(std::time::SystemTime::now()),
                        stream: None,
                        text: format!("{count} lines were skipped: this reader is too slow"),
                    };
                    return Some((Ok(Frame::data(line(&note, state.ndjson))), state));
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    });
    Body::new(StreamBody::new(frames))
}

fn line(record: &LogRecord, ndjson: bool) -> Bytes {
    let text = if ndjson {
        serde_json::to_string(record).unwrap_or_default()
    } else {
        let stream = match record.stream {
            Some(LogStream::Stdout) => "out",
            Some(LogStream::Stderr) => "err",
            None => "agentcored",
        };
        // What an agent writes must not move a reader's cursor.
        let text: String = record
            .text
            .chars()
            .map(|c| {
                if c.is_control() && c != '\t' {
                    '\u{fffd}'
                } else {
                    c
                }
            })
            .collect();
        format!("{} {stream} {text}", record.at)
    };
    Bytes::from(text + "\n")
}
