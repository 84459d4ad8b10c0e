//! The caller's session id on the wire: read, made up, answered.

use super::invoke::SESSION_ID;
use super::reply::ApiError;
use http::header::{HeaderMap, HeaderValue};
use proto::ids::ClientSessionId;

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
