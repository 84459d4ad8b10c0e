//! InvokeAgentRuntimeCommandShell (contract §2.7): an interactive shell in a session, new or found by its name.

use super::target::{Query, Target};
use super::websocket::with_query;
use crate::api::identify::Caller;
use crate::api::invoke;
use crate::api::reply::ApiError;
use crate::api::router::request_id;
use crate::api::session_header::{fresh_session_id, session_id, set_session};
use crate::api::shell::ShellId;
use crate::api::shell::connection::Client;
use crate::api::shell::task::{self, CLIENTS, Shell};
use crate::api::websocket::Switch;
use crate::broker::Broker;
use crate::session::handle::{Purpose, SessionKey};
use axum::extract::Request;
use axum::response::Response;
use http::HeaderValue;
use http::header::HeaderName;
use proto::code::ErrorCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// The shell's name, in the 101.
const SHELL_ID: HeaderName = HeaderName::from_static("x-amzn-bedrock-agentcore-shell-id");

/// How long a client waits for a handshake's answer, at least: whoever is to hear a refusal must still be there.
const HANDSHAKE: Duration = Duration::from_secs(5);

pub(super) async fn shell(
    broker: &Arc<Broker>,
    caller: &Caller,
    target: &Target,
    query: &Query,
    mut request: Request,
) -> Result<Response, ApiError> {
    let request_id = request_id(&request);
    let switch = Switch::of(&mut request)?;
    let headers = with_query(request.headers().clone(), request.uri().query())?;
    let session = session_id(&headers)?.unwrap_or_else(fresh_session_id);
    let owner = caller.owner(broker, &headers)?;
    let id = match &query.shell {
        None => ShellId::fresh(),
        Some(text) => ShellId::parse(text).ok_or_else(|| {
            let rule = "must be 1 to 128 letters, digits, - and _, the first one a letter or digit";
            ApiError::field("shellId", rule)
        })?,
    };
    let key = target.session(session.clone(), owner);
    let mut response = match clients(broker, &key, target, &id, &request_id).await {
        Ok(clients) => connect(broker, switch, clients, &id),
        Err(error) => error.aws(&request_id),
    };
    set_session(response.headers_mut(), &session);
    Ok(response)
}

/// Where the shell of this name takes its clients; it is started if there is none.
async fn clients(
    broker: &Arc<Broker>,
    key: &SessionKey,
    target: &Target,
    id: &ShellId,
    request_id: &str,
) -> Result<mpsc::Sender<Client>, ApiError> {
    if let Some(handle) = broker.registry.find(key)
        && let Some(clients) = broker.shells.find(&handle.id, id)?
    {
        return Ok(clients);
    }
    let config = broker.config();
    let most = config.limits.shell.per_runtime;
    let patience = config.limits.admission_wait.min(HANDSHAKE);
    // Before a session is made for nothing.
    broker.shells.wait(&key.runtime, most, patience).await?;
    let (handle, work) = invoke::obtain(broker, key, &target.version, Purpose::Process).await?;
    let place = broker.shells.reserve(&handle.id, id, &key.runtime, most)?;
    handle.log.note(&format!("shell {request_id}: {id} begins"));
    let (tell, verdict) = oneshot::channel();
    let (id, broker) = (id.clone(), Arc::clone(broker));
    let tracker = broker.open.clone();
    // A task of its own from here on: the caller may go away while the shell is being started.
    tracker.spawn(async move {
        match task::start(&work).await {
            Ok(process) => {
                let (clients, queue) = mpsc::channel(CLIENTS);
                place.runs(clients.clone());
                let _ = tell.send(Ok(clients));
                let shell = Shell {
                    id,
                    process,
                    work,
                    handle,
                    place,
                };
                task::run(broker, shell, queue).await;
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        }
    });
    verdict
        .await
        .unwrap_or_else(|_| Err(ApiError::new(ErrorCode::Internal, "the shell was given up")))
}

/// The 101, and the client on its way to the shell.
fn connect(
    broker: &Broker,
    switch: Switch,
    clients: mpsc::Sender<Client>,
    id: &ShellId,
) -> Response {
    let mut response: Response = switch.offer.accept(None);
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(SHELL_ID, value);
    }
    let Switch {
        on_upgrade, place, ..
    } = switch;
    broker.open.spawn(async move {
        if let Ok(upgraded) = on_upgrade.await {
            // A shell that has ended just now drops the connection: its client may come again.
            let _ = clients.send(Client { upgraded, place }).await;
        }
    });
    response
}
