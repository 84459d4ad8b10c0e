//! `/v1/artifacts`: upload and list bundles.

use super::reply::ApiError;
use super::router::RequestId;
use super::runtimes::{Paging, respond};
use crate::broker::Broker;
use axum::Json;
use axum::extract::{Extension, Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http_body_util::BodyExt;
use proto::code::ErrorCode;
use proto::ids::ArtifactId;
use std::sync::Arc;

/// `POST /v1/artifacts`: the body is the zip or tar.gz itself, spooled as it comes and unpacked off the event loop.
pub async fn upload(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Response {
    let result = async {
        let mut upload = broker.artifacts.begin_upload()?;
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                ApiError::new(
                    ErrorCode::Validation,
                    format!("the upload broke off: {error}"),
                )
            })?;
            if let Ok(data) = frame.into_data() {
                // Page-cache writes of 64 KiB: not worth a thread each.
                upload.write(&data)?;
            }
        }
        let artifact = tokio::task::spawn_blocking(move || upload.finish())
            .await
            .map_err(|error| ApiError::internal(&error))??;
        let (artifact, created) = broker.store.put_artifact(artifact).await?;
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
pub async fn remove(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(artifact): Path<String>,
) -> Response {
    let result = async {
        let artifact = artifact_id(&artifact)?;
        broker.store.delete_artifact(&artifact).await?;
        let broker = Arc::clone(&broker);
        tokio::task::spawn_blocking(move || broker.artifacts.delete(&artifact))
            .await
            .map_err(|error| ApiError::internal(&error))??;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    respond(result.await, &id)
}

/// `sha256:…` or the bare digits.
fn artifact_id(text: &str) -> Result<ArtifactId, ApiError> {
    ArtifactId::parse(text.strip_prefix("sha256:").unwrap_or(text))
        .map_err(|error| ApiError::field("artifactId", error.to_string()))
}
