//! `/v1/runtimes`: deploy, list, inspect, delete.

use super::params::Params;
use super::reply::ApiError;
use super::router::RequestId;
use crate::broker::Broker;
use crate::store::PageRequest;
use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use proto::api::{EndReason, PutRuntime};
use proto::code::ErrorCode;
use proto::ids::{RuntimeName, VersionNumber};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// `maxResults` and `nextToken` of every list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Paging {
    max_results: Option<u32>,
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

/// A JSON body, bounded and typed; errors name the field.
pub async fn json_body<T: DeserializeOwned>(broker: &Broker, body: Body) -> Result<T, ApiError> {
    let max = broker.config().limits.max_control_body.0;
    let bytes = axum::body::to_bytes(body, usize::try_from(max).unwrap_or(usize::MAX))
        .await
        .map_err(|_| {
            ApiError::new(
                ErrorCode::PayloadTooLarge,
                format!("a control request has at most {max} bytes"),
            )
        })?;
    let mut reader = serde_json::Deserializer::from_slice(&bytes);
    let typed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        // The whole body has no path.
        let name = if path == "." { "body" } else { &path };
        ApiError::field(name, format!("is not what is expected: {}", error.inner()))
    })?;
    reader
        .end()
        .map_err(|error| ApiError::field("body", format!("goes on after its end: {error}")))?;
    Ok(typed)
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
pub async fn put(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let result = async {
        let name = runtime_name(&name)?;
        let put: PutRuntime = json_body(&broker, request.into_body()).await?;
        if put.config.name != name {
            return Err(ApiError::field(
                "config.name",
                format!("must be `{name}`, as in the path"),
            ));
        }
        let (runtime, created) = broker.deploy(put).await?;
        let status = if created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        Ok((status, Json(runtime)).into_response())
    };
    respond(result.await, &id)
}

/// `GET /v1/runtimes`.
pub async fn list(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Params(paging): Params<Paging>,
) -> Response {
    let result = async {
        let mut page = broker.store.runtimes(paging.request()?).await?;
        for runtime in &mut page.items {
            runtime.sessions = broker.sessions_of(&runtime.runtime_id);
        }
        Ok(Json(page).into_response())
    };
    respond(result.await, &id)
}

/// `GET /v1/runtimes/{name}`.
pub async fn show(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
) -> Response {
    let result = async {
        let mut runtime = broker.store.runtime(&runtime_name(&name)?).await?;
        runtime.sessions = broker.sessions_of(&runtime.runtime_id);
        Ok(Json(runtime).into_response())
    };
    respond(result.await, &id)
}

/// `DELETE /v1/runtimes/{name}`: no new sessions from now on; the live ones are stopped.
pub async fn remove(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
) -> Response {
    let result = async {
        let name = runtime_name(&name)?;
        broker.store.delete_runtime(&name).await?;
        let version = broker.catalogue.by_name(&name);
        broker.catalogue.remove(&name);
        if let Some(version) = version {
            for session in broker.registry.of_runtime(&version.runtime) {
                session.stop(EndReason::Stopped).await;
            }
        }
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    respond(result.await, &id)
}

/// `GET /v1/runtimes/{name}/versions`.
pub async fn versions(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
    Params(paging): Params<Paging>,
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
pub async fn version(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path((name, number)): Path<(String, String)>,
) -> Response {
    let result = async {
        let number = number
            .parse()
            .map(VersionNumber)
            .map_err(|_| ApiError::field("version", "must be a number"))?;
        let version = broker.store.version(&runtime_name(&name)?, number).await?;
        Ok(Json(version).into_response())
    };
    respond(result.await, &id)
}
