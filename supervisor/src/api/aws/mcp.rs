//! What is particular about MCP runtimes (contract §1.6): which session a call means, and what its caller must take.
//!
//! An MCP client knows one session id: the one that it got with its first answer. That is the runtime's session id, under the
//! name `Mcp-Session-Id`. A server that keeps sessions of its own makes an id too; it is remembered with the session
//! (`SessionHandle::mcp`), told to that server instead of ours, and never leaves it.

use super::headers::MCP_SESSION_ID;
use crate::api::reply::ApiError;
use crate::api::session_header::session_id;
use http::HeaderMap;
use http::header::{ACCEPT as ACCEPT_HEADER, HeaderName, HeaderValue};
use proto::code::ErrorCode;
use proto::ids::ClientSessionId;

/// What servers answer in.
pub(super) const ACCEPT: &str = "application/json, text/event-stream";

/// The session that a call means: the one that its MCP session id names, else that of its runtime session id, which SDKs make
/// up anew for each call.
pub(super) fn session(headers: &HeaderMap) -> Result<Option<ClientSessionId>, ApiError> {
    let mut values = headers.get_all(MCP_SESSION_ID).iter();
    let Some(value) = values.next() else {
        return session_id(headers);
    };
    if values.any(|other| other != value) {
        return Err(ApiError::field(
            "mcpSessionId",
            "is given more than once, each time another one",
        ));
    }
    let text = value
        .to_str()
        .map_err(|_| ApiError::field("mcpSessionId", "must be visible ASCII"))?;
    ClientSessionId::parse(text).map(Some).map_err(|error| {
        ApiError::field(
            "mcpSessionId",
            format!("must be one that came with an answer: {error}"),
        )
    })
}

/// Refuses a caller that takes neither form of an answer.
pub(super) fn acceptable(headers: &HeaderMap) -> Result<(), ApiError> {
    let mut values = headers.get_all(ACCEPT_HEADER).iter().peekable();
    if values.peek().is_none() {
        return Ok(());
    }
    let takes = values.any(|value| value.to_str().is_ok_and(takes));
    if takes {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::NotAcceptable,
        format!("an MCP server answers in one of {ACCEPT}; Accept has neither"),
    ))
}

fn takes(accept: &str) -> bool {
    accept.split(',').any(|range| {
        let kind = range.split(';').next().unwrap_or_default().trim();
        [
            "application/json",
            "text/event-stream",
            "*/*",
            "application/*",
            "text/*",
        ]
        .iter()
        .any(|known| kind.eq_ignore_ascii_case(known))
    })
}

/// Puts the session's id on an answer, in place of one of the server's own.
pub(super) fn set_session(headers: &mut HeaderMap, session: &ClientSessionId) {
    if let Ok(value) = HeaderValue::from_str(session.as_str()) {
        headers.insert(HeaderName::from_static(MCP_SESSION_ID), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_that_take_neither_form_are_refused() {
        for (accept, taken) in [
            ("application/json, text/event-stream", true),
            ("application/json", true),
            ("text/plain, Text/Event-Stream;q=0.5", true),
            ("*/*", true),
            ("text/plain", false),
            ("application/jsonx", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_HEADER, accept.parse().expect("value"));
            assert_eq!(acceptable(&headers).is_ok(), taken, "{accept}");
        }
        assert!(acceptable(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn the_mcp_session_comes_before_the_runtime_session() {
        let mut headers = HeaderMap::new();
        let [ours, theirs] = ["o", "t"].map(|letter| letter.repeat(36));
        headers.insert(crate::api::invoke::SESSION_ID, ours.parse().expect("value"));
        let found =
            |headers: &HeaderMap| session(headers).map(|id| id.map(|id| id.as_str().to_owned()));
        assert_eq!(found(&headers).expect("sound"), Some(ours));
        headers.insert(MCP_SESSION_ID, theirs.parse().expect("value"));
        assert_eq!(found(&headers).expect("sound"), Some(theirs));
        headers.insert(MCP_SESSION_ID, "short".parse().expect("value"));
        let error = found(&headers).expect_err("not ours");
        assert_eq!(error.fields[0].name, "mcpSessionId");
    }
}
