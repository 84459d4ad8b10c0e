//! Session endpoints (contract §2.8): any HTTP request, or a WebSocket, to a port of a live session, for callers of the
//! session. A proxy: what the server behind the port says is the answer, its status and its body included.
//!
//! ```text
//!  address ▸ may the caller (InvokeAgentRuntimeProxy) ▸ its live session ▸ a port that it offers ▸ work ▸ relay
//! ```
//!
//! It never starts a session: only an invocation does. Each request is work of its session, so the session is not idle
//! meanwhile, but it takes no turn (`concurrency`): it is not an invocation of the agent.
//!
//! An answer with `x-amzn-ErrorType` is this daemon's, one without is the server's.

mod address;
mod passing;

pub(super) use address::Address;

use super::target::{Query, Target, resolve};
use crate::api::attempts;
use crate::api::authorize::{self, Presented};
use crate::api::identify::Caller;
use crate::api::intake::check_length;
use crate::api::invoke::{self, AgentErrors, Call};
use crate::api::local::own_words;
use crate::api::obtain::not_begun;
use crate::api::reply::{ApiError, ERROR_TYPE};
use crate::api::router::request_id;
use crate::api::session_header::set_session;
use crate::api::turn::turn;
use crate::api::websocket::{Door, Opened, Switch};
use crate::broker::Broker;
use crate::config::TcpAuth;
use crate::permit::Action;
use crate::rates::Kind;
use crate::session::handle::{NoTurn, Purpose, SessionHandle, SessionKey, Unusable, Work};
use axum::extract::Request;
use axum::response::Response;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use proto::code::ErrorCode;
use proto::ids::ClientSessionId;
use std::sync::Arc;

/// Tells a caller of the agent where its session's ports are (contract §2.2).
const ENDPOINT_URL: HeaderName =
    HeaderName::from_static("x-amzn-bedrock-agentcore-runtime-session-endpoint-url");

/// On every answer: what a browser shows of it is nobody's page. At the daemon's own address a session's page would be
/// of the daemon's origin, and could ask for whatever the person before it may (`--dev`: everything).
const NOBODYS_PAGE: HeaderValue = HeaderValue::from_static(
    "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts",
);

/// Puts the address of a session's ports on the answer to its caller, if the session is there and offers any.
pub(super) fn announce(
    broker: &Broker,
    caller: &Caller,
    key: &SessionKey,
    headers: &mut HeaderMap,
) {
    let Some(handle) = broker.registry.find(key) else {
        return;
    };
    if handle.version.spec.wire.ports.is_empty() || handle.view().end.is_some() {
        return;
    }
    let config = broker.config();
    let base = match caller {
        // Over TCP it would be somebody else: it is told the path alone, for the socket that it came by.
        Caller::User(_) if config.auth != TcpAuth::None => None,
        Caller::User(_)
        | Caller::Loopback
        | Caller::Key(_)
        | Caller::Token(_)
        | Caller::Stranger => broker.url(&config),
    };
    let url = address::url(base.as_deref(), &handle.version.name, key);
    headers.extend(
        HeaderValue::try_from(url)
            .ok()
            .map(|url| (ENDPOINT_URL, url)),
    );
}

/// Answers a request to an address of a session.
pub(super) async fn serve(
    broker: &Arc<Broker>,
    presented: &Presented,
    address: Address,
    request: Request,
) -> Response {
    let id = request_id(&request);
    match pass(broker, presented, address, request, &id).await {
        Ok(response) => response,
        Err(error) => told(&error, &id),
    }
}

/// Who is turned away gets a name and no body (contract §2.8); everything else is told as everywhere.
fn told(error: &ApiError, id: &str) -> Response {
    let Some(name) = error.code.session_endpoint() else {
        return error.aws(id);
    };
    let status = error.status().as_u16();
    let mut response = error.answer(id, status, "text/plain", String::new());
    let headers = response.headers_mut();
    headers.remove(CONTENT_TYPE);
    headers.insert(ERROR_TYPE, HeaderValue::from_static(name));
    response
}

async fn pass(
    broker: &Arc<Broker>,
    presented: &Presented,
    address: Address,
    request: Request,
    id: &str,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let query = Ok(Query::of_endpoint(address.endpoint));
    let meant = resolve(broker, &address.label, &query);
    let permitted = match meant.version() {
        Some(version) => {
            authorize::on_runtime(broker, presented, Action::PROXY, version, &head).await
        }
        None => authorize::on_absent(presented, Action::PROXY, meant.name().as_ref(), &head),
    };
    let (caller, target) = match (permitted, meant.target) {
        // What breaks a rule would break it anywhere, so everybody is told the same of that.
        (Err(_), Err(fault)) if super::breaks_a_rule(&fault) => return Err(fault),
        (permitted, target) => (permitted?, target?),
    };
    turn(broker, Kind::Data, &caller).await?;
    let client = ClientSessionId::parse(address.session)
        .map_err(|error| ApiError::field("runtimeSessionId", error.to_string()))?;
    let owner = caller.owner(broker, &head.headers)?;
    let principal = owner.principal.clone();
    let key = target.session(client, owner);
    let handle = live(broker, &target, &key)?;
    let port = offered(&handle, address.port)?;
    let headers = passing::headers_in(broker, &handle, &target.version, &head, id)?;
    passing::fits(&head.method, &address.target, &headers)?;
    let mut request = Request::from_parts(head, body);
    let answer = if passing::offers_websocket(&request) {
        let switch = Switch::of(&mut request)?;
        let work = begin(broker, &handle).await?;
        let door = Door {
            port: Some(port),
            target: address.target,
        };
        let handle = Arc::clone(&handle);
        match switch.knock(broker, handle, work, door, headers).await {
            Ok(Opened::Switched(mut response)) => {
                set_session(response.headers_mut(), &key.client);
                return Ok(response);
            }
            Ok(Opened::Answered(_handle, answer)) => Ok(*answer),
            Err(error) => Err(error),
        }
    } else {
        check_length(broker, request.headers())?;
        let (head, body) = request.into_parts();
        let patience = handle.version.spec.timeouts.invocation;
        let intake = attempts::begin(broker, principal, patience, body).await?;
        let work = begin(broker, &handle).await?;
        let call = Call {
            key: key.clone(),
            version: Arc::clone(&handle.version),
            method: head.method.as_str().to_owned(),
            target: address.target,
            headers,
            port: Some(port),
            // These are not an SDK's.
            attempt: None,
            agent_errors: AgentErrors::Passed,
        };
        invoke::relay(broker, &handle, work, &call, intake).await
    };
    let answer = answer.map_err(|error| at_port(error, port))?;
    let mut response = own_words(answer, &key.client)?;
    let headers = response.headers_mut();
    headers.append(CONTENT_SECURITY_POLICY, NOBODYS_PAGE);
    Ok(response)
}

/// The caller's session, which must be there: an address of it starts nothing.
fn live(
    broker: &Broker,
    target: &Target,
    key: &SessionKey,
) -> Result<Arc<SessionHandle>, ApiError> {
    let found = broker.registry.find(key);
    found
        .filter(|handle| handle.view().end.is_none())
        .ok_or_else(|| {
            ApiError::not_found(format!(
                "runtime {} has no live session {}; an invocation starts one",
                target.version.name, key.client
            ))
        })
}

/// The port, if the version that the session runs offers it.
fn offered(handle: &SessionHandle, port: u16) -> Result<u16, ApiError> {
    if handle.version.spec.wire.offers(port) {
        return Ok(port);
    }
    let reason = format!(
        "port {port} is not among the allowed ports of runtime {}, version {}",
        handle.version.name, handle.version.number
    );
    Err(ApiError::refused(
        ErrorCode::AccessDenied,
        reason.clone(),
        reason,
    ))
}

/// Begins work on a session that is there, or was a moment ago.
async fn begin(broker: &Broker, handle: &SessionHandle) -> Result<Work, ApiError> {
    let config = broker.config();
    let begun = handle.begin(Purpose::Exchange, &config.limits).await;
    begun.map_err(|why| match &why {
        NoTurn::Unusable(Unusable::Failed(_) | Unusable::Ending) => {
            ApiError::not_found(format!("session {} is not live: {why}", handle.key.client))
        }
        NoTurn::Busy | NoTurn::Unusable(Unusable::Full(_) | Unusable::Frozen(_)) => not_begun(&why),
    })
}

/// A failure of the exchange, as what it is here.
fn at_port(mut error: ApiError, port: u16) -> ApiError {
    if error.code == ErrorCode::AgentUnreachable {
        error.message = format!(
            "nothing listens on port {port} of the session: it is looked for at 127.0.0.1 and [::1] in there"
        );
    }
    error
}
