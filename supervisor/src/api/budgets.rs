//! `/v1/budgets`: which are used up, and that they may go on.

use super::input::Query;
use super::openapi::Refusals;
use super::reply::ApiError;
use super::router::RequestId;
use super::runtimes::respond;
use crate::broker::Broker;
use crate::ledger::budgets::{Holder, Scope};
use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use proto::api::{BudgetState, Page};
use proto::code::ErrorCode;
use proto::ids::RuntimeName;
use serde::Deserialize;
use session_core::budget::Reached;
use std::sync::Arc;
use utoipa::IntoParams;

/// Longest key: an owner's, whom an issuer may have named at length.
const MAX_KEY: usize = 16 * 1024;

/// Which budget.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// `session`, `user` or `runtime`.
    #[param(required = true, pattern = "^(session|user|runtime)$")]
    scope: Option<String>,
    /// As the list tells it.
    #[param(required = true)]
    key: Option<String>,
    /// Only the one of this runtime's own configuration.
    runtime: Option<String>,
}

impl Which {
    fn named(self) -> Result<(Scope, String, Option<RuntimeName>), ApiError> {
        let scope = self.scope.as_deref().and_then(Scope::of);
        let scope =
            scope.ok_or_else(|| ApiError::field("scope", "must be session, user or runtime"))?;
        let key = self.key.filter(|key| (1..=MAX_KEY).contains(&key.len()));
        let rule = format!("must have 1 to {MAX_KEY} bytes");
        let key = key.ok_or_else(|| ApiError::field("key", rule))?;
        let runtime = self.runtime.map(RuntimeName::parse).transpose();
        let runtime = runtime.map_err(|error| ApiError::field("runtime", error.to_string()))?;
        Ok((scope, key, runtime))
    }
}

/// `GET /v1/budgets`.
#[utoipa::path(
    get,
    path = "/budgets",
    operation_id = "listBudgets",
    summary = "Budgets that are used up; their sessions are frozen",
    tag = "budgets",
    responses(
        (status = 200, body = Page<BudgetState>, description = "Found, all of them at once"),
        Refusals
    )
)]
pub async fn list(State(broker): State<Arc<Broker>>) -> Response {
    let all = broker.ledger.budgets().used_up().into_iter();
    let items = all.map(|(holder, reached, times)| view(holder, reached, times));
    Json(Page {
        items: items.collect(),
        next_token: None,
    })
    .into_response()
}

/// `POST /v1/budgets/approve`.
#[utoipa::path(
    post,
    path = "/budgets/approve",
    operation_id = "approveBudget",
    summary = "Adds the same amount to a budget that is used up; its sessions run again",
    tag = "budgets",
    params(Which),
    responses(
        (status = 204, description = "Approved; its sessions run again within a second, unless something else holds them"),
        Refusals
    )
)]
pub async fn approve(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Query(which): Query<Which>,
) -> Response {
    let result = async {
        let (scope, key, runtime) = which.named()?;
        if !broker.ledger.approve(scope, &key, runtime.as_ref()).await? {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!(
                    "the budget of {scope} {key} is not used up; `agentcore budget list` shows those that are"
                ),
            ));
        }
        Ok(http::StatusCode::NO_CONTENT.into_response())
    };
    respond(result.await, &id)
}

fn view(holder: Holder, reached: Reached, approvals: u32) -> BudgetState {
    BudgetState {
        scope: holder.scope.word().to_owned(),
        key: holder.key,
        runtime: holder.set_by,
        per: reached.per,
        measure: reached.measure.to_owned(),
        limit: reached.limit,
        used: reached.used,
        approvals,
    }
}
