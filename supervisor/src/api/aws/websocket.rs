//! InvokeAgentRuntimeWithWebSocketStream (contract §2.6): a WebSocket to the agent's `/ws`.
//!
//! Browsers cannot set headers, so the session's id and the caller's own headers may come as parameters of the query too, in
//! any letter case; they become headers here, and everything after that is as for any other call.

use super::headers::{CUSTOM_PREFIX, headers_in};
use super::target::Target;
use crate::api::identify::Caller;
use crate::api::invoke::{self, SESSION_ID};
use crate::api::reply::ApiError;
use crate::api::router::request_id;
use crate::api::session_header::{fresh_session_id, session_id, set_session};
use crate::api::websocket::{Opened, Switch};
use crate::broker::Broker;
use axum::extract::Request;
use axum::response::Response;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use std::sync::Arc;

/// Most bytes of headers that come by the query; the agent's whole head has 32 KiB.
const MAX_BY_QUERY: usize = 16 * 1024;

pub(super) async fn websocket(
    broker: &Arc<Broker>,
    caller: &Caller,
    target: Target,
    mut request: Request,
) -> Result<Response, ApiError> {
    let request_id = request_id(&request);
    let switch = Switch::of(&mut request)?;
    let headers = with_query(request.headers().clone(), request.uri().query())?;
    let session = session_id(&headers)?.unwrap_or_else(fresh_session_id);
    let owner = caller.owner(broker, &headers)?;
    let key = target.session(session.clone(), owner);
    let passed = headers_in(&headers, &target.version, &session, &request_id)?;
    let opened = match switch.open(broker, &key, &target.version, passed).await {
        Ok(Opened::Switched(response)) => Ok(response),
        Ok(Opened::Answered(handle, answer)) => Err(invoke::agent_error(&handle, *answer).await),
        Err(error) => Err(error),
    };
    let mut response = opened.unwrap_or_else(|error| error.aws(&request_id));
    set_session(response.headers_mut(), &session);
    Ok(response)
}

/// The request's headers with those of its query. What is given both ways counts as a header, but a session has one id.
pub(super) fn with_query(
    mut headers: HeaderMap,
    query: Option<&str>,
) -> Result<HeaderMap, ApiError> {
    let mut size = 0;
    for pair in query.unwrap_or_default().split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = percent_decode_str(name)
            .decode_utf8_lossy()
            .to_ascii_lowercase();
        let is_session = name == SESSION_ID.as_str();
        if !is_session && !name.starts_with(CUSTOM_PREFIX) {
            continue;
        }
        let value = percent_decode_str(value).collect::<Vec<u8>>();
        size += name.len() + value.len();
        if size > MAX_BY_QUERY {
            let text = format!("has more than {MAX_BY_QUERY} bytes of headers");
            return Err(ApiError::field("query", text));
        }
        let name = HeaderName::try_from(&name)
            .map_err(|_| ApiError::field(&name, "is not the name of a header"))?;
        let value = HeaderValue::try_from(value)
            .map_err(|_| ApiError::field(name.as_str(), "must be visible ASCII"))?;
        if is_session || !headers.contains_key(&name) {
            headers.append(name, value);
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUSTOM: &str = "x-amzn-bedrock-agentcore-runtime-custom-a";

    #[test]
    fn parameters_become_headers_in_any_letter_case() {
        let query = "qualifier=DEFAULT&X-AMZN-Bedrock-AgentCore-Runtime-SESSION-Id=one&\
                     X-Amzn-Bedrock-AgentCore-Runtime-Custom-A=b%20c+d&authorization=x&cookie=y";
        let headers = with_query(HeaderMap::new(), Some(query)).expect("headers");
        assert_eq!(headers.len(), 2, "{headers:?}");
        assert_eq!(headers[SESSION_ID], "one");
        assert_eq!(headers[CUSTOM], "b c+d");
    }

    #[test]
    fn a_header_counts_before_a_parameter_but_a_session_has_one_id() {
        let mut given = HeaderMap::new();
        given.insert(CUSTOM, HeaderValue::from_static("header"));
        given.insert(SESSION_ID, HeaderValue::from_static("one"));
        let query = format!("{CUSTOM}=query&{SESSION_ID}=two");
        let headers = with_query(given, Some(&query)).expect("headers");
        assert_eq!(headers[CUSTOM], "header");
        assert_eq!(headers.get_all(SESSION_ID).iter().count(), 2);
        assert!(session_id(&headers).is_err());
    }

    #[test]
    fn what_is_no_header_is_refused_by_name() {
        for query in [
            format!("{CUSTOM}%0d%0ax=1"),
            format!("{CUSTOM}=%0d%0a"),
            format!("{CUSTOM}={}", "x".repeat(MAX_BY_QUERY)),
        ] {
            with_query(HeaderMap::new(), Some(&query)).expect_err(&query);
        }
    }
}
