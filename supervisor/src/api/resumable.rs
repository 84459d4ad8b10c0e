//! Streams that a lost connection does not end (`?resumable=true` on an invocation): the invocation is a task whose caller is there
//! from the start. Its answer is kept, its events are numbered, and its caller goes on from the last number that it saw: by the
//! same request with `?resumable=<task id>` and `Last-Event-ID`, while the answer comes and for `tasks.keep_streams` after it.
//!
//! Whoever comes back must be who came first; for everybody else there is no such stream.

use super::intake::Intake;
use super::invoke::Call;
use super::reply::ApiError;
use super::tasks::result::{self, From};
use crate::broker::Broker;
use crate::owner::Owner;
use crate::store::{StoreError, TaskKind};
use crate::tasks::{self, Order};
use axum::response::Response;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use proto::code::ErrorCode;
use proto::config::Protocol;
use proto::ids::{RuntimeId, TaskId};
use std::sync::Arc;
use std::time::Duration;

/// What a request says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing.
    No,
    /// A stream to come back to.
    Begin,
    /// The rest of one.
    Again(TaskId),
}

impl Wanted {
    /// Of a query.
    pub fn of(query: Option<&str>) -> Result<Self, ApiError> {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let mut values = pairs.filter(|(name, _)| name == "resumable");
        let fault = || ApiError::field("resumable", "must be true, or the id of a stream");
        match (values.next(), values.next()) {
            (None, _) => Ok(Self::No),
            (Some((_, text)), None) => match text.as_ref() {
                "true" => Ok(Self::Begin),
                "false" => Ok(Self::No),
                id => TaskId::parse(id).map(Self::Again).map_err(|_| fault()),
            },
            (Some(_), Some(_)) => Err(fault()),
        }
    }
}

/// Begins one; `owner` is who calls, also of a session that is everybody's.
pub async fn begin(
    broker: &Arc<Broker>,
    call: Call,
    owner: Owner,
    intake: Intake,
) -> Result<Response, ApiError> {
    match call.version.spec.protocol {
        Protocol::Http | Protocol::Agui => {}
        Protocol::Mcp | Protocol::A2a => {
            let told =
                "is for runtimes that speak HTTP or AG-UI; MCP and A2A have their own way to go on";
            return Err(ApiError::field("resumable", told));
        }
    }
    let headers = call.headers;
    // Credentials are not written down; a stream is sent once, so nobody needs them again.
    let written = headers
        .iter()
        .filter(|(name, _)| name != AUTHORIZATION.as_str());
    let order = Order {
        kind: TaskKind::Stream,
        version: call.version,
        endpoint: call.key.endpoint,
        client: Some(call.key.client),
        owner,
        // Another attempt of the same call of an SDK is the same stream.
        once: call
            .attempt
            .map(|attempt| format!("sdk {}", attempt.invocation)),
        headers: written
            .filter(|(name, _)| !name.starts_with(OF_THE_REQUEST))
            .cloned()
            .collect(),
        retries: 0,
        backoff: Duration::ZERO,
        deadline: broker.config().limits.stream_duration,
        callback: None,
    };
    let (row, new) = tasks::submit(broker, order, intake).await?;
    if new {
        tasks::attended(broker, row.clone(), headers);
    }
    let (row, answer) = result::following(broker, row).await?;
    result::respond_with(broker, &row, answer, From::Start).await
}

/// A header that each request has of its own.
const OF_THE_REQUEST: &str = "x-amzn-bedrock-agentcore-runtime-request-id";

/// Goes on with one.
pub async fn again(
    broker: &Arc<Broker>,
    runtime: &RuntimeId,
    owner: &Owner,
    id: &TaskId,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let resumed = resume(broker, runtime, owner, id, headers).await;
    broker.metrics.resumed(match &resumed {
        Ok(_) => "resumed",
        Err(error) if error.code == ErrorCode::NotFound => "unknown",
        Err(_) => "failed",
    });
    resumed
}

async fn resume(
    broker: &Arc<Broker>,
    runtime: &RuntimeId,
    owner: &Owner,
    id: &TaskId,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let unknown = || ApiError::not_found(format!("there is no stream {id} of yours here"));
    let row = match broker.store.task(id).await {
        Ok(row) => row,
        Err(StoreError::NotFound(_)) => return Err(unknown()),
        Err(error) => return Err(error.into()),
    };
    if row.kind != TaskKind::Stream || row.owner != *owner || row.runtime_id != *runtime {
        return Err(unknown());
    }
    let from = From::of(headers)?;
    let (row, answer) = result::following(broker, row).await?;
    result::respond_with(broker, &row, answer, from).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_true_or_which() {
        let id = format!("t{}", "0".repeat(25));
        let of = |query: &str| Wanted::of(Some(query)).ok();
        assert_eq!(of("qualifier=x"), Some(Wanted::No));
        assert_eq!(of("resumable=false"), Some(Wanted::No));
        assert_eq!(of("a=b&resumable=true"), Some(Wanted::Begin));
        let task = TaskId::parse(id.as_str()).expect("id");
        assert_eq!(of(&format!("resumable={id}")), Some(Wanted::Again(task)));
        for bad in ["resumable=", "resumable=1", "resumable=true&resumable=true"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
