//! `GET /v1/tasks/{id}/events`: what happened to a task and what happens, as server-sent events.

use super::task_id;
use crate::api::input::Path;
use crate::api::openapi::Refusals;
use crate::api::reply::ApiError;
use crate::api::router::RequestId;
use crate::api::runtimes::respond;
use crate::broker::Broker;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use proto::api::TaskEvent;
use proto::ids::TaskId;
use std::convert::Infallible;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Events read at a time.
const AT_ONCE: u16 = 100;

/// A stream in which nothing happens says so, so that whoever is between the two ends does not take it for dead.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// The last event that a client has seen.
pub(super) const LAST_EVENT_ID: &str = "last-event-id";

/// `GET /v1/tasks/{id}/events`.
#[utoipa::path(
    get,
    path = "/tasks/{id}/events",
    operation_id = "taskEvents",
    summary = "What happened to a task, and what happens until it has its outcome",
    tag = "tasks",
    params(
        ("id" = TaskId, Path),
        ("Last-Event-ID" = Option<u64>, Header, description = "The last event that was seen: the ones after it follow")
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = TaskEvent, description = "Events"),
        (status = 204, description = "All have been seen, and none follows"),
        Refusals
    )
)]
pub async fn events(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(task): Path<String>,
    headers: HeaderMap,
) -> Response {
    let result = async {
        let row = broker.store.task(&task_id(&task)?).await?;
        let seen = last_seen(&headers)?.unwrap_or(0);
        if row.status.is_final() && seen >= row.events {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        let feed = Feed {
            hear: broker.tasks.watch(row.seq),
            broker: Arc::clone(&broker),
            seq: row.seq,
            seen,
            over: false,
        };
        let body = StreamBody::new(stream::unfold(feed, async |mut feed| {
            let bytes = feed.next().await?;
            Some((Ok::<_, Infallible>(Frame::data(bytes)), feed))
        }));
        let headers = [
            (CONTENT_TYPE, "text/event-stream"),
            (CACHE_CONTROL, "no-store"),
        ];
        Ok((headers, Body::new(body)).into_response())
    };
    respond(result.await, &id)
}

/// `Last-Event-ID`, a number of ours.
pub(super) fn last_seen(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(LAST_EVENT_ID) else {
        return Ok(None);
    };
    let number = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    number.map(Some).ok_or_else(|| {
        ApiError::field(
            "Last-Event-ID",
            "must be the id of an event of this stream, a number",
        )
    })
}

struct Feed {
    broker: Arc<Broker>,
    hear: watch::Receiver<()>,
    seq: i64,
    seen: u64,
    over: bool,
}

impl Feed {
    /// What is to be sent next; `None` is the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.over {
                return None;
            }
            self.hear.mark_unchanged();
            // A store that fails ends the daemon; a task that is forgotten has no more events.
            let found = self
                .broker
                .store
                .task_events(self.seq, self.seen, AT_ONCE)
                .await;
            let (events, ended) = found.ok().flatten()?;
            self.over = ended && events.len() < usize::from(AT_ONCE);
            if let Some(last) = events.last() {
                self.seen = last.id;
                return Some(told(&events));
            }
            if self.over {
                return None;
            }
            tokio::select! {
                changed = self.hear.changed() => changed.ok()?,
                () = tokio::time::sleep(SIGN_OF_LIFE) => return Some(Bytes::from_static(b": \n\n")),
                // Its client comes back, to the next daemon.
                () = self.broker.stopping() => return None,
            }
        }
    }
}

fn told(events: &[TaskEvent]) -> Bytes {
    let mut text = BytesMut::new().writer();
    for event in events {
        let data = serde_json::to_string(event).unwrap_or_default();
        let _ = write!(
            text,
            "id: {}\nevent: {}\ndata: {data}\n\n",
            event.id,
            event.kind.name()
        );
    }
    text.into_inner().freeze()
}
