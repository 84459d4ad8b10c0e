//! InvokeAgentRuntime (contract §2.2), for agents of every protocol (§1.6–1.8).

use super::closing::Closing;
use super::headers::{echoed, headers_in, headers_out};
use super::mcp;
use super::session_endpoint;
use super::target::Target;
use super::told::{self, told};
use crate::api::attempts;
use crate::api::identify::Caller;
use crate::api::intake::{Intake, check_length};
use crate::api::invoke::{AgentErrors, Answer, Attempt, Call};
use crate::api::reply::ApiError;
use crate::api::resumable::{self, Wanted};
use crate::api::router::request_id;
use crate::api::session_header::{fresh_session_id, session_id, set_session};
use crate::api::turn::turn;
use crate::broker::Broker;
use crate::owner::{Owner, Principal};
use crate::rates::Kind;
use crate::relay::exchange::{BodyError, RequestBody};
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use proto::code::ErrorCode;
use proto::config::Protocol;
use proto::ids::{ClientSessionId, RuntimeId};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Every attempt of one SDK call carries the same value (contract §7.3).
const INVOCATION_ID: &str = "amz-sdk-invocation-id";

/// SDKs send 36 characters.
const MAX_INVOCATION_ID: usize = 128;

/// How long the body of a call is waited for that is refused all the same.
const BODY_OF_REFUSED: Duration = Duration::from_secs(10);

pub(super) async fn invoke(
    broker: &Arc<Broker>,
    caller: &Caller,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
    let request_id = request_id(&request);
    let protocol = target.version.spec.protocol;
    let patience = target.version.spec.timeouts.invocation;
    let (parts, body) = request.into_parts();
    let understood = match turn(broker, Kind::Data, caller).await {
        Ok(()) => understand(broker, caller, target, &parts, &request_id),
        Err(throttled) => Err(throttled),
    };
    // Such a small request is read before anything is refused.
    let by_id = by_id(protocol);
    let begun = match understood {
        Err(error) if !by_id => return Ok(told(&error, protocol, None, &request_id)),
        Ok(_) => attempts::begin(broker, holder(broker, caller), patience, body).await,
        Err(_) => {
            let patience = patience.min(BODY_OF_REFUSED);
            attempts::begin(broker, holder(broker, caller), patience, body).await
        }
    };
    let whole = begun.as_ref().ok().filter(|_| by_id).and_then(whole_body);
    let failed = |error: &ApiError| told(error, protocol, whole.as_ref(), &request_id);
    let (call, intake) = match understood.and_then(|call| Ok((call, begun?))) {
        Ok(both) => both,
        Err(error) => return Ok(failed(&error)),
    };
    let key = call.key.clone();
    let session = key.client.clone();
    let trace = echoed(&call.headers);
    match resumed(broker, caller, &parts, call.version.runtime.clone()).await {
        Ok(Resumed::No) => {}
        Ok(Resumed::Begin(owner)) => {
            let begun = resumable::begin(broker, call, owner, intake).await;
            return Ok(begun.unwrap_or_else(|error| failed_in(&error, &session, &failed)));
        }
        Ok(Resumed::Again(response)) => return Ok(response),
        Err(error) => return Ok(failed_in(&error, &session, &failed)),
    }
    let mut response = match attempts::answer_to(broker, call, intake).await {
        Ok(answer) => {
            let call = whole
                .as_ref()
                .map_or(Value::Null, |body| told::rpc_id(body));
            let session = session.clone();
            let last = move |fault: &BodyError| {
                told::event(&cut_off(&session, fault), protocol, &call, &request_id)
            };
            succeeded(protocol, answer, trace, last)
        }
        // With the session's id: its log and its next invocation are what the caller wants now.
        Err(error) => failed(&error),
    };
    set_session(response.headers_mut(), &session);
    session_endpoint::announce(broker, caller, &key, response.headers_mut());
    if protocol == Protocol::Mcp {
        mcp::set_session(response.headers_mut(), &session);
    }
    Ok(response)
}

/// A failure, with the session's id.
fn failed_in(
    error: &ApiError,
    session: &ClientSessionId,
    failed: &impl Fn(&ApiError) -> Response,
) -> Response {
    let mut response = failed(error);
    set_session(response.headers_mut(), session);
    response
}

/// What a call is to a stream that can be come back to.
enum Resumed {
    No,
    Begin(Owner),
    Again(Response),
}

async fn resumed(
    broker: &Arc<Broker>,
    caller: &Caller,
    parts: &Parts,
    runtime: RuntimeId,
) -> Result<Resumed, ApiError> {
    let wanted = Wanted::of(parts.uri.query())?;
    if wanted == Wanted::No {
        return Ok(Resumed::No);
    }
    let owner = caller.owner(broker, &parts.headers)?;
    let Wanted::Again(id) = wanted else {
        return Ok(Resumed::Begin(owner));
    };
    resumable::again(broker, &runtime, &owner, &id, &parts.headers)
        .await
        .map(Resumed::Again)
}

/// Whose a body is while it is held.
fn holder(broker: &Broker, caller: &Caller) -> Principal {
    caller
        .principal(broker)
        .unwrap_or_else(Principal::everybody)
}

/// The answer to a call that goes nowhere, by whoever may know why.
pub(super) async fn refused(
    broker: &Broker,
    caller: &Caller,
    error: &ApiError,
    protocol: Protocol,
    body: Body,
    request_id: &str,
) -> Response {
    let whole = match by_id(protocol) {
        true => {
            // Who is refused holds nothing of anybody's for longer than this.
            let holder = holder(broker, caller);
            let begun = attempts::begin(broker, holder, BODY_OF_REFUSED, body).await;
            begun.ok()
        }
        false => None,
    };
    let whole = whole.as_ref().and_then(whole_body);
    told(error, protocol, whole.as_ref(), request_id)
}

/// Whether callers know an answer by the id of their request (JSON-RPC).
const fn by_id(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Mcp | Protocol::A2a)
}

/// What the request asks for.
fn understand(
    broker: &Arc<Broker>,
    caller: &Caller,
    target: Target,
    parts: &Parts,
    request_id: &str,
) -> Result<Call, ApiError> {
    let headers = &parts.headers;
    check_length(broker, headers)?;
    let session = match target.version.spec.protocol {
        Protocol::Mcp => {
            mcp::acceptable(headers)?;
            mcp::session(headers)?
        }
        Protocol::Http | Protocol::A2a | Protocol::Agui => session_id(headers)?,
    };
    let session = session.unwrap_or_else(fresh_session_id);
    let owner = caller.owner(broker, headers)?;
    let invocation = headers
        .get(INVOCATION_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|value| value.len() <= MAX_INVOCATION_ID);
    let attempt = invocation.map(|invocation| Attempt {
        caller: owner.clone(),
        invocation: invocation.to_owned(),
    });
    Ok(Call {
        key: target.session(session.clone(), owner),
        method: "POST".to_owned(),
        target: target.version.spec.path.clone(),
        headers: headers_in(headers, &target.version, &session, request_id)?,
        port: None,
        attempt,
        agent_errors: AgentErrors::Explained,
        version: target.version,
    })
}

/// The whole body, if it is here.
fn whole_body(intake: &Intake) -> Option<Bytes> {
    match &intake.body {
        RequestBody::Whole(bytes) => Some(bytes.clone()),
        RequestBody::Stream(_) => None,
    }
}

/// `last`: the last event of a stream that breaks off over something.
fn succeeded(
    protocol: Protocol,
    answer: Answer,
    trace: HeaderMap,
    last: impl FnOnce(&BodyError) -> Bytes + Send + 'static,
) -> Response {
    let mut response = Response::new(Body::empty());
    // In HTTP's own protocols the kind of success means something (202 to a notification of MCP).
    if matches!(protocol, Protocol::Mcp | Protocol::A2a) {
        *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    }
    *response.headers_mut() = headers_out(&answer.headers, trace);
    *response.body_mut() = if answer.streamed && told::has_last_event(protocol) {
        Body::new(Closing::new(answer.body, last))
    } else {
        answer.body.into()
    };
    response
}

/// Of an answer whose head has gone out already.
fn cut_off(session: &ClientSessionId, fault: &BodyError) -> ApiError {
    let code = match fault {
        BodyError::TooLong(_) => ErrorCode::AgentTimeout,
        BodyError::Truncated | BodyError::TooLarge | BodyError::Io(_) => ErrorCode::AgentClosed,
    };
    let told = format!("{fault}; its log has more of it (agentcore logs -s {session})");
    ApiError::new(code, told)
}
