//! `/v1/runtimes/{name}/endpoints`: names that lead calls to one version (the `qualifier` of the AWS wire). DEFAULT is there
//! without being made, and follows the newest version.

use super::input::{Path, Query, Reading, bounded};
use super::openapi::Refusals;
use super::reply::ApiError;
use super::router::RequestId;
use super::runtimes::{Paging, respond, runtime_name};
use super::to_the_end::to_the_end;
use crate::broker::Broker;
use crate::store::{Done, EndpointRecord, NewEndpoint};
use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use proto::api::{Endpoint, Page, PutEndpoint};
use proto::code::ErrorCode;
use proto::ids::{EndpointName, RuntimeId, RuntimeName};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest description (contract §3.4), in characters.
const MAX_DESCRIPTION: usize = 256;

/// `GET /v1/runtimes/{name}/endpoints`.
#[utoipa::path(
    get,
    path = "/runtimes/{name}/endpoints",
    operation_id = "listEndpoints",
    summary = "A runtime's endpoints",
    tag = "runtimes",
    params(("name" = RuntimeName, Path), Paging),
    responses((status = 200, body = Page<Endpoint>, description = "Found"), Refusals)
)]
pub async fn list(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
    Query(paging): Query<Paging>,
) -> Response {
    let result = async {
        let runtime = runtime(&broker, &name).await?;
        let page = broker.store.endpoints(&runtime, paging.request()?).await?;
        Ok(Json(Page {
            items: page.items.into_iter().map(told).collect::<Vec<_>>(),
            next_token: page.next_token,
        })
        .into_response())
    };
    respond(result.await, &id)
}

/// `GET /v1/runtimes/{name}/endpoints/{endpoint}`.
#[utoipa::path(
    get,
    path = "/runtimes/{name}/endpoints/{endpoint}",
    operation_id = "getEndpoint",
    summary = "An endpoint",
    tag = "runtimes",
    params(("name" = RuntimeName, Path), ("endpoint" = EndpointName, Path)),
    responses((status = 200, body = Endpoint, description = "Found"), Refusals)
)]
pub async fn show(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path((name, endpoint)): Path<(String, String)>,
) -> Response {
    let result = async {
        let runtime = runtime(&broker, &name).await?;
        let name = endpoint_name(&endpoint)?;
        let found = broker.store.endpoint(&runtime, &name).await?;
        Ok(Json(told(found)).into_response())
    };
    respond(result.await, &id)
}

/// `PUT /v1/runtimes/{name}/endpoints/{endpoint}`: makes it, or leads it to another version.
#[utoipa::path(
    put,
    path = "/runtimes/{name}/endpoints/{endpoint}",
    operation_id = "putEndpoint",
    summary = "Makes an endpoint, or leads it to another version",
    tag = "runtimes",
    params(("name" = RuntimeName, Path), ("endpoint" = EndpointName, Path)),
    request_body(content = PutEndpoint),
    responses((status = 201, body = Endpoint, description = "A new one"), (status = 200, body = Endpoint, description = "Changed"), Refusals)
)]
pub async fn put(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path((name, endpoint)): Path<(String, String)>,
    request: Request,
) -> Response {
    let result = to_the_end(async move {
        let max = broker.config().limits.max_control_body.0;
        let body = bounded(request.into_body(), max).await?;
        let put = Reading::<PutEndpoint>::of(&body)?.finish(Vec::new())?;
        let found = put.description.as_ref().map(|text| text.chars().count());
        if found.is_some_and(|found| !(1..=MAX_DESCRIPTION).contains(&found)) {
            return Err(ApiError::field(
                "description",
                format!("must be 1 to {MAX_DESCRIPTION} characters long"),
            ));
        }
        let new = NewEndpoint {
            runtime: runtime(&broker, &name).await?,
            name: endpoint_name(&endpoint)?,
            version: put.version,
            description: put.description,
            new: None,
            tags: BTreeMap::new(),
            most: broker.config().limits.quotas.endpoints,
            once: None,
        };
        let Done::Now((record, created)) = broker.store.put_endpoint(new, |_| Value::Null).await?
        else {
            return Err(ApiError::new(ErrorCode::Internal, "done without a token"));
        };
        broker.refresh_by_id(&record.runtime).await?;
        let status = if created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        Ok((status, Json(told(record))).into_response())
    });
    respond(result.await, &id)
}

/// `DELETE /v1/runtimes/{name}/endpoints/{endpoint}`; its live sessions go on.
#[utoipa::path(
    delete,
    path = "/runtimes/{name}/endpoints/{endpoint}",
    operation_id = "deleteEndpoint",
    summary = "Deletes an endpoint; its sessions go on",
    tag = "runtimes",
    params(("name" = RuntimeName, Path), ("endpoint" = EndpointName, Path)),
    responses((status = 204, description = "Deleted"), Refusals)
)]
pub async fn remove(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path((name, endpoint)): Path<(String, String)>,
) -> Response {
    let result = to_the_end(async move {
        let runtime = runtime(&broker, &name).await?;
        let name = endpoint_name(&endpoint)?;
        broker
            .store
            .delete_endpoint(&runtime, &name, None, |_| Value::Null)
            .await?;
        broker.refresh_by_id(&runtime).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    });
    respond(result.await, &id)
}

pub(super) async fn runtime(broker: &Broker, name: &str) -> Result<RuntimeId, ApiError> {
    Ok(broker.store.runtime(&runtime_name(name)?).await?.runtime_id)
}

fn endpoint_name(text: &str) -> Result<EndpointName, ApiError> {
    EndpointName::parse(text).map_err(|error| ApiError::field("endpoint", error.to_string()))
}

fn told(record: EndpointRecord) -> Endpoint {
    Endpoint {
        name: record.name,
        arn: record.arn,
        version: record.live,
        status: record.status.to_owned(),
        description: record.description,
        created_at: record.created_at.to_string(),
        updated_at: record.updated_at.to_string(),
    }
}
