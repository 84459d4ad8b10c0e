//! `/v1/artifacts`: upload and list bundles.

use super::input::{Path, Query};
use super::openapi::Refusals;
use super::reply::ApiError;
use super::router::RequestId;
use super::runtimes::{Paging, respond};
use crate::broker::Broker;
use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http_body::Body as _;
use proto::api::{Artifact, Page};
use proto::ids::ArtifactId;
use std::sync::Arc;

/// `POST /v1/artifacts`: the body is the zip or tar.gz itself, spooled as it comes and unpacked off the event loop.
#[utoipa::path(
    post,
    path = "/artifacts",
    operation_id = "uploadArtifact",
    summary = "Uploads a bundle",
    tag = "artifacts",
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The zip or tar.gz itself"),
    responses(
        (status = 201, body = Artifact, description = "A new bundle"),
        (status = 200, body = Artifact, description = "There already"),
        Refusals
    )
)]
pub async fn upload(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Response {
    let result = async {
        // Its announced length is enough to refuse it.
        broker.artifacts.admit(request.body().size_hint().lower())?;
        let pieces = request.into_body().into_data_stream();
        let (artifact, created) = broker.artifacts.receive(pieces).await?;
        let status = if created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        Ok((status, Json(artifact)).into_response())
    };
    respond(result.await, &id)
}

/// `GET /v1/artifacts`.
#[utoipa::path(
    get,
    path = "/artifacts",
    operation_id = "listArtifacts",
    summary = "Uploaded bundles",
    tag = "artifacts",
    params(Paging),
    responses(
        (status = 200, body = Page<Artifact>, description = "Found"),
        Refusals
    )
)]
pub async fn list(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Query(paging): Query<Paging>,
) -> Response {
    let result =
        async { Ok(Json(broker.store.artifacts(paging.request()?).await?).into_response()) };
    respond(result.await, &id)
}

/// `GET /v1/artifacts/{id}`.
#[utoipa::path(
    get,
    path = "/artifacts/{id}",
    operation_id = "getArtifact",
    summary = "A bundle",
    tag = "artifacts",
    params(("id" = ArtifactId, Path)),
    responses(
        (status = 200, body = Artifact, description = "Found"),
        Refusals
    )
)]
pub async fn show(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(artifact): Path<String>,
) -> Response {
    let result =
        async { Ok(Json(broker.store.artifact(&artifact_id(&artifact)?).await?).into_response()) };
    respond(result.await, &id)
}

/// `DELETE /v1/artifacts/{id}`: refused while a version uses it.
#[utoipa::path(
    delete,
    path = "/artifacts/{id}",
    operation_id = "deleteArtifact",
    summary = "Deletes a bundle that no version uses",
    tag = "artifacts",
    params(("id" = ArtifactId, Path)),
    responses(
        (status = 204, description = "Deleted"),
        Refusals
    )
)]
pub async fn remove(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(artifact): Path<String>,
) -> Response {
    let result = async {
        broker.artifacts.delete(&artifact_id(&artifact)?).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    respond(result.await, &id)
}

/// `sha256:…` or the bare digits.
fn artifact_id(text: &str) -> Result<ArtifactId, ApiError> {
    ArtifactId::parse(text.strip_prefix("sha256:").unwrap_or(text))
        .map_err(|error| ApiError::field("artifactId", error.to_string()))
}
