//! `/v1/runtimes/{name}/callback-secret`: what a receiver of a runtime's callbacks verifies them with.

use super::endpoints::runtime;
use super::input::Path;
use super::openapi::Refusals;
use super::router::RequestId;
use super::runtimes::respond;
use crate::broker::Broker;
use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, HeaderValue};
use proto::api::CallbackSecret;
use proto::ids::RuntimeName;
use std::sync::Arc;

/// `GET /v1/runtimes/{name}/callback-secret`.
#[utoipa::path(
    get,
    path = "/runtimes/{name}/callback-secret",
    operation_id = "getCallbackSecret",
    summary = "The secret that a runtime's callbacks are signed with",
    tag = "runtimes",
    params(("name" = RuntimeName, Path)),
    responses((status = 200, body = CallbackSecret, description = "Found"), Refusals)
)]
pub async fn show(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
) -> Response {
    let result = async {
        let runtime = runtime(&broker, &name).await?;
        let secret = broker.callbacks.secrets.of(&runtime).shown();
        let mut response = Json(CallbackSecret { secret }).into_response();
        let never = HeaderValue::from_static("no-store");
        response.headers_mut().insert(CACHE_CONTROL, never);
        Ok(response)
    };
    respond(result.await, &id)
}
