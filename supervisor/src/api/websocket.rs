//! A WebSocket to an agent, whatever wire it came by: the caller's offer ▸ the session ▸ the agent's answer ▸ both connected.
//!
//! It is one invocation of its session for as long as it is open, so the session is not idle. What comes before the 101 is
//! answered as HTTP; afterwards [`crate::websocket`] has it.

use super::invoke::{self, Answer, too_late};
use super::listener::Place;
use super::reply::ApiError;
use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::relay::exchange::Exchange;
use crate::relay::upgrade::{self, Upgrade};
use crate::session::handle::{Purpose, SessionHandle, SessionKey, Work};
use crate::websocket::close::{Close, CloseCode};
use crate::websocket::handshake::Offer;
use crate::websocket::tunnel::{self, tunnel};
use axum::extract::Request;
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use proto::api::EndReason;
use proto::code::ErrorCode;
use proto::ids::InvocationId;
use proto::shim::Invoke;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::io::{InspectReader, InspectWriter};

/// Where an agent serves it (contract §1.1).
const PATH: &str = "/ws";

/// How long to wait for the end of a session whose agent has closed its connection: if it comes, it is the reason.
const REASON_PATIENCE: Duration = Duration::from_millis(500);

/// A request that offers the switch.
#[derive(Debug)]
pub(super) struct Switch {
    /// What it offers.
    pub(super) offer: Offer,
    /// Its connection, after the 101.
    pub(super) on_upgrade: OnUpgrade,
    /// The connection is counted as one as long as it lasts.
    pub(super) place: Option<Place>,
}

/// Where in a session it is offered.
#[derive(Debug)]
pub(super) struct Door {
    /// Another port than the agent's own.
    pub(super) port: Option<u16>,
    /// Path and query.
    pub(super) target: String,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Opened {
    /// The 101.
    Switched(Response),
    /// The agent answered otherwise.
    Answered(Arc<SessionHandle>, Box<Answer>),
}

impl Switch {
    /// Takes it from a request; an error if it offers no WebSocket.
    pub(super) fn of(request: &mut Request) -> Result<Self, ApiError> {
        let on_upgrade = hyper::upgrade::on(&mut *request);
        let place = request.extensions().get::<Place>().cloned();
        let (parts, body) = std::mem::take(request).into_parts();
        let offer = Offer::read(&parts);
        *request = Request::from_parts(parts, body);
        Ok(Self {
            offer: offer?,
            on_upgrade,
            place,
        })
    }

    /// Offers it to the agent of a session, which is made if need be, with `headers` beside the offer's own.
    pub(super) async fn open(
        self,
        broker: &Arc<Broker>,
        key: &SessionKey,
        version: &Arc<RuntimeVersion>,
        headers: Vec<(String, String)>,
    ) -> Result<Opened, ApiError> {
        let (handle, work) = invoke::obtain(broker, key, version, Purpose::Exchange).await?;
        let door = Door {
            port: None,
            target: PATH.to_owned(),
        };
        self.knock(broker, handle, work, door, headers).await
    }

    /// As [`Switch::open`], at a door of a session that is held by `work`.
    pub(super) async fn knock(
        self,
        broker: &Arc<Broker>,
        handle: Arc<SessionHandle>,
        work: Work,
        door: Door,
        mut headers: Vec<(String, String)>,
    ) -> Result<Opened, ApiError> {
        headers.extend(self.offer.headers());
        let request = Invoke {
            id: InvocationId(0),
            method: "GET".to_owned(),
            target: door.target,
            headers,
            content_length: None,
            port: door.port,
            keep: None,
        };
        let patience = handle.version.spec.timeouts.invocation;
        let deadline = Instant::now() + patience;
        let asked = upgrade::upgrade(&work.link, request);
        let upgrade = match tokio::time::timeout_at(deadline, asked).await {
            Ok(Ok(upgrade)) => upgrade,
            Ok(Err(error)) => return Err(invoke::relay_failure(&handle, &error).await),
            Err(_elapsed) => return Err(too_late(&handle, patience)),
        };
        let Upgrade {
            head,
            from_agent,
            to_agent,
        } = upgrade;
        if head.status != 101 {
            let body = from_agent;
            let exchange = Exchange { head, body };
            let answer = invoke::assemble(broker, &handle, work, exchange, deadline)?;
            return Ok(Opened::Answered(handle, Box::new(answer)));
        }
        let protocol = self.offer.agreed(&head.headers).map_err(|why| {
            let text = format!("the agent answered the WebSocket handshake wrongly: {why}");
            ApiError::new(ErrorCode::AgentProtocol, text)
        })?;
        let response = self.offer.accept(protocol);
        let bounds = broker.config().limits.websocket;
        let told = stopping(Arc::clone(broker));
        let (on_upgrade, place) = (self.on_upgrade, self.place);
        let (came, went) = (work.charge(), work.charge());
        broker.open.spawn(async move {
            // A caller that does not take the upgrade leaves halves that are dropped, which cancels the exchange.
            if let Ok(upgraded) = on_upgrade.await {
                let (from_caller, to_caller) = tokio::io::split(TokioIo::new(upgraded));
                let from_caller = InspectReader::new(from_caller, |bytes: &[u8]| {
                    came.iter().for_each(|charge| charge.came(bytes.len()));
                });
                let to_caller = InspectWriter::new(to_caller, |bytes: &[u8]| {
                    went.iter().for_each(|charge| charge.went(bytes.len()));
                });
                let caller = (tunnel::Caller(from_caller), tunnel::Caller(to_caller));
                let agent = (from_agent, to_agent);
                tunnel(caller, agent, bounds, told, agent_gone(&handle)).await;
            }
            drop((work, place));
        });
        Ok(Opened::Switched(response))
    }
}

/// What every open connection is told by a daemon that stops.
pub(super) async fn stopping(broker: Arc<Broker>) -> Close {
    broker.stopping().await;
    Close::new(
        CloseCode::GoingAway,
        "the daemon is stopping; connect again",
    )
}

/// Why an agent has closed its connection without a word.
async fn agent_gone(handle: &SessionHandle) -> Close {
    match tokio::time::timeout(REASON_PATIENCE, handle.ending()).await {
        Ok(Some(end)) => Close::new(
            code_of(end.reason),
            format!("the session ended: {}", end.detail),
        ),
        Ok(None) | Err(_) => Close::new(CloseCode::Error, "the agent closed the connection"),
    }
}

/// A session that was to end goes away; another one has failed.
pub(super) fn code_of(reason: EndReason) -> CloseCode {
    match reason {
        EndReason::Stopped
        | EndReason::Idle
        | EndReason::Evicted
        | EndReason::MaxLifetime
        | EndReason::DaemonStopped
        | EndReason::DaemonLost => CloseCode::GoingAway,
        EndReason::Unhealthy
        | EndReason::OutOfMemory
        | EndReason::AgentExited
        | EndReason::ShimDied
        | EndReason::Protocol
        | EndReason::StartTimeout
        | EndReason::LaunchFailed => CloseCode::Error,
    }
}
