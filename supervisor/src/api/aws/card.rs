//! GetAgentCard (contract §2.5): the agent's own description of itself, from an A2A agent only.

use super::headers::{echoed, headers_in, headers_out};
use super::target::Target;
use crate::api::attempts;
use crate::api::identify::Caller;
use crate::api::intake::Intake;
use crate::api::invoke::{AgentErrors, Call};
use crate::api::reply::ApiError;
use crate::api::router::request_id;
use crate::api::session_header::{fresh_session_id, session_id, set_session};
use crate::broker::Broker;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use proto::config::Protocol;
use std::sync::Arc;

/// Where an A2A agent has it (contract §1.7).
const PATH: &str = "/.well-known/agent-card.json";

pub(super) async fn card(
    broker: &Arc<Broker>,
    caller: &Caller,
    target: Target,
    request: Request,
) -> Result<Response, ApiError> {
    let request_id = request_id(&request);
    let (parts, _body) = request.into_parts();
    let protocol = target.version.spec.protocol;
    if protocol != Protocol::A2a {
        return Err(ApiError::field(
            "agentRuntimeArn",
            format!(
                "names {}, which does not speak A2A: it has no agent card",
                target.version.name
            ),
        ));
    }
    let session = session_id(&parts.headers)?.unwrap_or_else(fresh_session_id);
    let owner = caller.owner(broker, &parts.headers)?;
    let call = Call {
        key: target.session(session.clone(), owner),
        method: "GET".to_owned(),
        target: PATH.to_owned(),
        headers: headers_in(&parts.headers, &target.version, &session, &request_id)?,
        // Asking twice is as good as asking once.
        port: None,
        attempt: None,
        agent_errors: AgentErrors::Explained,
        version: target.version,
    };
    let trace = echoed(&call.headers);
    let mut response = match attempts::answer_to(broker, call, Intake::empty()).await {
        Ok(answer) => {
            let mut response = Response::new(Body::empty());
            *response.headers_mut() = headers_out(&answer.headers, trace);
            *response.body_mut() = answer.body.into();
            response
        }
        Err(error) => error.aws(&request_id),
    };
    set_session(response.headers_mut(), &session);
    Ok(response)
}
