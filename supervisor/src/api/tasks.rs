//! `/v1/tasks` and `/v1/runtimes/{name}/tasks`: submit, list, inspect, cancel; the answer ([`result`]) and the events.

mod events;
pub mod numbered;
pub mod result;
mod submit;

pub use events::*;
pub use result::*;
pub use submit::*;

use super::input::{Path, Query};
use super::openapi::Refusals;
use super::reply::ApiError;
use super::router::RequestId;
use super::runtimes::{Paging, respond, runtime_param};
use super::to_the_end::to_the_end;
use crate::broker::Broker;
use crate::store::TaskFilter;
use crate::tasks;
use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use proto::api::{Page, Task, TaskStatus};
use proto::ids::{ClientSessionId, RuntimeName, TaskId};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

/// Query of the list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// Of this runtime.
    #[param(value_type = Option<RuntimeName>)]
    runtime: Option<String>,
    /// In this session of their caller's.
    #[param(value_type = Option<ClientSessionId>)]
    session: Option<String>,
    /// In this status; several are separated by commas.
    status: Option<String>,
}

impl Filter {
    fn checked(self) -> Result<TaskFilter, ApiError> {
        let status = |text: &str| {
            TaskStatus::ALL
                .into_iter()
                .find(|status| status.as_str() == text)
                .ok_or_else(|| {
                    let known = TaskStatus::ALL.map(TaskStatus::as_str).join(", ");
                    ApiError::field("status", format!("must be some of {known}"))
                })
        };
        let session = |text: String| {
            ClientSessionId::parse(text)
                .map_err(|error| ApiError::field("session", error.to_string()))
        };
        Ok(TaskFilter {
            runtime: self.runtime.as_deref().map(runtime_param).transpose()?,
            session: self.session.map(session).transpose()?,
            statuses: match &self.status {
                None => Vec::new(),
                Some(list) => list.split(',').map(status).collect::<Result<_, _>>()?,
            },
        })
    }
}

/// The id in a path.
fn task_id(text: &str) -> Result<TaskId, ApiError> {
    TaskId::parse(text).map_err(|_| {
        ApiError::not_found(format!(
            "there is no task {text:?}; `agentcore task list` shows them"
        ))
    })
}

/// `GET /v1/tasks`.
#[utoipa::path(
    get,
    path = "/tasks",
    operation_id = "listTasks",
    summary = "Tasks, the newest first",
    tag = "tasks",
    params(Paging, Filter),
    responses((status = 200, body = Page<Task>, description = "Found"), Refusals)
)]
pub async fn list(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Query(paging): Query<Paging>,
    Query(filter): Query<Filter>,
) -> Response {
    let result = async {
        let page = broker
            .store
            .tasks(paging.request()?, filter.checked()?)
            .await?;
        Ok(Json(page.map(|row| broker.tasks.view(&row))).into_response())
    };
    respond(result.await, &id)
}

/// `GET /v1/tasks/{id}`.
#[utoipa::path(
    get,
    path = "/tasks/{id}",
    operation_id = "getTask",
    summary = "A task",
    tag = "tasks",
    params(("id" = TaskId, Path)),
    responses((status = 200, body = Task, description = "Found"), Refusals)
)]
pub async fn show(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(task): Path<String>,
) -> Response {
    let result = async {
        let row = broker.store.task(&task_id(&task)?).await?;
        Ok(Json(broker.tasks.view(&row)).into_response())
    };
    respond(result.await, &id)
}

/// `POST /v1/tasks/{id}/cancel`.
#[utoipa::path(
    post,
    path = "/tasks/{id}/cancel",
    operation_id = "cancelTask",
    summary = "Cancels a task: one that waits at once, one that runs through its agent's connection",
    tag = "tasks",
    params(("id" = TaskId, Path)),
    responses(
        (status = 200, body = Task, description = "It has its outcome, now or from before"),
        (status = 202, body = Task, description = "Being cancelled"),
        Refusals
    )
)]
pub async fn cancel(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(task): Path<String>,
) -> Response {
    let cancelled = to_the_end(async move {
        let row = tasks::cancel(&broker, &task_id(&task)?, "it was cancelled").await?;
        let status = match row.status.is_final() {
            true => StatusCode::OK,
            false => StatusCode::ACCEPTED,
        };
        Ok((status, Json(broker.tasks.view(&row))).into_response())
    });
    respond(cancelled.await, &id)
}
