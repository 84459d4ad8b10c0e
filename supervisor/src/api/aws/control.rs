//! The control plane (contract §3): runtimes, versions, endpoints, tags. Operation by method and path ▸ input checked
//! against [`model`] ▸ what it means here ([`mapping`]) ▸ store and deployment ▸ the answer's JSON.
//!
//! Its paths are told from the data plane's by their whole form, trailing slash or not (contract §7.1).

mod endpoint;
mod input;
mod mapping;
mod model;
mod runtime;
mod tags;

use crate::api::authorize::{self, Presented};
use crate::api::reply::ApiError;
use crate::api::router::request_id;
use crate::api::to_the_end::to_the_end;
use crate::api::turn::turn;
use crate::broker::Broker;
use crate::permit::Action;
use crate::rates::Kind;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use input::Input;
use percent_encoding::percent_decode_str;
use proto::code::ErrorCode;
use serde_json::Value;
use std::sync::Arc;

/// An operation of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    CreateAgentRuntime,
    UpdateAgentRuntime,
    GetAgentRuntime,
    DeleteAgentRuntime,
    ListAgentRuntimes,
    ListAgentRuntimeVersions,
    CreateAgentRuntimeEndpoint,
    UpdateAgentRuntimeEndpoint,
    GetAgentRuntimeEndpoint,
    DeleteAgentRuntimeEndpoint,
    ListAgentRuntimeEndpoints,
    TagResource,
    UntagResource,
    ListTagsForResource,
}

impl Operation {
    /// What a caller must be permitted; it is called as the operation in the model is.
    pub(super) const fn action(self) -> Action {
        match self {
            Self::CreateAgentRuntime => Action::CREATE_RUNTIME,
            Self::UpdateAgentRuntime => Action::UPDATE_RUNTIME,
            Self::GetAgentRuntime => Action::GET_RUNTIME,
            Self::DeleteAgentRuntime => Action::DELETE_RUNTIME,
            Self::ListAgentRuntimes => Action::LIST_RUNTIMES,
            Self::ListAgentRuntimeVersions => Action::LIST_VERSIONS,
            Self::CreateAgentRuntimeEndpoint => Action::CREATE_ENDPOINT,
            Self::UpdateAgentRuntimeEndpoint => Action::UPDATE_ENDPOINT,
            Self::GetAgentRuntimeEndpoint => Action::GET_ENDPOINT,
            Self::DeleteAgentRuntimeEndpoint => Action::DELETE_ENDPOINT,
            Self::ListAgentRuntimeEndpoints => Action::LIST_ENDPOINTS,
            Self::TagResource => Action::TAG,
            Self::UntagResource => Action::UNTAG,
            Self::ListTagsForResource => Action::LIST_TAGS,
        }
    }
}

impl Operation {
    /// What it counts as at its caller's rate.
    const fn kind(self) -> Kind {
        match self {
            Self::CreateAgentRuntime
            | Self::UpdateAgentRuntime
            | Self::DeleteAgentRuntime
            | Self::CreateAgentRuntimeEndpoint
            | Self::UpdateAgentRuntimeEndpoint
            | Self::DeleteAgentRuntimeEndpoint
            | Self::TagResource
            | Self::UntagResource => Kind::Mutation,
            Self::GetAgentRuntime | Self::GetAgentRuntimeEndpoint => Kind::Get,
            Self::ListAgentRuntimes
            | Self::ListAgentRuntimeVersions
            | Self::ListAgentRuntimeEndpoints
            | Self::ListTagsForResource => Kind::List,
        }
    }
}

/// What a path of the control plane offers, and its labels as they stand in the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place<'a> {
    operations: &'static [(Method, Operation)],
    labels: Vec<(&'static str, &'a str)>,
}

const RUNTIMES: &[(Method, Operation)] = &[
    (Method::PUT, Operation::CreateAgentRuntime),
    (Method::POST, Operation::ListAgentRuntimes),
];
const RUNTIME: &[(Method, Operation)] = &[
    (Method::PUT, Operation::UpdateAgentRuntime),
    (Method::GET, Operation::GetAgentRuntime),
    (Method::DELETE, Operation::DeleteAgentRuntime),
];
const VERSIONS: &[(Method, Operation)] = &[(Method::POST, Operation::ListAgentRuntimeVersions)];
const ENDPOINTS: &[(Method, Operation)] = &[
    (Method::PUT, Operation::CreateAgentRuntimeEndpoint),
    (Method::POST, Operation::ListAgentRuntimeEndpoints),
];
const ENDPOINT: &[(Method, Operation)] = &[
    (Method::PUT, Operation::UpdateAgentRuntimeEndpoint),
    (Method::GET, Operation::GetAgentRuntimeEndpoint),
    (Method::DELETE, Operation::DeleteAgentRuntimeEndpoint),
];
const TAGS: &[(Method, Operation)] = &[
    (Method::POST, Operation::TagResource),
    (Method::DELETE, Operation::UntagResource),
    (Method::GET, Operation::ListTagsForResource),
];

/// The place of a path; `None` if it is not one of the control plane.
pub(super) fn split(path: &str) -> Option<Place<'_>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let place = |operations, labels| Some(Place { operations, labels });
    match parts[..] {
        ["runtimes"] => place(RUNTIMES, Vec::new()),
        ["runtimes", id] => place(RUNTIME, vec![("agentRuntimeId", id)]),
        ["runtimes", id, "versions"] => place(VERSIONS, vec![("agentRuntimeId", id)]),
        ["runtimes", id, "runtime-endpoints"] => place(ENDPOINTS, vec![("agentRuntimeId", id)]),
        ["runtimes", id, "runtime-endpoints", name] => place(
            ENDPOINT,
            vec![("agentRuntimeId", id), ("endpointName", name)],
        ),
        // Hand-written clients leave the slashes of an ARN unescaped.
        ["tags", _, ..] => {
            let arn = path.trim_start_matches('/').strip_prefix("tags/")?;
            place(TAGS, vec![("resourceArn", arn.trim_end_matches('/'))])
        }
        _ => None,
    }
}

/// Answers a request at a place.
pub(super) async fn dispatch(
    broker: &Arc<Broker>,
    presented: &Presented,
    place: &Place<'_>,
    request: Request,
) -> Response {
    let id = request_id(&request);
    let allowed: Vec<&str> = place
        .operations
        .iter()
        .map(|(method, _)| method.as_str())
        .collect();
    let allowed = HeaderValue::from_str(&allowed.join(", ")).ok();
    if request.method() == Method::OPTIONS {
        let mut response = StatusCode::NO_CONTENT.into_response();
        response
            .headers_mut()
            .extend(allowed.map(|allowed| (ALLOW, allowed)));
        return response;
    }
    let found = place
        .operations
        .iter()
        .find(|(method, _)| method == request.method());
    let Some((_, operation)) = found else {
        let error = ApiError::new(
            ErrorCode::MethodNotAllowed,
            format!("there is no {} here", request.method()),
        );
        let mut response = error.aws(&id);
        response
            .headers_mut()
            .extend(allowed.map(|allowed| (ALLOW, allowed)));
        return response;
    };
    // Before the work is one that goes on without its caller.
    if let Err(throttled) = turn(broker, operation.kind(), &presented.0).await {
        return throttled.aws(&id);
    }
    let work = {
        let (broker, presented) = (Arc::clone(broker), presented.clone());
        let labels: Vec<_> = place
            .labels
            .iter()
            .map(|(name, label)| (*name, (*label).to_owned()))
            .collect();
        let operation = *operation;
        async move { run(&broker, &presented, operation, &labels, request).await }
    };
    match to_the_end(work).await {
        Ok(answer) => answer.into_response(),
        Err(error) => error.aws(&id),
    }
}

/// What an operation answers.
#[derive(Debug)]
struct Answer(StatusCode, Option<Value>);

impl Answer {
    fn accepted(body: Value) -> Self {
        Self(StatusCode::ACCEPTED, Some(body))
    }

    fn ok(body: Value) -> Self {
        Self(StatusCode::OK, Some(body))
    }

    fn nothing() -> Self {
        Self(StatusCode::NO_CONTENT, None)
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let Self(status, body) = self;
        match body {
            None => status.into_response(),
            Some(body) => {
                let kind = [(CONTENT_TYPE, "application/json")];
                (status, kind, Body::from(body.to_string())).into_response()
            }
        }
    }
}

async fn run(
    broker: &Arc<Broker>,
    presented: &Presented,
    operation: Operation,
    labels: &[(&'static str, String)],
    request: Request,
) -> Result<Answer, ApiError> {
    authorize::anywhere(presented, operation.action())?;
    let mut decoded = Vec::with_capacity(labels.len());
    for (name, label) in labels {
        let label = percent_decode_str(label)
            .decode_utf8()
            .map_err(|_| ApiError::field(name, "is not UTF-8 after percent-decoding"))?;
        decoded.push((*name, label.into_owned()));
    }
    let input = Input::read(broker, presented, operation, decoded, request).await?;
    match operation {
        Operation::CreateAgentRuntime => runtime::create(broker, presented, input).await,
        Operation::UpdateAgentRuntime => runtime::update(broker, presented, input).await,
        Operation::GetAgentRuntime => runtime::get(broker, &input).await,
        Operation::DeleteAgentRuntime => runtime::delete(broker, &input).await,
        Operation::ListAgentRuntimes => runtime::list(broker, &input).await,
        Operation::ListAgentRuntimeVersions => runtime::versions(broker, &input).await,
        Operation::CreateAgentRuntimeEndpoint => endpoint::create(broker, &input).await,
        Operation::UpdateAgentRuntimeEndpoint => endpoint::update(broker, &input).await,
        Operation::GetAgentRuntimeEndpoint => endpoint::get(broker, &input).await,
        Operation::DeleteAgentRuntimeEndpoint => endpoint::delete(broker, &input).await,
        Operation::ListAgentRuntimeEndpoints => endpoint::list(broker, &input).await,
        Operation::TagResource => tags::tag(broker, &input).await,
        Operation::UntagResource => tags::untag(broker, &input).await,
        Operation::ListTagsForResource => tags::list(broker, &input).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_from_those_of_the_data_plane() {
        for (path, operations) in [
            ("/runtimes", RUNTIMES),
            ("/runtimes/", RUNTIMES),
            ("/runtimes/a-1234567890/", RUNTIME),
            ("/runtimes/a-1234567890/versions/", VERSIONS),
            ("/runtimes/a-1234567890/runtime-endpoints", ENDPOINTS),
            // An endpoint may be called as an operation of the data plane is.
            (
                "/runtimes/a-1234567890/runtime-endpoints/invocations/",
                ENDPOINT,
            ),
            ("/tags/arn%3Aaws%3Ab%2Fc", TAGS),
            ("/tags/arn:aws:b/c", TAGS),
        ] {
            assert_eq!(
                split(path).map(|place| place.operations),
                Some(operations),
                "{path}"
            );
        }
        for path in [
            "/runtimes/a/invocations",
            "/runtimes/arn:aws:b:runtime/a/invocations",
            "/runtimes/a/stopruntimesession",
            "/tags/",
            "/resourcepolicy/x",
            "/v1/runtimes",
        ] {
            assert_eq!(split(path), None, "{path}");
        }
    }

    #[test]
    fn every_operation_is_in_the_model() {
        for (_, operation) in [RUNTIMES, RUNTIME, VERSIONS, ENDPOINTS, ENDPOINT, TAGS]
            .into_iter()
            .flatten()
        {
            model::input(operation.action().name());
        }
    }
}
