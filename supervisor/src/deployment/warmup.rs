//! The warm-up call (contract §1.11): one POST to the new version's agent, in a session that is thrown away, before anybody
//! else's call reaches that version. Here it shows that the version works at all; nothing of its session is kept.

use crate::api::intake::Intake;
use crate::api::invoke::{self, AgentErrors, Call};
use crate::api::session_header::fresh_session_id;
use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::owner::{Owner, Principal};
use crate::session::handle::{Purpose, SessionKey};
use proto::api::EndReason;
use proto::ids::EndpointName;
use std::sync::Arc;
use std::time::Duration;

/// How long it may take, the start of the session included (contract §1.11).
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes the call; the reason if it did not succeed.
pub(super) async fn run(broker: &Arc<Broker>, version: Arc<RuntimeVersion>) -> Result<(), String> {
    let path = version.spec.warmup.clone().unwrap_or_default();
    let call = Call {
        key: SessionKey {
            runtime: version.runtime.clone(),
            endpoint: EndpointName::default_endpoint(),
            client: fresh_session_id(),
            owner: Owner {
                principal: Principal::daemon(),
                user: None,
            },
        },
        method: "POST".to_owned(),
        target: path.clone(),
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        port: None,
        attempt: None,
        agent_errors: AgentErrors::Passed,
        version,
    };
    let called = tokio::time::timeout(PATIENCE, post(broker, &call)).await;
    if let Some(handle) = broker.registry.find(&call.key) {
        handle.stop(EndReason::Stopped).await;
        handle.over().await;
    }
    match called {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => Err(format!("the warm-up call POST {path} failed: {reason}")),
        Err(_) => Err(format!(
            "the warm-up call POST {path} was not answered within {} s",
            PATIENCE.as_secs()
        )),
    }
}

async fn post(broker: &Arc<Broker>, call: &Call) -> Result<(), String> {
    let intake = Intake::empty();
    let (handle, work) = invoke::obtain(broker, &call.key, &call.version, Purpose::Exchange)
        .await
        .map_err(|error| error.message)?;
    let answer = invoke::relay(broker, &handle, work, call, intake)
        .await
        .map_err(|error| error.message)?;
    if (200..300).contains(&answer.status) {
        return Ok(());
    }
    Err(invoke::agent_error(&handle, answer).await.message)
}
