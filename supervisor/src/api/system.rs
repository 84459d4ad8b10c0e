//! What the daemon says of itself: health, readiness, version, and what this host offers.

use super::openapi::Refusals;
use super::reply::ApiError;
use super::router::RequestId;
use crate::broker::Broker;
use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use proto::api::{Check, CheckState, Doctor, Info, TemplateState};
use session_core::spec::Forking;
use std::sync::Arc;

/// `GET /healthz`: the process answers.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: new sessions are taken.
pub async fn readyz(State(broker): State<Arc<Broker>>) -> Response {
    if broker.draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response()
    } else {
        "ready\n".into_response()
    }
}

/// `GET /version`.
pub async fn version() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "version": env!("CARGO_PKG_VERSION") }))
}

/// `GET /v1/info`.
#[utoipa::path(
    get,
    path = "/info",
    operation_id = "getInfo",
    summary = "The daemon",
    tag = "daemon",
    responses(
        (status = 200, body = Info, description = "Found"),
        Refusals
    )
)]
pub async fn info(State(broker): State<Arc<Broker>>) -> Json<Info> {
    Json(broker.info())
}

/// `GET /v1/doctor`.
#[utoipa::path(
    get,
    path = "/doctor",
    operation_id = "getDoctor",
    summary = "What this host offers",
    tag = "daemon",
    responses(
        (status = 200, body = Doctor, description = "Found"),
        Refusals
    )
)]
pub async fn doctor(
    State(broker): State<Arc<Broker>>,
    Extension(RequestId(id)): Extension<RequestId>,
) -> Response {
    match broker.launcher.probe().await {
        Ok(probed) => {
            let checks: Vec<Check> = probed
                .into_iter()
                .map(|(name, state, detail)| Check {
                    name,
                    state: match state {
                        0 => CheckState::On,
                        1 => CheckState::Degraded,
                        2.. => CheckState::Off,
                    },
                    detail,
                })
                .chain(own_checks(&broker))
                .collect();
            Json(Doctor { checks }).into_response()
        }
        Err(fault) => ApiError::internal(&fault).problem(&id),
    }
}

/// What the host cannot tell.
fn own_checks(broker: &Broker) -> [Check; 3] {
    let short = broker.store.short();
    let strangers = broker.strangers.get().map_or(&[][..], Vec::as_slice);
    [
        Check {
            name: "state directory".to_owned(),
            state: match short {
                None => CheckState::On,
                Some(_) => CheckState::Off,
            },
            detail: match short {
                None => "has room for new work".to_owned(),
                Some(why) => format!("{why}: no new work is taken"),
            },
        },
        Check {
            name: "leftovers".to_owned(),
            state: match strangers {
                [] => CheckState::On,
                [_, ..] => CheckState::Degraded,
            },
            detail: match strangers {
                [] => "none of earlier daemons".to_owned(),
                [_, ..] => format!(
                    "not known to be this daemon's, and left alone: {}",
                    strangers.join(", ")
                ),
            },
        },
        templates(broker),
    ]
}

/// Whether sessions that are to be forked are.
fn templates(broker: &Broker) -> Check {
    let mut ready = 0;
    let mut without = Vec::new();
    for version in broker.catalogue.all() {
        let Some(template) = broker.templates.state(&version.runtime, Some(&version)) else {
            continue;
        };
        ready += usize::from(template.state == TemplateState::Ready);
        // That of other languages nobody is to do anything about.
        if let (Some(reason), Forking::From(_)) = (template.reason, &version.spec.fork) {
            without.push(format!("{}: {reason}", version.name));
        }
    }
    Check {
        name: "templates".to_owned(),
        state: match without[..] {
            [] => CheckState::On,
            [_, ..] => CheckState::Degraded,
        },
        detail: match without[..] {
            [] => format!("{ready} that new sessions are forked from"),
            [_, ..] => format!(
                "new sessions are started, not forked: {}",
                without.join("; ")
            ),
        },
    }
}
