//! The local-dev wire: `POST /invocations`, `GET /ping` and `GET /ws` go to the default runtime and pass the agent's own
//! status and body through, as `python my_agent.py` would serve them.

use super::attempts;
use super::authorize::{self, Presented};
use super::identify::Caller;
use super::intake::check_length;
use super::invoke::{AgentErrors, Answer, Call, REQUEST_ID, SESSION_ID};
use super::reply::{ApiError, ERROR_TYPE};
use super::resumable::{self, Wanted};
use super::router::request_id;
use super::session_header::{fresh_session_id, session_id, set_session};
use super::turn::turn;
use super::websocket::{Opened, Switch};
use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::config::TcpAuth;
use crate::owner::Owner;
use crate::permit::Action;
use crate::rates::Kind;
use crate::session::handle::SessionKey;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, HeaderMap};
use http::request::Parts;
use http::{StatusCode, header};
use proto::code::ErrorCode;
use proto::ids::{ClientSessionId, EndpointName};
use std::sync::Arc;

/// Headers that concern this hop, or that the relay sets itself.
pub(super) const NOT_PASSED: &[&str] = &[
    "host",
    "content-length",
    "connection",
    "keep-alive",
    "transfer-encoding",
    "upgrade",
    "te",
    "trailer",
    "expect",
    // The runtime's own to say, or to use.
    "x-amzn-bedrock-agentcore-runtime-session-id",
    "x-amzn-bedrock-agentcore-runtime-user-id",
    REQUEST_ID,
    "workloadaccesstoken",
    "x-amz-bedrock-agentcore-identity-wat",
];

/// `POST /invocations`.
pub async fn invocations(
    State(broker): State<Arc<Broker>>,
    Extension(presented): Extension<Presented>,
    request: Request,
) -> Response {
    let id = request_id(&request);
    match pass(&broker, &presented, request, &id).await {
        Ok(response) => response,
        Err(error) => error.aws(&id),
    }
}

/// `GET /ping`: what the default runtime says of itself, without starting anything: healthy if it can be called, busy if
/// one of its sessions said so.
pub async fn ping(
    State(broker): State<Arc<Broker>>,
    Extension(presented): Extension<Presented>,
    request: Request,
) -> Response {
    let id = request_id(&request);
    let head = request.into_parts().0;
    match called(&broker, &presented, Action::INVOKE, &head).await {
        Ok((version, _)) => {
            let mut busy = false;
            for session in broker.registry.of_runtime(&version.runtime) {
                let activity = session.activity().await;
                busy |= activity.is_some_and(|activity| activity.says_busy);
            }
            let status = if busy { "HealthyBusy" } else { "Healthy" };
            (
                [(header::CONTENT_TYPE, "application/json")],
                format!("{{\"status\":\"{status}\"}}"),
            )
                .into_response()
        }
        Err(error) => error.aws(&id),
    }
}

async fn pass(
    broker: &Arc<Broker>,
    presented: &Presented,
    request: Request,
    id: &str,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let (version, key, owner) = session_of(broker, presented, Action::INVOKE, &parts).await?;
    let session = key.client.clone();
    check_length(broker, &parts.headers)?;
    let call = Call {
        key,
        method: "POST".to_owned(),
        target: version.spec.path.clone(),
        headers: headers_in(
            &parts.headers,
            checks(broker, &version),
            session.as_str(),
            id,
        )?,
        port: None,
        attempt: None,
        agent_errors: AgentErrors::Passed,
        version,
    };
    match Wanted::of(parts.uri.query())? {
        Wanted::No => {}
        Wanted::Begin => {
            let principal = owner.principal.clone();
            let patience = call.version.spec.timeouts.invocation;
            let intake = attempts::begin(broker, principal, patience, body).await?;
            return resumable::begin(broker, call, owner, intake).await;
        }
        Wanted::Again(task) => {
            let runtime = call.version.runtime.clone();
            return resumable::again(broker, &runtime, &owner, &task, &parts.headers).await;
        }
    }
    let answer = attempts::answer(broker, call, body).await?;
    own_words(answer, &session)
}

/// `GET /ws`.
pub async fn websocket(
    State(broker): State<Arc<Broker>>,
    Extension(presented): Extension<Presented>,
    request: Request,
) -> Response {
    let id = request_id(&request);
    match open(&broker, &presented, request, &id).await {
        Ok(response) => response,
        Err(error) => error.aws(&id),
    }
}

async fn open(
    broker: &Arc<Broker>,
    presented: &Presented,
    mut request: Request,
    id: &str,
) -> Result<Response, ApiError> {
    let switch = Switch::of(&mut request)?;
    let (parts, _body) = request.into_parts();
    let (version, key, _owner) = session_of(broker, presented, Action::WEB_SOCKET, &parts).await?;
    let session = key.client.clone();
    let mut headers = headers_in(
        &parts.headers,
        checks(broker, &version),
        session.as_str(),
        id,
    )?;
    // These are the offer's to say.
    headers.retain(|(name, _)| !name.starts_with("sec-websocket-"));
    match switch.open(broker, &key, &version, headers).await? {
        Opened::Switched(mut response) => {
            set_session(response.headers_mut(), &session);
            Ok(response)
        }
        Opened::Answered(_handle, answer) => own_words(*answer, &session),
    }
}

/// The session that a request means, at the default runtime, and who calls, also of one that is everybody's.
async fn session_of(
    broker: &Arc<Broker>,
    presented: &Presented,
    action: Action,
    parts: &Parts,
) -> Result<(Arc<RuntimeVersion>, SessionKey, Owner), ApiError> {
    let (version, caller) = called(broker, presented, action, parts).await?;
    turn(broker, Kind::Data, &caller).await?;
    let owner = caller.owner(broker, &parts.headers)?;
    let key = SessionKey {
        runtime: version.runtime.clone(),
        endpoint: EndpointName::default_endpoint(),
        client: session_id(&parts.headers)?.unwrap_or_else(fresh_session_id),
        owner: if version.config.shared {
            Owner::everybody()
        } else {
            owner.clone()
        },
    };
    Ok((version, key, owner))
}

/// The default runtime, and who calls it.
async fn called(
    broker: &Broker,
    presented: &Presented,
    action: Action,
    parts: &Parts,
) -> Result<(Arc<RuntimeVersion>, Caller), ApiError> {
    match default_runtime(broker) {
        Ok(version) => {
            let caller = authorize::on_runtime(broker, presented, action, &version, parts).await?;
            Ok((version, caller))
        }
        Err(fault) => {
            authorize::on_absent(presented, action, None, parts)?;
            Err(fault)
        }
    }
}

/// The agent's answer as it is.
pub(super) fn own_words(answer: Answer, session: &ClientSessionId) -> Result<Response, ApiError> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(answer.status).map_err(|_| {
        ApiError::new(
            ErrorCode::AgentProtocol,
            format!("the agent answered with status {}", answer.status),
        )
    })?;
    *response.headers_mut() = answer.headers;
    // Marks errors of ours; an agent must not forge one.
    response.headers_mut().remove(ERROR_TYPE);
    set_session(response.headers_mut(), session);
    *response.body_mut() = answer.body.into();
    Ok(response)
}

/// The only runtime, else the configured one, else a conflict that lists the names.
fn default_runtime(broker: &Broker) -> Result<Arc<RuntimeVersion>, ApiError> {
    let mut all = broker.catalogue.all();
    match all.len() {
        1 => Ok(all.remove(0)),
        0 => Err(ApiError::not_found(
            "no runtime is deployed; `agentcore launch` deploys one",
        )),
        _ if broker.config().default_runtime.is_some() => {
            let name = broker.config().default_runtime.clone();
            name.and_then(|name| broker.catalogue.by_name(&name)?.default)
                .ok_or_else(|| ApiError::not_found("default_runtime is not deployed"))
        }
        _ => {
            let names: Vec<&str> = all.iter().map(|version| version.name.as_str()).collect();
            Err(ApiError::new(
                ErrorCode::Conflict,
                format!(
                    "several runtimes are deployed ({}); set default_runtime, or call /runtimes/<name>/invocations",
                    names.join(", ")
                ),
            ))
        }
    }
}

/// Whether credentials of a caller of this runtime are ours to check.
pub(super) fn checks(broker: &Broker, version: &RuntimeVersion) -> bool {
    matches!(broker.config().auth, TcpAuth::Checked(_)) || version.config.authorizer.is_some()
}

fn headers_in(
    headers: &HeaderMap,
    checked: bool,
    session: &str,
    id: &str,
) -> Result<Vec<(String, String)>, ApiError> {
    let mut passed = Vec::with_capacity(headers.len() + 2);
    for (name, value) in headers {
        // Where it is ours to check, an agent could call others with it.
        let credentials = *name == AUTHORIZATION && checked;
        let kept_here = NOT_PASSED.contains(&name.as_str());
        if credentials || kept_here || name.as_str().starts_with("proxy-") {
            continue;
        }
        let value = value
            .to_str()
            .map_err(|_| ApiError::field(name.as_str(), "must be visible ASCII"))?;
        passed.push((name.as_str().to_owned(), value.to_owned()));
    }
    passed.push((SESSION_ID.as_str().to_owned(), session.to_owned()));
    passed.push((REQUEST_ID.to_owned(), id.to_owned()));
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn credentials_that_are_ours_to_check_do_not_reach_the_agent() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        headers.insert("x-own", HeaderValue::from_static("y"));
        let names = |checked| {
            let passed = headers_in(&headers, checked, "session", "id").expect("headers");
            passed.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        let checked = names(true);
        assert!(checked.iter().any(|name| name == "x-own"));
        assert!(!checked.iter().any(|name| name == "authorization"));
        // As `python my_agent.py` would see it.
        assert!(names(false).iter().any(|name| name == "authorization"));
    }
}
