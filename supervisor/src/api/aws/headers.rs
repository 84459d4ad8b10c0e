//! Which headers pass, both ways (contract §1.3, §2.2): everything else stays here.

use crate::api::invoke::SESSION_ID;
use crate::api::reply::ApiError;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use proto::ids::ClientSessionId;

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
pub(super) const CUSTOM_PREFIX: &str = "x-amzn-bedrock-agentcore-runtime-custom-";

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

/// The caller's headers for the agent, with what the runtime adds.
pub(super) fn headers_in(
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

/// The agent's headers for the caller.
pub(super) fn headers_out(agent: &HeaderMap) -> HeaderMap {
    let mut passed = HeaderMap::with_capacity(PASSED_OUT.len());
    for name in PASSED_OUT {
        if let Some(value) = agent.get(*name) {
            passed.insert(HeaderName::from_static(name), value.clone());
        }
    }
    passed
        .entry(CONTENT_TYPE)
        .or_insert(HeaderValue::from_static("application/octet-stream"));
    passed
}
