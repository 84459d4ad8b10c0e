//! `GET /metrics`: operators', unless `metrics.public` opens it; and what a request is counted as.

use super::reply::ApiError;
use crate::broker::Broker;
use crate::metrics::{CLASSIC, OPEN_METRICS, classic};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::Method;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use std::sync::Arc;

/// `GET /metrics`, in OpenMetrics for who asks for it, else in the older form.
pub async fn scrape(State(broker): State<Arc<Broker>>, headers: HeaderMap) -> Response {
    let open = headers.get_all(ACCEPT).iter().any(|accept| {
        accept
            .to_str()
            .is_ok_and(|accept| accept.contains("openmetrics-text"))
    });
    let reading = Arc::clone(&broker);
    // Files of /proc are read, and thousands of sessions are counted.
    let text = tokio::task::spawn_blocking(move || reading.metrics.text(&reading)).await;
    match text {
        Ok(text) if open => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Ok(text) => ([(CONTENT_TYPE, CLASSIC)], classic(&text)).into_response(),
        Err(error) => ApiError::internal(&error).problem(""),
    }
}

/// What a request is counted as: one of few, whatever its path.
#[must_use]
pub fn operation(method: &Method, path: &str) -> &'static str {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').take(6).collect();
    match (parts.first().copied().unwrap_or_default(), parts.as_slice()) {
        ("healthz" | "livez" | "readyz" | "version" | "openapi.json", _) => "Health",
        ("metrics", _) => "Metrics",
        ("invocations", _) => "LocalInvocations",
        ("ping", _) => "LocalPing",
        ("ws", _) => "LocalWebSocket",
        ("s3", _) => "Objects",
        ("v1", [_, "artifacts", ..]) => "V1Artifacts",
        ("v1", [_, "runtimes", ..]) => "V1Runtimes",
        ("v1", [_, "sessions", _, "freeze" | "thaw" | "limits", ..]) => "V1SessionControl",
        ("v1", [_, "sessions", ..]) => "V1Sessions",
        ("v1", [_, "tasks", ..]) => "V1Tasks",
        ("v1", [_, "usage", ..]) => "V1Usage",
        ("v1", _) => "V1",
        // An ARN is one label, however it is escaped; one with a bare slash is two.
        ("runtimes", [.., last]) => match (method, *last) {
            (&Method::POST, "invocations") => "InvokeAgentRuntime",
            (&Method::POST, "stopruntimesession") => "StopRuntimeSession",
            (&Method::POST, "commands") => "InvokeAgentRuntimeCommand",
            (_, "ws") => "WebSocket",
            (&Method::GET, _) => "ControlGet",
            _ => "ControlChange",
        },
        ("tags", _) => "ControlTags",
        _ => "Other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_counted_as_one_of_few() {
        for (method, path, counted) in [
            (
                Method::POST,
                "/runtimes/a/invocations",
                "InvokeAgentRuntime",
            ),
            (
                Method::POST,
                "/runtimes/arn%3Aaws%3Ax%3Aruntime%2Fa-1234567890/invocations",
                "InvokeAgentRuntime",
            ),
            (
                Method::POST,
                "/runtimes/arn:aws:x:runtime/a-1234567890/invocations",
                "InvokeAgentRuntime",
            ),
            (Method::POST, "/v1/sessions/abc/freeze", "V1SessionControl"),
            (Method::GET, "/v1/sessions", "V1Sessions"),
            (Method::GET, "/whatever/else", "Other"),
            (Method::GET, "", "Other"),
        ] {
            assert_eq!(operation(&method, path), counted, "{path}");
        }
    }
}
