//! `GET /v1/audit`: who was turned away and why, the newest first.

use super::input::Query;
use super::openapi::Refusals;
use super::router::RequestId;
use super::runtimes::{Paging, respond};
use crate::broker::Broker;
use crate::store::AuditRow;
use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use proto::api::{AuditRecord, Page};
use std::sync::Arc;

/// The route.
#[utoipa::path(
    get,
    path = "/audit",
    operation_id = "listRefusals",
    summary = "Who was turned away, and why",
    tag = "audit",
    params(Paging),
    responses(
        (status = 200, body = Page<AuditRecord>, description = "Found"),
        Refusals
    )
)]
pub async fn list(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Query(paging): Query<Paging>,
) -> Response {
    let result = async {
        let page = broker.store.refusals(paging.request()?).await?;
        Ok(Json(page.map(view)).into_response())
    };
    respond(result.await, &id)
}

fn view(row: AuditRow) -> AuditRecord {
    let refusal = row.refusal;
    AuditRecord {
        at: row.at.to_string(),
        request_id: refusal.request_id,
        status: refusal.status,
        code: refusal.code,
        reason: refusal.reason,
        caller: refusal.caller,
        peer: refusal.peer,
        method: refusal.method,
        path: refusal.path,
    }
}
