//! Which path is what. `/v1` and the system routes are axum's; the AWS wire is split by hand, because `{arn}` is one label
//! that clients escape in every possible way (contract §2).

use super::reply::{ApiError, set_request_id};
use super::{artifacts, aws, exec, identify, local, openapi, runtimes, sessions, system};
use crate::broker::Broker;
use axum::extract::{DefaultBodyLimit, OriginalUri, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{Method, StatusCode};
use proto::code::ErrorCode;
use std::sync::Arc;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The id of one request, in its answer and in the log.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// Everything that one port serves.
pub fn router(broker: Arc<Broker>) -> Router {
    let (v1, described) = OpenApiRouter::new()
        .routes(routes!(system::info))
        .routes(routes!(system::doctor))
        .routes(routes!(artifacts::upload, artifacts::list))
        .routes(routes!(artifacts::show, artifacts::remove))
        .routes(routes!(runtimes::list))
        .routes(routes!(runtimes::put, runtimes::show, runtimes::remove))
        .routes(routes!(runtimes::versions))
        .routes(routes!(runtimes::version))
        .routes(routes!(sessions::list))
        .routes(routes!(sessions::show, sessions::stop))
        .routes(routes!(sessions::logs))
        .routes(routes!(exec::exec))
        .split_for_parts();
    let described = openapi::Description::openapi().nest("/v1", described);
    let v1 = v1
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(unknown)
        // Reads are bounded where they happen: artifacts by their own bound, JSON by the control limit.
        .layer(DefaultBodyLimit::disable());
    Router::new()
        .nest("/v1", v1)
        .route("/openapi.json", get(async move || Json(described)))
        .route("/healthz", get(system::healthz))
        .route("/livez", get(system::healthz))
        .route("/readyz", get(system::readyz))
        .route("/version", get(system::version))
        .route("/invocations", post(local::invocations))
        .route("/ping", get(local::ping))
        .route("/ws", get(local::websocket))
        .route("/runtimes/{*rest}", axum::routing::any(aws::dispatch))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(Arc::clone(&broker), admit))
        .with_state(broker)
}

/// The first stage of every request: an id, and who is asking.
async fn admit(State(broker): State<Arc<Broker>>, mut request: Request, next: Next) -> Response {
    let id = uuid::Uuid::new_v4().to_string();
    request.extensions_mut().insert(RequestId(id.clone()));
    let aws = request.uri().path().starts_with("/runtimes/");
    let (head, body) = request.into_parts();
    let identified = identify::caller(&broker, &head).await;
    let mut request = Request::from_parts(head, body);
    let mut response = match identified {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) if aws => error.aws(&id),
        Err(error) => error.problem(&id),
    };
    set_request_id(response.headers_mut(), &id);
    response
}

/// The `Allow` header is axum's to add.
async fn method_not_allowed(OriginalUri(uri): OriginalUri, request: Request) -> Response {
    if request.method() == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    let error = ApiError::new(
        ErrorCode::MethodNotAllowed,
        format!("{} does not take {}", uri.path(), request.method()),
    );
    error.problem(&request_id(&request))
}

async fn unknown(OriginalUri(uri): OriginalUri, request: Request) -> Response {
    ApiError::not_found(format!("there is nothing at {}", uri.path()))
        .problem(&request_id(&request))
}

/// The request's id; the middleware has put it there.
pub fn request_id<B>(request: &http::Request<B>) -> String {
    request
        .extensions()
        .get::<RequestId>()
        .map(|id| id.0.clone())
        .unwrap_or_default()
}
