//! `/v1/keys`: make, list and revoke access keys.

use super::input::{Path, Query, Reading, bounded};
use super::openapi::Refusals;
use super::reply::ApiError;
use super::router::RequestId;
use super::runtimes::{Paging, respond};
use crate::broker::Broker;
use crate::keys::KeyError;
use crate::permit::{Grant, ObjectPattern, Pattern};
use crate::store::{KeyRow, Timestamp};
use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderValue};
use proto::api::{AccessKey, FieldFault, NewAccessKey, NewAccessKeyRequest, Page};
use std::sync::Arc;

/// Longest name.
const MAX_NAME: usize = 128;

/// Most runtimes, most actions and most objects that a key is limited to.
const MAX_LIMITS: usize = 100;

/// Longest life that can be asked for: ten years.
const MAX_SECONDS: u64 = 10 * 366 * 86_400;

/// `POST /v1/keys`.
#[utoipa::path(
    post,
    path = "/keys",
    operation_id = "createKey",
    summary = "Makes an access key",
    tag = "keys",
    request_body(content = NewAccessKeyRequest),
    responses(
        (status = 201, body = NewAccessKey, description = "With its secret, told here only"),
        Refusals
    )
)]
pub async fn create(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Response {
    let result = async {
        let max = broker.config().limits.max_control_body.0;
        let body = bounded(request.into_body(), max).await?;
        let read = Reading::<NewAccessKeyRequest>::of(&body)?;
        let mut faults = Vec::new();
        let grant = read
            .value
            .as_ref()
            .map(|asked| checked(asked, &mut faults))
            .unwrap_or_default();
        let asked = read.finish(faults)?;
        let expires_at = asked.expires_in.map(|seconds| {
            let life = i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
            Timestamp(Timestamp::now().0.saturating_add(life))
        });
        let made = broker.gate.keys.create(asked.name, grant, expires_at).await;
        let (row, secret) = made.map_err(fault)?;
        let body = NewAccessKey {
            secret_access_key: secret,
            key: view(row),
        };
        let mut response = (StatusCode::CREATED, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    };
    respond(result.await, &id)
}

fn fault(error: KeyError) -> ApiError {
    match error {
        KeyError::Store(error) => error.into(),
        KeyError::Seal(error) => ApiError::internal(&error),
    }
}

fn checked(asked: &NewAccessKeyRequest, faults: &mut Vec<FieldFault>) -> Grant {
    let mut fault = |name: &str, message: String| {
        faults.push(FieldFault {
            name: name.to_owned(),
            message,
        });
    };
    let length = asked.name.chars().count();
    if !(1..=MAX_NAME).contains(&length) || asked.name.contains(char::is_control) {
        fault(
            "name",
            format!("must be 1 to {MAX_NAME} characters long, none of them a control character"),
        );
    }
    if asked
        .expires_in
        .is_some_and(|seconds| !(1..=MAX_SECONDS).contains(&seconds))
    {
        fault("expiresIn", format!("must be 1 to {MAX_SECONDS} seconds"));
    }
    for (name, count) in [
        ("runtimes", asked.runtimes.as_ref().map(Vec::len)),
        ("actions", asked.actions.as_ref().map(Vec::len)),
        ("objects", asked.objects.as_ref().map(Vec::len)),
    ] {
        if let Some(count) = count.filter(|count| !(1..=MAX_LIMITS).contains(count)) {
            fault(
                name,
                format!(
                    "must have 1 to {MAX_LIMITS} entries, has {count}; leave it out for no limit"
                ),
            );
        }
    }
    let mut patterns = Vec::new();
    for text in asked.actions.iter().flatten().take(MAX_LIMITS) {
        match Pattern::parse(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(message) => fault("actions", message),
        }
    }
    let mut objects = Vec::new();
    for text in asked.objects.iter().flatten().take(MAX_LIMITS) {
        match ObjectPattern::parse(text) {
            Ok(pattern) => objects.push(pattern),
            Err(message) => fault("objects", message),
        }
    }
    Grant {
        runtimes: asked.runtimes.clone(),
        actions: asked.actions.is_some().then_some(patterns),
        objects: asked.objects.is_some().then_some(objects),
    }
}

/// `GET /v1/keys`.
#[utoipa::path(
    get,
    path = "/keys",
    operation_id = "listKeys",
    summary = "Access keys, revoked ones too",
    tag = "keys",
    params(Paging),
    responses(
        (status = 200, body = Page<AccessKey>, description = "Found"),
        Refusals
    )
)]
pub async fn list(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Query(paging): Query<Paging>,
) -> Response {
    let result = async {
        let page = broker.store.keys(paging.request()?).await?;
        Ok(Json(page.map(view)).into_response())
    };
    respond(result.await, &id)
}

/// `DELETE /v1/keys/{id}`.
#[utoipa::path(
    delete,
    path = "/keys/{id}",
    operation_id = "revokeKey",
    summary = "Revokes an access key",
    tag = "keys",
    params(("id" = String, Path)),
    responses(
        (status = 204, description = "Revoked"),
        Refusals
    )
)]
pub async fn revoke(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(key): Path<String>,
) -> Response {
    let result = async {
        broker.gate.keys.revoke(&key).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    respond(result.await, &id)
}

fn view(row: KeyRow) -> AccessKey {
    AccessKey {
        access_key_id: row.id,
        name: row.name,
        runtimes: row.grant.runtimes,
        actions: row.grant.actions.map(texts),
        objects: row.grant.objects.map(texts),
        created_at: row.created_at.to_string(),
        expires_at: row.expires_at.map(|at| at.to_string()),
        revoked_at: row.revoked_at.map(|at| at.to_string()),
    }
}

fn texts<T: ToString>(patterns: Vec<T>) -> Vec<String> {
    patterns.iter().map(ToString::to_string).collect()
}
