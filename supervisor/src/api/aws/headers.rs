//! Which headers pass, both ways (contract §1.3, §2.2): everything else stays here. On this wire a header reaches an agent
//! because it is named: by the contract, by the prefix of callers' own headers, or by the runtime's `request_headers`.

use super::trace;
use crate::api::invoke::{REQUEST_ID, SESSION_ID};
use crate::api::reply::ApiError;
use crate::catalogue::RuntimeVersion;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use proto::api::FieldFault;
use proto::config::Protocol;
use proto::ids::ClientSessionId;

/// A header of the contract's: name, the field that it is for callers, shortest and longest value.
type Known = (&'static str, &'static str, usize, usize);

/// Headers of the caller that reach every agent. One of the trace that is empty says as much as none.
const PASSED_IN: &[Known] = &[
    ("accept", "accept", 1, 256),
    ("content-type", "contentType", 1, 256),
    (MCP_SESSION_ID, "mcpSessionId", 1, 1024),
    ("mcp-protocol-version", "mcpProtocolVersion", 1, 1024),
    ("mcp-method", "mcpMethod", 1, 1024),
    ("mcp-name", "mcpName", 1, 1024),
    ("traceparent", "traceParent", 0, 128),
    ("tracestate", "traceState", 0, 512),
    ("baggage", "baggage", 0, 8192),
    (trace::HEADER, "traceId", 0, 128),
];

/// Headers that a command's request may have (contract §2.3): some of its bounds are other ones.
const OF_COMMANDS: &[Known] = &[
    ("accept", "accept", 1, 256),
    ("content-type", "contentType", 1, 256),
    ("traceparent", "traceParent", 0, 1024),
    ("tracestate", "traceState", 0, 512),
    ("baggage", "baggage", 0, 8192),
    (trace::HEADER, "traceId", 0, 1024),
];

/// Names an MCP client's session to its server.
pub(super) const MCP_SESSION_ID: &str = "mcp-session-id";

/// Prefix of the caller's own headers that reach the agent.
pub(super) const CUSTOM_PREFIX: &str = "x-amzn-bedrock-agentcore-runtime-custom-";

/// Longest value of a header of the caller's own, listed or with the prefix (contract §1.3).
const MAX_OWN: usize = 4096;

/// Headers of the agent that reach the caller on this wire. Those of the trace are the call's own where the agent says none.
const PASSED_OUT: &[&str] = &[
    "content-type",
    MCP_SESSION_ID,
    "mcp-protocol-version",
    "traceparent",
    "tracestate",
    "baggage",
    trace::HEADER,
];

/// Those of the trace: what of a call stands on its answer unless the agent says otherwise.
const ECHOED: &[&str] = &["traceparent", "tracestate", "baggage", trace::HEADER];

/// The caller's headers for the agent of `version`, with what the runtime adds.
pub(in crate::api) fn headers_in(
    headers: &HeaderMap,
    version: &RuntimeVersion,
    session: &ClientSessionId,
    request_id: &str,
) -> Result<Vec<(String, String)>, ApiError> {
    let spec = &version.spec;
    let mut taken = Taken::default();
    for (name, value) in headers {
        let name = name.as_str();
        let Some((field, least, most)) = passes(name, &spec.request_headers) else {
            continue;
        };
        // With a signature in it, it is nobody's business but ours, whatever the list says.
        if name == AUTHORIZATION.as_str() && version.config.authorizer.is_none() {
            continue;
        }
        taken.take(name, value, field, least, most);
    }
    let mut passed = taken.finish(headers)?;
    if spec.protocol == Protocol::Mcp && !headers.contains_key(http::header::ACCEPT) {
        // boto3 sends none unless told to; an MCP server answers in one of these, or not at all.
        passed.push(("accept".to_owned(), super::mcp::ACCEPT.to_owned()));
    }
    passed.push((SESSION_ID.as_str().to_owned(), session.as_str().to_owned()));
    passed.push((REQUEST_ID.to_owned(), request_id.to_owned()));
    Ok(passed)
}

/// What of a command's request stands on its answer; nothing of it reaches the agent.
pub(super) fn of_command(headers: &HeaderMap) -> Result<HeaderMap, ApiError> {
    let mut taken = Taken::default();
    for (name, field, least, most) in OF_COMMANDS {
        for value in headers.get_all(*name) {
            taken.take(name, value, field, *least, *most);
        }
    }
    Ok(echoed(&taken.finish(headers)?))
}

/// Headers that keep to their bounds, and everything that is wrong with the others.
#[derive(Debug, Default)]
struct Taken {
    passed: Vec<(String, String)>,
    faults: Vec<FieldFault>,
}

impl Taken {
    fn take(&mut self, name: &str, value: &HeaderValue, field: &str, least: usize, most: usize) {
        let fault = match value.to_str() {
            Ok(text) if (least..=most).contains(&text.len()) => {
                if !text.is_empty() || !ECHOED.contains(&name) {
                    self.passed.push((name.to_owned(), text.to_owned()));
                }
                return;
            }
            Ok(text) => format!(
                "must be {least} to {most} characters long, is {}",
                text.len()
            ),
            Err(_) => "must be visible ASCII".to_owned(),
        };
        self.faults.push(FieldFault {
            name: field.to_owned(),
            message: fault,
        });
    }

    /// What is passed on. A call without a trace begins one.
    fn finish(mut self, headers: &HeaderMap) -> Result<Vec<(String, String)>, ApiError> {
        if !self.faults.is_empty() {
            return Err(ApiError::fields(self.faults));
        }
        if !self.passed.iter().any(|(name, _)| name == trace::HEADER) {
            self.passed
                .push((trace::HEADER.to_owned(), trace::begin(headers)));
        }
        Ok(self.passed)
    }
}

/// Whether a header of the caller's reaches the agent: the field that it is, and the bounds of its length.
fn passes<'a>(name: &'a str, listed: &[String]) -> Option<(&'a str, usize, usize)> {
    if let Some((_, field, least, most)) = PASSED_IN.iter().find(|(known, ..)| *known == name) {
        return Some((field, *least, *most));
    }
    let own = name.starts_with(CUSTOM_PREFIX) || listed.iter().any(|listed| listed == name);
    own.then_some((name, 0, MAX_OWN))
}

/// What of a call's headers stands on its answer.
pub(super) fn echoed(call: &[(String, String)]) -> HeaderMap {
    let mut echoed = HeaderMap::with_capacity(PASSED_OUT.len() + 2);
    for name in ECHOED {
        let said = call.iter().find(|(called, _)| called == name);
        if let Some(Ok(value)) = said.map(|(_, value)| HeaderValue::from_str(value)) {
            echoed.insert(HeaderName::from_static(name), value);
        }
    }
    echoed
}

/// The agent's headers for the caller, beside what is [`echoed`] of the call.
pub(super) fn headers_out(agent: &HeaderMap, echoed: HeaderMap) -> HeaderMap {
    let mut passed = echoed;
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
