//! StopRuntimeSession (contract §2.4).

use super::target::Target;
use crate::api::identify::Caller;
use crate::api::input::{Reading, bounded};
use crate::api::reply::ApiError;
use crate::api::session_header::{session_id, set_session};
use crate::api::stops;
use crate::api::to_the_end::to_the_end;
use crate::broker::Broker;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use proto::api::EndReason;
use proto::ids::ClientSessionId;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Instant;

/// Most bytes of a request: a token and something around it.
const MAX_REQUEST: u64 = 16 * 1024;

/// The request's body.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wanted {
    client_token: Option<String>,
}

pub(super) async fn stop(
    broker: &Arc<Broker>,
    caller: &Caller,
    target: &Target,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let session = session_id(&parts.headers)?.ok_or_else(|| {
        ApiError::field(
            "runtimeSessionId",
            "is required (header X-Amzn-Bedrock-AgentCore-Runtime-Session-Id)",
        )
    })?;
    let owner = caller.owner(broker, &parts.headers)?;
    let token = Wanted::read(body).await?.client_token;
    let principal = owner.principal.clone();
    let key = target.session(session.clone(), owner);
    if let Some(token) = &token
        && let Some(stopped) = broker
            .stops
            .before(&principal, token, &key, Instant::now())?
    {
        if let Some(handle) = broker.registry.get(&stopped) {
            handle.stopping().await;
        }
        return Ok(stopped_answer(&session));
    }
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
    if let Some(token) = &token {
        broker
            .stops
            .remember(&principal, token, &key, &handle.id, Instant::now());
    }
    // Also when the caller goes away now: its token says that it is stopped.
    to_the_end(async move {
        handle.stop(EndReason::Stopped).await;
        // Answers once the session accepts no more work; its end takes up to the grace period (contract §2.4).
        handle.stopping().await;
        Ok(())
    })
    .await?;
    Ok(stopped_answer(&session))
}

impl Wanted {
    /// Nothing at all is a request without a token: bearers of tokens may send that (contract §2.4).
    async fn read(body: Body) -> Result<Self, ApiError> {
        let body = bounded(body, MAX_REQUEST).await?;
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        let wanted: Self = Reading::of(&body)?.finish(Vec::new())?;
        wanted
            .client_token
            .as_deref()
            .map_or(Ok(()), stops::check)?;
        Ok(wanted)
    }
}

fn stopped_answer(session: &ClientSessionId) -> Response {
    let mut response = (StatusCode::OK, "{}").into_response();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    set_session(response.headers_mut(), session);
    response
}
