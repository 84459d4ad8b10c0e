//! JSON-RPC 2.0, one message per SEQPACKET packet (architecture §5).
//!
//! The packet's size is the frame, so there is no length prefix to lie about. Descriptors ride on the packet that names
//! them; bodies never travel in JSON. Both ends parse strictly: an unknown envelope field, a batch, or a packet over
//! [`MAX_PACKET`] is a protocol fault of the sender.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Largest packet either side sends or accepts, in bytes.
pub const MAX_PACKET: usize = 64 * 1024;

/// Most descriptors that ride on one packet (`exec` passes three).
pub const MAX_PACKET_FDS: usize = 4;

/// A parsed envelope whose parameters are not yet typed.
#[derive(Debug)]
pub enum Message<'a> {
    /// Wants an answer with the same id.
    Request {
        /// Chosen by the sender, unique among its outstanding requests.
        id: u64,
        /// Method name, see [`crate::shim`].
        method: Cow<'a, str>,
        /// Untyped parameters.
        params: &'a RawValue,
    },
    /// Wants none.
    Notification {
        /// Method name.
        method: Cow<'a, str>,
        /// Untyped parameters.
        params: &'a RawValue,
    },
    /// Answers the request of this id.
    Response {
        /// The request's id.
        id: u64,
        /// Its outcome.
        outcome: Result<&'a RawValue, ErrorObject>,
    },
}

/// A JSON-RPC error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorObject {
    /// See [`crate::code`].
    pub code: i32,
    /// For a person.
    pub message: String,
}

/// Why a packet is not a message.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Larger than [`MAX_PACKET`].
    #[error("packet of {0} bytes is over the limit of {MAX_PACKET}")]
    TooLarge(usize),
    /// Not the JSON of an envelope.
    #[error("packet is not a JSON-RPC 2.0 message")]
    Json(#[from] serde_json::Error),
    /// JSON, but neither request, notification nor response.
    #[error("packet is not a request, notification or response")]
    Shape,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    #[serde(borrow)]
    jsonrpc: Cow<'a, str>,
    id: Option<u64>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<ErrorObject>,
}

/// Reads one packet.
pub fn parse(packet: &[u8]) -> Result<Message<'_>, ParseError> {
    if packet.len() > MAX_PACKET {
        return Err(ParseError::TooLarge(packet.len()));
    }
    let envelope: Envelope<'_> = serde_json::from_slice(packet)?;
    if envelope.jsonrpc != "2.0" {
        return Err(ParseError::Shape);
    }
    match envelope {
        Envelope {
            id: Some(id),
            method: Some(method),
            params: Some(params),
            result: None,
            error: None,
            ..
        } => Ok(Message::Request { id, method, params }),
        Envelope {
            id: None,
            method: Some(method),
            params: Some(params),
            result: None,
            error: None,
            ..
        } => Ok(Message::Notification { method, params }),
        Envelope {
            id: Some(id),
            method: None,
            params: None,
            result: Some(result),
            error: None,
            ..
        } => Ok(Message::Response {
            id,
            outcome: Ok(result),
        }),
        Envelope {
            id: Some(id),
            method: None,
            params: None,
            result: None,
            error: Some(error),
            ..
        } => Ok(Message::Response {
            id,
            outcome: Err(error),
        }),
        Envelope { .. } => Err(ParseError::Shape),
    }
}

/// Types the parameters of a request or notification, or the result of a response.
pub fn typed<T: DeserializeOwned>(raw: &RawValue) -> Result<T, serde_json::Error> {
    serde_json::from_str(raw.get())
}

#[derive(Serialize)]
struct Outgoing<'a, P, R> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<P>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<R>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ErrorObject>,
}

fn bytes<P: Serialize, R: Serialize>(message: &Outgoing<'_, P, R>) -> Vec<u8> {
    serde_json::to_vec(message)
        .expect("our own wire types have string keys and no failing serializers")
}

/// Encodes a request.
#[must_use]
pub fn request<P: Serialize>(id: u64, method: &str, params: &P) -> Vec<u8> {
    bytes::<_, ()>(&Outgoing {
        jsonrpc: "2.0",
        id: Some(id),
        method: Some(method),
        params: Some(params),
        result: None,
        error: None,
    })
}

/// Encodes a notification.
#[must_use]
pub fn notification<P: Serialize>(method: &str, params: &P) -> Vec<u8> {
    bytes::<_, ()>(&Outgoing {
        jsonrpc: "2.0",
        id: None,
        method: Some(method),
        params: Some(params),
        result: None,
        error: None,
    })
}

/// Encodes a successful response.
#[must_use]
pub fn result<R: Serialize>(id: u64, result: &R) -> Vec<u8> {
    bytes::<(), _>(&Outgoing {
        jsonrpc: "2.0",
        id: Some(id),
        method: None,
        params: None,
        result: Some(result),
        error: None,
    })
}

/// Encodes an error response.
#[must_use]
pub fn error(id: u64, error: &ErrorObject) -> Vec<u8> {
    bytes::<(), ()>(&Outgoing {
        jsonrpc: "2.0",
        id: Some(id),
        method: None,
        params: None,
        result: None,
        error: Some(error),
    })
}
