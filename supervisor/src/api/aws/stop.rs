//! StopRuntimeSession (contract §2.4).

use super::target::Target;
use crate::api::identify::Caller;
use crate::api::reply::ApiError;
use crate::api::session_header::{session_id, set_session};
use crate::broker::Broker;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use proto::api::EndReason;
use std::sync::Arc;

pub(super) async fn stop(
    broker: &Arc<Broker>,
    caller: &Caller,
    target: &Target,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let session = session_id(headers)?.ok_or_else(|| {
        ApiError::field(
            "runtimeSessionId",
            "is required (header X-Amzn-Bedrock-AgentCore-Runtime-Session-Id)",
        )
    })?;
    let owner = caller.owner(broker, headers)?;
    let key = target.session(session.clone(), owner);
    let gone = || {
        ApiError::not_found(format!(
            "runtime {} has no live session {session}",
            target.version.name
        ))
    };
    let handle = broker.registry.find(&key).ok_or_else(gone)?;
    if handle.view().end.is_some() {
        return Err(gone());
    }
    handle.stop(EndReason::Stopped).await;
    // Answers once the session accepts no more work; its end takes up to the grace period (contract §2.4).
    handle.ending().await;
    let mut response = (StatusCode::OK, "{}").into_response();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    set_session(response.headers_mut(), &session);
    Ok(response)
}
