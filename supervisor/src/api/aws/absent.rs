//! What AgentCore has and this daemon has not, by the first part of its paths: a ValidationException that says so, instead of
//! a 404 that looks like a resource which is not there. `tests/clients/data_calls.py` holds the table to botocore's models.

use crate::api::authorize::{self, Presented};
use crate::api::reply::ApiError;
use crate::permit::Action;
use axum::response::Response;
use proto::code::ErrorCode;

/// First part of a path, and what is there at AWS.
const ABSENT: &[(&str, &str)] = &[
    ("ab-tests", "A/B tests"),
    ("agent-insight-stores", "agent insights"),
    ("agentinsights", "agent insights"),
    ("browser-profiles", "browsers"),
    ("browsers", "browsers"),
    ("capacity-providers", "capacity providers"),
    ("code-interpreters", "code interpreters"),
    ("configuration-bundles", "configuration bundles"),
    ("datasets", "datasets"),
    ("evaluations", "evaluations"),
    ("evaluators", "evaluators"),
    ("gateways", "gateways"),
    ("harnesses", "harnesses"),
    ("identities", "identities and credential providers"),
    ("memories", "memories"),
    ("online-evaluation-configs", "evaluations"),
    ("payments", "payments"),
    ("policy-engine-summaries", "policy engines"),
    ("policy-engines", "policy engines"),
    ("recommendations", "recommendations"),
    ("registries", "registries"),
    ("registry-records", "registries"),
    ("resourcepolicy", "resource policies"),
    ("web-search", "web search"),
];

/// What a path is about that is not here.
#[must_use]
pub fn at(path: &str) -> Option<&'static str> {
    let first = path.strip_prefix('/')?.split('/').next()?;
    let (_, what) = ABSENT.iter().find(|(part, _)| *part == first)?;
    Some(what)
}

/// The answer to everybody but strangers, who are told nothing.
#[must_use]
pub fn refuse(presented: &Presented, what: &str, request_id: &str) -> Response {
    let error = match authorize::no_stranger(presented, Action::LIST_RUNTIMES) {
        Err(error) => error,
        Ok(()) => ApiError::new(
            ErrorCode::Validation,
            format!(
                "this daemon has no {what}: it is AgentCore Runtime only (docs/compatibility.md)"
            ),
        ),
    };
    error.aws(request_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_parts_count() {
        for (path, what) in [
            ("/memories", Some("memories")),
            ("/memories/", Some("memories")),
            ("/memories/create", Some("memories")),
            ("/resourcepolicy/arn%3Aaws", Some("resource policies")),
            ("/memoriesx", None),
            ("/v1/memories", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(at(path), what, "{path}");
        }
    }
}
