//! The AWS wire, data plane: `POST /runtimes/{arn}/invocations`, `…/stopruntimesession` (contract §2.1–2.4).
//!
//! `{arn}` may be an ARN escaped in any way that clients are seen to use, an id, or a plain name. The path is split on raw
//! slashes before anything is decoded: the operation is its end, the label what is between.

use super::invoke::{self, Call, SESSION_ID};
use super::reply::ApiError;
use super::router::RequestId;
use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::session::handle::SessionKey;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use proto::api::EndReason;
use proto::code::ErrorCode;
use proto::ids::{ClientSessionId, EndpointName, RuntimeId, RuntimeName};
use std::sync::Arc;

/// Every attempt of one SDK call carries the same value (contract §7.3).
const INVOCATION_ID: &str = "amz-sdk-invocation-id";

/// Longest header value passed on to an agent (contract §1.3).
const MAX_HEADER_VALUE: usize = 8192;

/// Headers of the caller that reach the agent on this wire.
const PASSED_IN: &[&str] = &[
    "accept",
    "content-type",
    "mcp-session-id",
    "mcp-protocol-version",
    "mcp-method",
    "mcp-name",
    "traceparent",
    "tracestate",
    "baggage",
    "x-amzn-trace-id",
];

/// Prefix of the caller's own headers that reach the agent.
const CUSTOM_PREFIX: &str = "x-amzn-bedrock-agentcore-runtime-custom-";

/// Headers of the agent that reach the caller on this wire.
const PASSED_OUT: &[&str] = &[
    "content-type",
    "mcp-session-id",
    "mcp-protocol-version",
    "traceparent",
    "tracestate",
    "baggage",
    "x-amzn-trace-id",
];

/// An operation of the data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Invoke,
    Stop,
}

/// Everything below `/runtimes/`.
pub async fn dispatch(State(broker): State<Arc<Broker>>, request: Request) -> Response {
    let id = request
        .extensions()
        .get::<RequestId>()
        .map(|id| id.0.clone())
        .unwrap_or_default();
    match route(&broker, request).await {
        Ok(response) => response,
        Err(error) => {
            let mut response = error.aws(&id);
            if error.code == ErrorCode::MethodNotAllowed {
                let headers = response.headers_mut();
                headers.insert(ALLOW, HeaderValue::from_static("POST"));
            }
            response
        }
    }
}

async fn route(broker: &Arc<Broker>, request: Request) -> Result<Response, ApiError> {
    let (operation, label) = split(request.uri().path())?;
    if request.method() == Method::OPTIONS {
        return Ok((StatusCode::NO_CONTENT, [(ALLOW, "POST")]).into_response());
    }
    if request.method() != Method::POST {
        return Err(ApiError::new(
            ErrorCode::MethodNotAllowed,
            format!("this operation is a POST, not a {}", request.method()),
        ));
    }
    let query = Query::of(request.uri().query().unwrap_or(""))?;
    let version = resolve(broker, &label, &query)?;
    match operation {
        Operation::Invoke => invoke(broker, version, request).await,
        Operation::Stop => stop(broker, &version, request.headers()).await,
    }
}

fn split(path: &str) -> Result<(Operation, String), ApiError> {
    let unknown = || ApiError::not_found(format!("there is no operation at {path}"));
    let rest = path.strip_prefix("/runtimes/").ok_or_else(unknown)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (label, operation) = rest.rsplit_once('/').ok_or_else(unknown)?;
    let operation = match operation {
        "invocations" => Operation::Invoke,
        "stopruntimesession" => Operation::Stop,
        _ => return Err(unknown()),
    };
    let label = percent_decode_str(label)
        .decode_utf8()
        .map_err(|_| ApiError::field("agentRuntimeArn", "is not UTF-8 after percent-decoding"))?;
    Ok((operation, label.into_owned()))
}

#[derive(Debug, Default)]
struct Query {
    qualifier: Option<String>,
    account: Option<String>,
}

impl Query {
    fn of(text: &str) -> Result<Self, ApiError> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value)
                .decode_utf8()
                .map_err(|_| ApiError::field(name, "is not UTF-8 after percent-decoding"))?
                .into_owned();
            match name {
                "qualifier" => query.qualifier = Some(value),
                "accountId" => query.account = Some(value),
                // Unknown parameters are other operations' or newer clients'.
                _ => {}
            }
        }
        Ok(query)
    }
}

/// The runtime that an ARN, id or name means.
fn resolve(broker: &Broker, label: &str, query: &Query) -> Result<Arc<RuntimeVersion>, ApiError> {
    if let Some(account) = &query.account
        && (account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err(ApiError::field("accountId", "must be 12 digits"));
    }
    let qualifier = query.qualifier.as_deref().unwrap_or("DEFAULT");
    EndpointName::parse(qualifier)
        .map_err(|error| ApiError::field("qualifier", error.to_string()))?;
    let config = broker.config();
    let text = match label.strip_prefix("arn:") {
        None => label,
        Some(_) => {
            let parts: Vec<&str> = label.splitn(6, ':').collect();
            let [_, partition, "bedrock-agentcore", region, account, resource] = parts[..] else {
                return Err(ApiError::field(
                    "agentRuntimeArn",
                    "must look like arn:aws:bedrock-agentcore:<region>:<account>:runtime/<id>",
                ));
            };
            let Some(rest) = resource.strip_prefix("runtime/") else {
                return Err(ApiError::field(
                    "agentRuntimeArn",
                    "must name a runtime (`:runtime/<id>`)",
                ));
            };
            if !partition.starts_with("aws")
                || account.len() != 12
                || !account.bytes().all(|b| b.is_ascii_digit())
                || region.is_empty()
                || !region
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            {
                return Err(ApiError::field(
                    "agentRuntimeArn",
                    "has a malformed partition, region or account",
                ));
            }
            if region != config.region || account != config.account {
                return Err(unknown_runtime(label));
            }
            // An endpoint ARN names its runtime first.
            rest.split_once("/runtime-endpoint/")
                .map_or(rest, |(id, _endpoint)| id)
        }
    };
    let found = if let Ok(name) = RuntimeName::parse(text) {
        broker.catalogue.by_name(&name)
    } else if let Ok(id) = RuntimeId::parse(text) {
        broker.catalogue.by_id(&id)
    } else {
        return Err(ApiError::field(
            "agentRuntimeArn",
            "is not an ARN, a runtime's id or a runtime's name",
        ));
    };
    let version = found.ok_or_else(|| unknown_runtime(label))?;
    if qualifier != "DEFAULT" {
        return Err(ApiError::not_found(format!(
            "runtime {} has no endpoint {qualifier}",
            version.name
        )));
    }
    Ok(version)
}

fn unknown_runtime(label: &str) -> ApiError {
    ApiError::not_found(format!(
        "there is no runtime {label}; `agentcore runtime list` shows what is deployed"
    ))
}

async fn invoke(
    broker: &Arc<Broker>,
    version: Arc<RuntimeVersion>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let session = session_id(&parts.headers)?.unwrap_or_else(fresh_session_id);
    let request_id = parts
        .extensions
        .get::<RequestId>()
        .map(|id| id.0.clone())
        .unwrap_or_default();
    let call = Call {
        key: SessionKey {
            runtime: version.runtime.clone(),
            endpoint: EndpointName::default_endpoint(),
            client: session.clone(),
        },
        method: "POST".to_owned(),
        target: version.spec.protocol.path().to_owned(),
        headers: headers_in(&parts.headers, &session, &request_id)?,
        attempt: parts
            .headers
            .get(INVOCATION_ID)
            .and_then(|value| value.to_str().ok())
            .filter(|value| value.len() <= 128)
            .map(ToOwned::to_owned),
        version,
    };
    check_length(broker, &parts.headers)?;
    let answered = match super::attempts::answer(broker, call, body).await {
        Ok((handle, answer)) if !(200..300).contains(&answer.status) => {
            Err(invoke::agent_error(&handle, answer).await)
        }
        Ok((_handle, answer)) => Ok(answer),
        Err(error) => Err(error),
    };
    let answer = match answered {
        Ok(answer) => answer,
        // With the session's id: its log and its next invocation are what the caller wants now.
        Err(error) => {
            let mut response = error.aws(&request_id);
            set_session(response.headers_mut(), &session);
            return Ok(response);
        }
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::OK;
    for name in PASSED_OUT {
        if let Some(value) = answer.headers.get(*name) {
            response
                .headers_mut()
                .insert(HeaderName::from_static(name), value.clone());
        }
    }
    response
        .headers_mut()
        .entry(CONTENT_TYPE)
        .or_insert(HeaderValue::from_static("application/octet-stream"));
    set_session(response.headers_mut(), &session);
    *response.body_mut() = answer.body.into();
    Ok(response)
}

async fn stop(
    broker: &Arc<Broker>,
    version: &RuntimeVersion,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let session = session_id(headers)?.ok_or_else(|| {
        ApiError::field(
            "runtimeSessionId",
            "is required (header X-Amzn-Bedrock-AgentCore-Runtime-Session-Id)",
        )
    })?;
    let key = SessionKey {
        runtime: version.runtime.clone(),
        endpoint: EndpointName::default_endpoint(),
        client: session.clone(),
    };
    let gone = || {
        ApiError::not_found(format!(
            "runtime {} has no live session {session}",
            version.name
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

/// The caller's session id, if it gave one.
pub fn session_id(headers: &HeaderMap) -> Result<Option<ClientSessionId>, ApiError> {
    let mut values = headers.get_all(SESSION_ID).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.any(|other| other != value) {
        return Err(ApiError::field(
            "runtimeSessionId",
            "is given more than once, each time another one",
        ));
    }
    let text = value
        .to_str()
        .map_err(|_| ApiError::field("runtimeSessionId", "must be visible ASCII"))?;
    ClientSessionId::parse(text)
        .map(Some)
        .map_err(|error| ApiError::field("runtimeSessionId", error.to_string()))
}

/// For a caller without one (contract §2.2).
pub fn fresh_session_id() -> ClientSessionId {
    ClientSessionId::parse(uuid::Uuid::new_v4().to_string()).expect("36 visible characters")
}

/// Puts the session's id on an answer.
pub fn set_session(headers: &mut HeaderMap, session: &ClientSessionId) {
    if let Ok(value) = HeaderValue::from_str(session.as_str()) {
        headers.insert(SESSION_ID, value);
    }
}

/// Refuses a body that says itself that it is too large, before anything is started for it.
pub fn check_length(broker: &Broker, headers: &HeaderMap) -> Result<(), ApiError> {
    let max = broker.config().limits.max_body.0;
    let length = headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok());
    match length {
        Some(size) if size > max => Err(invoke::too_large(Some(size), max)),
        Some(_) | None => Ok(()),
    }
}

fn headers_in(
    headers: &HeaderMap,
    session: &ClientSessionId,
    request_id: &str,
) -> Result<Vec<(String, String)>, ApiError> {
    let mut passed = Vec::with_capacity(8);
    for (name, value) in headers {
        let name = name.as_str();
        if !PASSED_IN.contains(&name) && !name.starts_with(CUSTOM_PREFIX) {
            continue;
        }
        let value = value
            .to_str()
            .map_err(|_| ApiError::field(name, "must be visible ASCII"))?;
        if value.len() > MAX_HEADER_VALUE {
            return Err(ApiError::field(
                name,
                format!("must be at most {MAX_HEADER_VALUE} characters long"),
            ));
        }
        passed.push((name.to_owned(), value.to_owned()));
    }
    passed.push((SESSION_ID.as_str().to_owned(), session.as_str().to_owned()));
    passed.push((
        "x-amzn-bedrock-agentcore-runtime-request-id".to_owned(),
        request_id.to_owned(),
    ));
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_survives_every_kind_of_escaping() {
        for path in [
            "/runtimes/arn%3Aaws%3Abedrock-agentcore%3Aus-local-1%3A000000000000%3Aruntime%2Fecho-AbCdEf1234/invocations",
            "/runtimes/arn%3aaws%3abedrock-agentcore%3aus-local-1%3a000000000000%3aruntime%2fecho-AbCdEf1234/invocations",
            "/runtimes/arn:aws:bedrock-agentcore:us-local-1:000000000000:runtime%2Fecho-AbCdEf1234/invocations",
            "/runtimes/arn:aws:bedrock-agentcore:us-local-1:000000000000:runtime/echo-AbCdEf1234/invocations/",
        ] {
            let (operation, label) = split(path).expect(path);
            assert_eq!(operation, Operation::Invoke);
            assert_eq!(
                label,
                "arn:aws:bedrock-agentcore:us-local-1:000000000000:runtime/echo-AbCdEf1234"
            );
        }
        assert!(split("/runtimes/echo").is_err());
        assert!(split("/runtimes/echo/unknown").is_err());
        assert!(split("/runtimes/%ff/invocations").is_err());
    }
}
