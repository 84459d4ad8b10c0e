//! `/v1/runtimes`: deploy, list, inspect, delete.

use super::input::{Path, Query, Reading, bounded};
use super::openapi::Refusals;
use super::reply::ApiError;
use super::router::RequestId;
use super::to_the_end::to_the_end;
use crate::broker::Broker;
use crate::store::PageRequest;
use crate::tasks;
use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use proto::api::{EndReason, FieldFault, Page, PutRuntime, Runtime, Version};
use proto::ids::{RuntimeName, VersionNumber};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use utoipa::IntoParams;

/// `maxResults` and `nextToken` of every list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct Paging {
    /// At most so many items.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    max_results: Option<u32>,
    /// `nextToken` of the page before.
    next_token: Option<String>,
}

impl Paging {
    /// Checked.
    pub fn request(&self) -> Result<PageRequest, ApiError> {
        PageRequest::parse(self.max_results, self.next_token.as_deref()).map_err(ApiError::from)
    }
}

/// A result, as a `/v1` answer.
pub fn respond(result: Result<Response, ApiError>, id: &RequestId) -> Response {
    result.unwrap_or_else(|error| error.problem(&id.0))
}

/// The name in a query.
pub fn runtime_param(text: &str) -> Result<RuntimeName, ApiError> {
    RuntimeName::parse(text).map_err(|error| ApiError::field("runtime", error.to_string()))
}

/// The name in a path.
pub fn runtime_name(text: &str) -> Result<RuntimeName, ApiError> {
    RuntimeName::parse(text).map_err(|error| ApiError::field("name", error.to_string()))
}

/// `PUT /v1/runtimes/{name}`.
#[utoipa::path(
    put,
    path = "/runtimes/{name}",
    operation_id = "putRuntime",
    summary = "Makes a runtime, or its next version",
    tag = "runtimes",
    params(("name" = RuntimeName, Path)),
    request_body(content = PutRuntime),
    responses(
        (status = 201, body = Runtime, description = "A new runtime"),
        (status = 200, body = Runtime, description = "Its next version"),
        Refusals
    )
)]
pub async fn put(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let result = to_the_end(async move {
        let name = runtime_name(&name)?;
        let max = broker.config().limits.max_control_body.0;
        let body = bounded(request.into_body(), max).await?;
        let read = Reading::<PutRuntime>::of(&body)?;
        let mut faults = Vec::new();
        if let Some(put) = &read.value {
            if put.config.name != name {
                faults.push(FieldFault {
                    name: "name".to_owned(),
                    message: format!("must be `{name}`, as in the path"),
                });
            }
            faults.extend(broker.faults(&put.config));
        }
        let put = read.finish(faults)?;
        let (runtime, created) = broker.deploy(put).await?;
        let status = if created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        Ok((status, Json(runtime)).into_response())
    });
    respond(result.await, &id)
}

/// `GET /v1/runtimes`.
#[utoipa::path(
    get,
    path = "/runtimes",
    operation_id = "listRuntimes",
    summary = "Deployed runtimes",
    tag = "runtimes",
    params(Paging),
    responses(
        (status = 200, body = Page<Runtime>, description = "Found"),
        Refusals
    )
)]
pub async fn list(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Query(paging): Query<Paging>,
) -> Response {
    let result = async {
        let mut page = broker.store.runtimes(paging.request()?).await?;
        for runtime in &mut page.items {
            runtime.sessions = broker.sessions_of(&runtime.runtime_id);
            runtime.pool = broker.pool.state(&runtime.runtime_id);
        }
        Ok(Json(page).into_response())
    };
    respond(result.await, &id)
}

/// `GET /v1/runtimes/{name}`.
#[utoipa::path(
    get,
    path = "/runtimes/{name}",
    operation_id = "getRuntime",
    summary = "A runtime and its newest version",
    tag = "runtimes",
    params(("name" = RuntimeName, Path)),
    responses(
        (status = 200, body = Runtime, description = "Found"),
        Refusals
    )
)]
pub async fn show(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
) -> Response {
    let result = async {
        let mut runtime = broker.store.runtime(&runtime_name(&name)?).await?;
        runtime.sessions = broker.sessions_of(&runtime.runtime_id);
        runtime.pool = broker.pool.state(&runtime.runtime_id);
        Ok(Json(runtime).into_response())
    };
    respond(result.await, &id)
}

/// Query of the delete.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Remove {
    /// Answers when its sessions are gone.
    #[serde(default)]
    wait: bool,
}

/// `DELETE /v1/runtimes/{name}`: no new sessions from now on; the live ones are stopped, and with `?wait=true` they are
/// gone when this answers.
#[utoipa::path(
    delete,
    path = "/runtimes/{name}",
    operation_id = "deleteRuntime",
    summary = "Deletes a runtime; its sessions are stopped",
    tag = "runtimes",
    params(("name" = RuntimeName, Path), Remove),
    responses(
        (status = 204, description = "Deleted; its sessions are stopped"),
        Refusals
    )
)]
pub async fn remove(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
    Query(query): Query<Remove>,
) -> Response {
    let result = to_the_end(async move {
        let name = runtime_name(&name)?;
        broker.store.delete_runtime(&name).await?;
        let deployed = broker.catalogue.by_name(&name);
        broker.refresh(&name).await?;
        if let Some(deployed) = deployed {
            let mut sessions = broker.registry.of_runtime(&deployed.runtime);
            sessions.extend(broker.pool.retire(&broker, &deployed.runtime).await);
            broker.forget_storage(deployed.runtime.clone());
            tasks::runtime_deleted(&broker, deployed.runtime.clone());
            for session in &sessions {
                session.stop(EndReason::Stopped).await;
            }
            if query.wait {
                for session in &sessions {
                    session.over().await;
                }
            }
        }
        Ok(StatusCode::NO_CONTENT.into_response())
    });
    respond(result.await, &id)
}

/// `GET /v1/runtimes/{name}/versions`.
#[utoipa::path(
    get,
    path = "/runtimes/{name}/versions",
    operation_id = "listVersions",
    summary = "A runtime's versions, newest first",
    tag = "runtimes",
    params(("name" = RuntimeName, Path), Paging),
    responses(
        (status = 200, body = Page<Version>, description = "Found"),
        Refusals
    )
)]
pub async fn versions(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
    Query(paging): Query<Paging>,
) -> Response {
    let result = async {
        let page = broker
            .store
            .versions(&runtime_name(&name)?, paging.request()?)
            .await?;
        Ok(Json(page).into_response())
    };
    respond(result.await, &id)
}

/// `GET /v1/runtimes/{name}/versions/{number}`.
#[utoipa::path(
    get,
    path = "/runtimes/{name}/versions/{number}",
    operation_id = "getVersion",
    summary = "A version",
    tag = "runtimes",
    params(("name" = RuntimeName, Path), ("number" = VersionNumber, Path)),
    responses(
        (status = 200, body = Version, description = "Found"),
        Refusals
    )
)]
pub async fn version(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path((name, number)): Path<(String, String)>,
) -> Response {
    let result = async {
        let number = version_number(&number)?;
        let version = broker.store.version(&runtime_name(&name)?, number).await?;
        Ok(Json(version).into_response())
    };
    respond(result.await, &id)
}

/// `DELETE /v1/runtimes/{name}/versions/{number}`: one that no endpoint leads to and no session runs.
#[utoipa::path(
    delete,
    path = "/runtimes/{name}/versions/{number}",
    operation_id = "deleteVersion",
    summary = "Deletes a version that no endpoint leads to and no session runs",
    tag = "runtimes",
    params(("name" = RuntimeName, Path), ("number" = VersionNumber, Path)),
    responses((status = 204, description = "Deleted"), Refusals)
)]
pub async fn remove_version(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path((name, number)): Path<(String, String)>,
) -> Response {
    let result = to_the_end(async move {
        let number = version_number(&number)?;
        let runtime = broker.store.runtime(&runtime_name(&name)?).await?;
        broker
            .store
            .delete_version(&runtime.runtime_id, number, None, |_| Value::Null)
            .await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    });
    respond(result.await, &id)
}

fn version_number(text: &str) -> Result<VersionNumber, ApiError> {
    text.parse()
        .map(VersionNumber)
        .map_err(|_| ApiError::field("version", "must be a number"))
}
