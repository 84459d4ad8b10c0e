//! The AWS wire: an operation by its method and path ▸ the runtime that it concerns ▸ the operation (contract §2). The
//! control plane (§3) is on the same port, in [`control`].
//!
//! `{arn}` may be an ARN escaped in any way that clients are seen to use, an id, or a plain name.

pub mod absent;
mod card;
mod closing;
mod command;
mod control;
mod event_stream;
mod headers;
mod invoke;
mod mcp;
mod path;
mod resource_metadata;
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
    if let Some(place) = control::split(&path) {
        return control::dispatch(&broker, &presented, &place, request).await;
    }
    let asked = match path::split(request.uri().path()) {
        Ok(asked) => asked,
        Err(error) => return error.aws(&id),
    };
    let allowed = asked.method.clone();
    match route(&broker, &presented, asked, request, &id).await {
        Ok(response) => response,
        Err(error) => {
            let mut response = error.aws(&id);
            if error.code == ErrorCode::MethodNotAllowed {
                let allow = HeaderValue::from_str(allowed.as_str());
                let headers = response.headers_mut();
                headers.extend(allow.ok().map(|allow| (ALLOW, allow)));
            }
            response
        }
    }
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
    asked.require(request.method())?;
    let query = Query::of(request.uri().query().unwrap_or(""))?;
    let found = resolve(broker, &asked.label, &query);
    let (head, body) = request.into_parts();
    let version = found.as_ref().map(|target| target.version.as_ref());
    let Some(action) = asked.operation.action() else {
        return resource_metadata::show(broker, found, &head);
    };
    let caller = match authorize::on_runtime(broker, presented, action, version, &head).await {
        Ok(caller) => caller,
        // Callers of an agent are told in the words of its protocol; but where a runtime takes no tokens, that would tell
        // those whom it is none of their business that there is one.
        Err(error) if asked.operation == Operation::Invoke && error.challenges() => {
            let protocol = found.map_or(Protocol::Http, |target| target.version.spec.protocol);
            return Ok(told::told(&error, protocol, None, id));
        }
        Err(error) => return Err(error),
    };
    let target = found?;
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
        Operation::Shell => shell::shell(broker, &caller, &target, &query, request).await,
        Operation::Stop => stop::stop(broker, &caller, &target, request).await,
        Operation::ResourceMetadata => {
            let (head, _) = request.into_parts();
            resource_metadata::show(broker, Ok(target), &head)
        }
    }
}
