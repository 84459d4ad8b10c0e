//! The trace that a call belongs to. A caller's own context passes as it is; a call without an X-Ray id gets one, as AWS's
//! load balancers give it, so that one text names the call in its answer, in the agent and in whatever the agent calls.
//!
//! It has no `Sampled`: whether a trace is recorded is for the agent's own tracer to decide, as without us. For the same
//! reason no `traceparent` is made up: its flags would decide.

use http::HeaderMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// X-Ray's.
pub(super) const HEADER: &str = "x-amzn-trace-id";

/// An id for a call that has none: that of its W3C trace if it names one, else a fresh one.
pub(super) fn begin(headers: &HeaderMap) -> String {
    let named = headers
        .get("traceparent")
        .and_then(|value| value.to_str().ok())
        .and_then(trace_of);
    match named {
        Some(trace) => root(trace),
        None => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let seconds = now.map_or(0, |now| now.as_secs() & u64::from(u32::MAX));
            let random = uuid::Uuid::new_v4().as_u128() >> 32;
            root(&format!("{seconds:08x}{random:024x}"))
        }
    }
}

/// The trace's id in a `traceparent` ([W3C Trace Context](https://www.w3.org/TR/trace-context/#traceparent-header)).
fn trace_of(parent: &str) -> Option<&str> {
    let (_version, rest) = parent.split_once('-')?;
    let (trace, _) = rest.split_once('-')?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (trace.len() == 32 && trace.bytes().all(hex) && trace.bytes().any(|b| b != b'0'))
        .then_some(trace)
}

/// `trace`: 32 hexadecimal digits.
fn root(trace: &str) -> String {
    let (seconds, rest) = trace.split_at(8);
    format!("Root=1-{seconds}-{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_keeps_its_id_and_a_call_without_one_gets_its_own() {
        let mut headers = HeaderMap::new();
        let fresh = begin(&headers);
        assert!(
            fresh.starts_with("Root=1-") && fresh.len() == "Root=1-".len() + 33,
            "{fresh}"
        );
        assert_ne!(fresh, begin(&headers));
        for (parent, root) in [
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                Some("Root=1-0af76519-16cd43dd8448eb211c80319c"),
            ),
            (
                "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                None,
            ),
            (
                "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
                None,
            ),
            ("rubbish", None),
        ] {
            headers.insert("traceparent", parent.parse().expect("value"));
            let begun = begin(&headers);
            match root {
                Some(root) => assert_eq!(begun, root),
                None => assert!(begun.len() == fresh.len() && begun != fresh, "{begun}"),
            }
        }
    }
}
