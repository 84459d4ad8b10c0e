//! How a failed call is told in the words of its runtime's protocol (contract §1.6–1.8): MCP and A2A by an error of
//! JSON-RPC, AG-UI by an event. The codes are `proto::code`'s.

use crate::api::reply::ApiError;
use axum::response::Response;
use bytes::Bytes;
use proto::config::Protocol;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

/// The error as `protocol` says it, to the request in `body` (if all of it is here).
pub(super) fn told(
    error: &ApiError,
    protocol: Protocol,
    body: Option<&Bytes>,
    request_id: &str,
) -> Response {
    let rpc = |(code, status): (i32, u16)| {
        let call = body.map_or(Value::Null, |body| rpc_id(body));
        let mut said = rpc_error(error, code, &call, request_id);
        if status >= 400 {
            // Where AWS's own clients look for it, who know by the status that this is an error.
            said["message"] = json!(error.message);
        }
        error.answer(request_id, status, "application/json", said.to_string())
    };
    match protocol {
        Protocol::Http => error.aws(request_id),
        Protocol::Mcp => rpc(error.code.mcp()),
        Protocol::A2a => match error.code.a2a() {
            Some(told) => rpc(told),
            None => error.aws(request_id),
        },
        Protocol::Agui => {
            let (_, status) = error.code.agui();
            error.answer(request_id, status, "text/event-stream", run_error(error))
        }
    }
}

/// Whether `protocol` has an event for a stream that breaks off.
pub(super) const fn has_last_event(protocol: Protocol) -> bool {
    match protocol {
        Protocol::Http | Protocol::A2a => false,
        Protocol::Mcp | Protocol::Agui => true,
    }
}

/// The error as the last event of a stream that has begun, to the request of this id; empty if `protocol` has none.
pub(super) fn event(error: &ApiError, protocol: Protocol, call: &Value, request_id: &str) -> Bytes {
    match protocol {
        Protocol::Http | Protocol::A2a => Bytes::new(),
        Protocol::Mcp => {
            let (code, _) = error.code.mcp();
            let said = rpc_error(error, code, call, request_id);
            format!("event: message\ndata: {said}\n\n").into()
        }
        Protocol::Agui => run_error(error).into(),
    }
}

fn rpc_error(error: &ApiError, code: i32, call: &Value, request_id: &str) -> Value {
    json!({
        "jsonrpc": "2.0",
        "id": call,
        "error": { "code": code, "message": error.message, "data": error.data(request_id) },
    })
}

fn run_error(error: &ApiError) -> String {
    let (code, _) = error.code.agui();
    let event = json!({ "type": "RUN_ERROR", "code": code, "message": error.message });
    format!("data: {event}\n\n")
}

/// The id of a JSON-RPC request, `null` if it has none or is none: its client tells its calls apart by it.
pub(super) fn rpc_id(body: &[u8]) -> Value {
    #[derive(Deserialize)]
    struct Request {
        #[serde(default)]
        id: Value,
        /// What has none is the answer to a server's own request, whose ids are not the client's.
        method: Option<IgnoredAny>,
    }
    let request: Option<Request> = serde_json::from_slice(body).ok();
    let request = request.filter(|request| request.method.is_some());
    match request.map(|request| request.id) {
        Some(id @ (Value::String(_) | Value::Number(_))) => id,
        Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) | None => {
            Value::Null
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_by_its_id() {
        for (body, id) in [
            (r#"{"jsonrpc":"2.0","id":7,"method":"a"}"#, json!(7)),
            (r#"{"method":"a","params":{"id":1},"id":"x"}"#, json!("x")),
            (r#"{"method":"a"}"#, Value::Null),
            (r#"{"method":"a","id":{"a":1}}"#, Value::Null),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, Value::Null),
            (r#"[{"id":1}]"#, Value::Null),
            ("rubbish", Value::Null),
        ] {
            assert_eq!(rpc_id(body.as_bytes()), id, "{body}");
        }
    }
}
