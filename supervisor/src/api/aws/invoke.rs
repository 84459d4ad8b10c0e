//! InvokeAgentRuntime (contract §2.2).

use super::headers::{headers_in, headers_out};
use super::target::Target;
use crate::api::attempts;
use crate::api::identify::Caller;
use crate::api::intake::check_length;
use crate::api::invoke::{AgentErrors, Call};
use crate::api::reply::ApiError;
use crate::api::router::request_id;
use crate::api::session_header::{fresh_session_id, session_id, set_session};
use crate::broker::Broker;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use std::sync::Arc;

/// Every attempt of one SDK call carries the same value (contract §7.3).
const INVOCATION_ID: &str = "amz-sdk-invocation-id";

pub(super) async fn invoke(
    broker: &Arc<Broker>,
    caller: &Caller,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
    let request_id = request_id(&request);
    let (parts, body) = request.into_parts();
    let session = session_id(&parts.headers)?.unwrap_or_else(fresh_session_id);
    let owner = caller.owner(broker, &parts.headers)?;
    let key = target.session(session.clone(), owner);
    let version = target.version;
    let call = Call {
        key,
        method: "POST".to_owned(),
        target: version.spec.path.clone(),
        headers: headers_in(&parts.headers, &session, &request_id)?,
        attempt: parts
            .headers
            .get(INVOCATION_ID)
            .and_then(|value| value.to_str().ok())
            .filter(|value| value.len() <= 128)
            .map(ToOwned::to_owned),
        agent_errors: AgentErrors::Explained,
        version,
    };
    check_length(broker, &parts.headers)?;
    let answer = match attempts::answer(broker, call, body).await {
        Ok(answer) => answer,
        // With the session's id: its log and its next invocation are what the caller wants now.
        Err(error) => {
            let mut response = error.aws(&request_id);
            set_session(response.headers_mut(), &session);
            return Ok(response);
        }
    };
    let mut response = Response::new(Body::empty());
    *response.headers_mut() = headers_out(&answer.headers);
    set_session(response.headers_mut(), &session);
    *response.body_mut() = answer.body.into();
    Ok(response)
}
