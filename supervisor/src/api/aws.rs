//! The AWS wire: an operation by its method and path ▸ the runtime that it concerns ▸ the operation (contract §2). The
//! control plane (§3) is on the same port, in [`control`].
//!
//! `{arn}` may be an ARN escaped in any way that clients are seen to use, an id, or a plain name.

pub mod absent;
mod card;
mod closing;
mod command;
mod control;
pub mod event_stream;
pub(super) mod headers;
mod invoke;
mod mcp;
mod path;
mod resource_metadata;
mod session_endpoint;
mod shell;
mod stop;
mod target;
mod told;
mod trace;
mod websocket;

use super::authorize::{self, Presented};
use super::reply::ApiError;
use super::router::request_id;
use super::turn::turn;
use crate::broker::Broker;
use crate::rates::Kind;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, HeaderValue};
use http::{Method, StatusCode};
use path::{Asked, Operation};
use proto::code::ErrorCode;
use proto::config::Protocol;
use std::sync::Arc;
use target::{Query, resolve};

/// Everything at the paths of this wire.
pub async fn dispatch(
    State(broker): State<Arc<Broker>>,
    Extension(presented): Extension<Presented>,
    request: Request,
) -> Response {
    let id = request_id(&request);
    let path = request.uri().path().to_owned();
    // Before all others: what comes after its port is not this wire's, whatever it looks like.
    if let Some(address) = session_endpoint::Address::of(request.uri()) {
        return session_endpoint::serve(&broker, &presented, address, request).await;
    }
    if let Some(place) = control::split(&path) {
        return control::dispatch(&broker, &presented, &place, request).await;
    }
    let asked = match path::split(request.uri().path()) {
        Ok(asked) => asked,
        Err(error) => return error.aws(&id),
    };
    let allow = HeaderValue::from_str(asked.method.as_str()).ok();
    let mut response = match route(&broker, &presented, asked, request, &id).await {
        Ok(response) => response,
        Err(error) => error.aws(&id),
    };
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response
            .headers_mut()
            .extend(allow.map(|allow| (ALLOW, allow)));
    }
    response
}

async fn route(
    broker: &Arc<Broker>,
    presented: &Presented,
    asked: Asked,
    request: Request,
    id: &str,
) -> Result<Response, ApiError> {
    if request.method() == Method::OPTIONS {
        let allow = [(ALLOW, asked.method.as_str())];
        return Ok((StatusCode::NO_CONTENT, allow).into_response());
    }
    let query = Query::of(request.uri().query().unwrap_or(""));
    let meant = resolve(broker, &asked.label, &query);
    let (head, body) = request.into_parts();
    let sound = asked.require(&head.method);
    let Some(action) = asked.operation.action() else {
        sound?;
        query?;
        return resource_metadata::show(broker, meant.target, &head);
    };
    let permitted = match meant.version() {
        Some(version) => authorize::on_runtime(broker, presented, action, version, &head).await,
        None => authorize::on_absent(presented, action, meant.name().as_ref(), &head),
    };
    // Callers of an agent are told in the words of its protocol, but only those who may know that it is there.
    let protocol = match asked.operation {
        Operation::Invoke => meant.protocol(),
        Operation::Command
        | Operation::Card
        | Operation::WebSocket
        | Operation::Shell
        | Operation::Stop
        | Operation::ResourceMetadata => Protocol::Http,
    };
    let found = sound.and(meant.target);
    let caller = match (permitted, &found) {
        (Ok(caller), _) => caller,
        // What breaks a rule would break it anywhere, so everybody is told the same of that.
        (Err(_), Err(fault)) if breaks_a_rule(fault) => return Err(fault.clone()),
        (Err(refusal), _) if refusal.is_to_insider() => {
            return Ok(told::told(&refusal, protocol, None, id));
        }
        (Err(refusal), _) => return Err(refusal),
    };
    let target = match found {
        Ok(target) => target,
        Err(fault) => return Ok(invoke::refused(broker, &caller, &fault, protocol, body, id).await),
    };
    // An invocation takes its turn where its refusal can be told in the words of the agent's protocol.
    if asked.operation != Operation::Invoke {
        turn(broker, Kind::Data, &caller).await?;
    }
    let request = Request::from_parts(head, body);
    match asked.operation {
        Operation::Invoke => invoke::invoke(broker, &caller, target, request).await,
        Operation::Command => command::command(broker, &caller, &target, request).await,
        Operation::Card => card::card(broker, &caller, target, request).await,
        Operation::WebSocket => websocket::websocket(broker, &caller, target, request).await,
        Operation::Shell => shell::shell(broker, &caller, &target, &query?, request).await,
        Operation::Stop => stop::stop(broker, &caller, &target, request).await,
        Operation::ResourceMetadata => {
            let (head, _) = request.into_parts();
            resource_metadata::show(broker, Ok(target), &head)
        }
    }
}

const fn breaks_a_rule(fault: &ApiError) -> bool {
    matches!(
        fault.code,
        ErrorCode::Validation | ErrorCode::MethodNotAllowed
    )
}
