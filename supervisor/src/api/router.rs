//! Which path is what. `/v1` and the system routes are axum's; the AWS wire is split by hand, because `{arn}` is one label
//! that clients escape in every possible way (contract §2).

use super::authenticate::{Area, authenticate};
use super::authorize::{self, Presented};
use super::identify::{Caller, Peer};
use super::listener::Late;
use super::reply::{ApiError, ERROR_TYPE, TurnedAway, set_request_id};
use super::{
    artifacts, audit, aws, backup, budgets, callback_secret, endpoints, exec, freezer, keys,
    limits, local, metrics, openapi, runtimes, s3, sessions, system, tasks, usage,
};
use crate::broker::Broker;
use crate::store::Refusal;
use axum::extract::{DefaultBodyLimit, OriginalUri, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use http::header::{CONNECTION, EXPECT, HeaderValue};
use http::{Method, StatusCode, Version};
use proto::code::ErrorCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
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
        .routes(routes!(runtimes::version, runtimes::remove_version))
        .routes(routes!(callback_secret::show))
        .routes(routes!(endpoints::list))
        .routes(routes!(endpoints::put, endpoints::show, endpoints::remove))
        .routes(routes!(sessions::list))
        .routes(routes!(sessions::show, sessions::stop))
        .routes(routes!(sessions::logs))
        .routes(routes!(freezer::freeze))
        .routes(routes!(freezer::thaw))
        .routes(routes!(limits::show, limits::change))
        .routes(routes!(limits::change_runtime))
        .routes(routes!(exec::exec))
        .routes(routes!(tasks::create))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::show))
        .routes(routes!(tasks::cancel))
        .routes(routes!(tasks::result))
        .routes(routes!(tasks::events))
        .routes(routes!(keys::create, keys::list))
        .routes(routes!(keys::revoke))
        .routes(routes!(audit::list))
        .routes(routes!(backup::backup))
        .routes(routes!(usage::list))
        .routes(routes!(budgets::list))
        .routes(routes!(budgets::approve))
        .routes(routes!(usage::invocations))
        .routes(routes!(usage::verify))
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
        .route("/metrics", get(metrics::scrape))
        .route("/invocations", post(local::invocations))
        .route("/ping", get(local::ping))
        .route("/ws", get(local::websocket))
        .route("/runtimes", any(aws::dispatch))
        .route("/runtimes/", any(aws::dispatch))
        .route("/runtimes/{*rest}", any(aws::dispatch))
        .route("/s3", any(s3::dispatch))
        .route("/s3/", any(s3::dispatch))
        .route("/s3/{*rest}", any(s3::dispatch))
        .route("/tags/{*rest}", any(aws::dispatch))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(Arc::clone(&broker), admit))
        .with_state(broker)
}

/// The first stage of every request: an id, who is asking, and whether they may go where they want to. What an operation
/// of the AWS wire needs of them, it asks itself ([`Presented`]).
async fn admit(State(broker): State<Arc<Broker>>, mut request: Request, next: Next) -> Response {
    let id = uuid::Uuid::new_v4().to_string();
    request.extensions_mut().insert(RequestId(id.clone()));
    let began = Instant::now();
    let operation = metrics::operation(request.method(), request.uri().path());
    let mut area = Area::of(request.uri().path());
    if request.uri().path() == "/metrics" && broker.config().metrics_public {
        area = Area::Health;
    }
    let visit = Visit::of(&request);
    let expects = request.version() <= Version::HTTP_11 && request.headers().contains_key(EXPECT);
    let (mut head, body) = request.into_parts();
    let late = head.extensions.get::<Late>().is_some() && visit.path != "/metrics";
    let authenticated = match area {
        Area::Health => Ok((Caller::Stranger, body)),
        _ if late => Err(stopping()),
        Area::Operations | Area::Local | Area::Objects | Area::Operators => {
            authenticate(&broker, &mut head, body).await
        }
    };
    let (mut response, caller) = match authenticated {
        Ok((caller, body)) => {
            let response = match enter(area, &caller) {
                Ok(()) => {
                    let mut request = Request::from_parts(head, body);
                    request.extensions_mut().insert(Presented(caller.clone()));
                    next.run(request).await
                }
                Err(error) => refused(area, &visit.path, &error, &id),
            };
            (response, Some(caller))
        }
        Err(error) => (refused(area, &visit.path, &error, &id), None),
    };
    if response.status() == StatusCode::INTERNAL_SERVER_ERROR && broker.is_over() {
        // Its work was broken off with the runtime that ends, and may be done all the same. A refusal would be a lie; whose
        // connection is cut asks again.
        std::future::pending::<()>().await;
    }
    set_request_id(response.headers_mut(), &id);
    let status = response.status().as_u16();
    broker.metrics.requested(operation, status, began.elapsed());
    if expects && !response.status().is_success() {
        // Whoever waits for a 100 and is refused sends no body, but its next request: on this connection the two could
        // not be told apart (RFC 9110 §10.1.1).
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    if let Some(TurnedAway(reason)) = response.extensions_mut().remove() {
        let caller = caller.and_then(|caller| caller.principal(&broker));
        broker.gate.audit.record(Refusal {
            request_id: id,
            status: response.status().as_u16(),
            code: visit.code(&response),
            reason,
            caller: caller.map(|principal| principal.to_string()),
            peer: visit.peer,
            method: visit.method,
            path: visit.path,
        });
    }
    response
}

/// What is told to who comes while this daemon ends.
fn stopping() -> ApiError {
    ApiError::new(
        ErrorCode::Unavailable,
        "the daemon is stopping and takes no new calls; try again in a moment",
    )
    .retry_after(Duration::from_secs(1))
}

/// Whether a caller may go there at all.
fn enter(area: Area, caller: &Caller) -> Result<(), ApiError> {
    match area {
        Area::Operators => authorize::operator(caller),
        Area::Health | Area::Operations | Area::Local | Area::Objects => Ok(()),
    }
}

/// The refusal in the words of the wire that was meant.
fn refused(area: Area, path: &str, error: &ApiError, id: &str) -> Response {
    if area == Area::Operators {
        error.problem(id)
    } else if s3::serves(path) {
        s3::refused(error, id)
    } else {
        error.aws(id)
    }
}

/// What a record of a refusal needs of its request.
struct Visit {
    peer: String,
    method: String,
    path: String,
}

impl Visit {
    fn of(request: &Request) -> Self {
        let peer = request.extensions().get::<Peer>();
        Self {
            peer: peer.map(ToString::to_string).unwrap_or_default(),
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
        }
    }

    fn code(&self, response: &Response) -> String {
        let name = response.headers().get(ERROR_TYPE);
        name.and_then(|name| name.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    }
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
    let presented = request.extensions().get::<Presented>();
    if let (Some(what), Some(presented)) = (aws::absent::at(uri.path()), presented) {
        return aws::absent::refuse(presented, what, &request_id(&request));
    }
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
