//! `POST /v1/sessions/{id}/freeze` and `…/thaw`: an operator stops all of a session where it is, and lets it go on.
//!
//! Both say the same when they are said twice. What a frozen session answers to its callers is `obtain`'s.

use super::input::{Path, Query};
use super::openapi::Refusals;
use super::reply::ApiError;
use super::router::RequestId;
use super::runtimes::{respond, runtime_param};
use super::sessions::{find, live};
use crate::broker::Broker;
use crate::session::handle::{NotFrozen, NotThawed};
use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use proto::api::{FreezeCause, Session};
use proto::code::ErrorCode;
use proto::ids::RuntimeName;
use serde::Deserialize;
use session_core::lifecycle::freeze::{NoFreeze, NoThaw};
use std::sync::Arc;
use utoipa::IntoParams;

/// Most characters of a reason.
const MAX_REASON: usize = 256;

/// Query of the freeze.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Freeze {
    /// The one of this runtime.
    #[param(value_type = Option<RuntimeName>)]
    runtime: Option<String>,
    /// Told to whoever calls the session meanwhile.
    #[param(max_length = 256)]
    reason: Option<String>,
}

/// Query of the thaw.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Thaw {
    /// The one of this runtime.
    #[param(value_type = Option<RuntimeName>)]
    runtime: Option<String>,
}

/// `POST /v1/sessions/{id}/freeze`.
#[utoipa::path(
    post,
    path = "/sessions/{id}/freeze",
    operation_id = "freezeSession",
    summary = "Stops every process of a session where it is, until it is thawed",
    tag = "sessions",
    params(("id" = String, Path, description = "Ours, or the caller's"), Freeze),
    responses(
        (status = 200, body = Session, description = "It is frozen"),
        Refusals
    )
)]
pub async fn freeze(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(session): Path<String>,
    Query(query): Query<Freeze>,
) -> Response {
    let result = async {
        let runtime = query.runtime.as_deref().map(runtime_param).transpose()?;
        let reason = query.reason.as_deref().map(reason).transpose()?;
        let handle = live(&broker, &session, runtime.as_ref())?;
        let frozen = handle.freeze(FreezeCause::Operator, reason).await;
        frozen.map_err(not_frozen)?;
        Ok(Json(find(&broker, handle.id.as_str(), None).await?).into_response())
    };
    respond(result.await, &id)
}

/// `POST /v1/sessions/{id}/thaw`.
#[utoipa::path(
    post,
    path = "/sessions/{id}/thaw",
    operation_id = "thawSession",
    summary = "Lets a frozen session go on",
    tag = "sessions",
    params(("id" = String, Path, description = "Ours, or the caller's"), Thaw),
    responses(
        (status = 200, body = Session, description = "It runs, unless a budget holds it too"),
        Refusals
    )
)]
pub async fn thaw(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(session): Path<String>,
    Query(query): Query<Thaw>,
) -> Response {
    let result = async {
        let runtime = query.runtime.as_deref().map(runtime_param).transpose()?;
        let handle = live(&broker, &session, runtime.as_ref())?;
        let thawed = handle.thaw(FreezeCause::Operator).await;
        thawed.map_err(|why| match &why {
            NotThawed::Refused(NoThaw::Held(_) | NoThaw::Ending) => {
                ApiError::new(ErrorCode::Conflict, why.to_string())
            }
        })?;
        Ok(Json(find(&broker, handle.id.as_str(), None).await?).into_response())
    };
    respond(result.await, &id)
}

fn reason(text: &str) -> Result<String, ApiError> {
    if text.chars().count() > MAX_REASON || text.chars().any(char::is_control) {
        return Err(ApiError::field(
            "reason",
            format!("must be at most {MAX_REASON} characters on one line"),
        ));
    }
    Ok(text.to_owned())
}

fn not_frozen(why: NotFrozen) -> ApiError {
    let code = match &why {
        NotFrozen::Refused(NoFreeze::NotReady) | NotFrozen::Failed(_) => {
            ErrorCode::RetryableConflict
        }
        NotFrozen::Refused(NoFreeze::Working | NoFreeze::Ending) => ErrorCode::Conflict,
    };
    ApiError::new(code, why.to_string())
}
