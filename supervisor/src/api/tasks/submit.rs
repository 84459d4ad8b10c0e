//! `POST /v1/runtimes/{name}/tasks`.

use crate::api::attempts;
use crate::api::authorize::Presented;
use crate::api::aws::headers::headers_in;
use crate::api::identify::Caller;
use crate::api::input::{Path, Query};
use crate::api::intake::check_length;
use crate::api::openapi::Refusals;
use crate::api::reply::ApiError;
use crate::api::router::RequestId;
use crate::api::runtimes::{respond, runtime_name};
use crate::api::session_header::{fresh_session_id, session_id, set_session};
use crate::broker::Broker;
use crate::callback::CallbackUrl;
use crate::catalogue::RuntimeVersion;
use crate::config::duration;
use crate::store::TaskKind;
use crate::tasks::{self, Order};
use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use proto::api::{FieldFault, IDEMPOTENCY_KEY, Task};
use proto::code::ErrorCode;
use proto::ids::{EndpointName, RuntimeName};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use utoipa::IntoParams;

/// Most retries.
const MAX_RETRIES: u32 = 100;

/// Before the first retry, if nobody says.
const BACKOFF: Duration = Duration::from_secs(10);

/// The longest that may be asked for.
const MAX_BACKOFF: Duration = Duration::from_secs(3600);

/// Longest key.
const MAX_KEY: usize = 255;

/// Query of the submission.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Submission {
    /// How long it may take, its time in the queue included: seconds, or text such as `90m` or `8h`.
    deadline: Option<String>,
    /// Attempts that may follow one that did not succeed. Above 0 says that the task is safe to repeat.
    #[param(value_type = Option<u32>, maximum = 100)]
    retries: Option<String>,
    /// The pause before the first retry, doubled before each further one: seconds, or text such as `30s`.
    backoff: Option<String>,
    /// Whom to tell of the outcome: an `https` or `http` URL.
    callback: Option<String>,
    /// Through which endpoint.
    #[param(value_type = Option<EndpointName>)]
    qualifier: Option<String>,
}

/// `POST /v1/runtimes/{name}/tasks`.
#[utoipa::path(
    post,
    path = "/runtimes/{name}/tasks",
    operation_id = "createTask",
    summary = "Gives a runtime a task; answers when it is on disk",
    tag = "tasks",
    params(
        ("name" = RuntimeName, Path),
        Submission,
        ("Idempotency-Key" = Option<String>, Header, description = "The same key again is the same task, for as long as that is kept; 1 to 255 visible ASCII characters"),
        ("X-Amzn-Bedrock-AgentCore-Runtime-Session-Id" = Option<String>, Header, description = "The session that it runs in; it gets one of its own if there is none"),
        ("X-Amzn-Bedrock-AgentCore-Runtime-User-Id" = Option<String>, Header, description = "The caller's own user")
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The payload, as the agent gets it"),
    responses(
        (status = 202, body = Task, description = "On disk"),
        (status = 200, body = Task, description = "Submitted before, with this key"),
        Refusals
    )
)]
pub async fn create(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Extension(Presented(caller)): Extension<Presented>,
    Path(name): Path<String>,
    Query(query): Query<Submission>,
    request: Request,
) -> Response {
    let result = async {
        let (parts, body) = request.into_parts();
        let order = order(&broker, &caller, &name, query, &parts.headers)?;
        let caller = order.owner.principal.clone();
        let intake = attempts::begin(&broker, caller, tasks::BODY_TIME, body).await?;
        let (row, new) = tasks::submit(&broker, order, intake).await?;
        let status = match new {
            true => StatusCode::ACCEPTED,
            false => StatusCode::OK,
        };
        let mut response = (status, Json(broker.tasks.view(&row))).into_response();
        let headers = response.headers_mut();
        if let Ok(place) = HeaderValue::from_str(&format!("/v1/tasks/{}", row.id)) {
            headers.insert(LOCATION, place);
        }
        set_session(headers, &row.client_id);
        Ok(response)
    };
    respond(result.await, &id)
}

fn order(
    broker: &Arc<Broker>,
    caller: &Caller,
    name: &str,
    query: Submission,
    headers: &HeaderMap,
) -> Result<Order, ApiError> {
    let name = runtime_name(name)?;
    check_length(broker, headers)?;
    let endpoint = match query.qualifier {
        None => EndpointName::default_endpoint(),
        Some(text) => EndpointName::parse(text)
            .map_err(|error| ApiError::field("qualifier", error.to_string()))?,
    };
    let version = version(broker, &name, &endpoint)?;
    let config = broker.config();
    let bounds = config.tasks;
    let mut faults = Vec::new();
    let mut fault = |name: &str, message: String| {
        faults.push(FieldFault {
            name: name.to_owned(),
            message,
        });
    };
    let deadline = match query.deadline.as_deref().map(duration) {
        None => bounds.deadline,
        Some(Some(asked)) if (Duration::from_secs(1)..=bounds.max_deadline).contains(&asked) => {
            asked
        }
        Some(_) => {
            let most = bounds.max_deadline.as_secs();
            fault(
                "deadline",
                format!(
                    "must be 1 to {most} seconds (tasks.max_deadline), or text such as \"90m\" or \"8h\""
                ),
            );
            bounds.deadline
        }
    };
    let retries = match query.retries.as_deref().map(str::parse) {
        None => 0,
        Some(Ok(retries)) if retries <= MAX_RETRIES => retries,
        Some(_) => {
            fault("retries", format!("must be 0 to {MAX_RETRIES}"));
            0
        }
    };
    let backoff = match query.backoff.as_deref().map(duration) {
        None => BACKOFF,
        Some(Some(asked)) if asked <= MAX_BACKOFF => asked,
        Some(_) => {
            let most = MAX_BACKOFF.as_secs();
            fault(
                "backoff",
                format!("must be 0 to {most} seconds, or text such as \"30s\""),
            );
            BACKOFF
        }
    };
    if let Some(text) = &query.callback {
        let policy = &config.callbacks.policy;
        let refused = match CallbackUrl::parse(text) {
            Ok(url) => policy.may_submit(&url).err().map(|why| why.to_string()),
            Err(why) => Some(why.to_string()),
        };
        if let Some(message) = refused {
            fault("callback", message);
        }
    }
    let once = match key(headers) {
        Ok(once) => once,
        Err(message) => {
            fault("Idempotency-Key", message);
            None
        }
    };
    if !faults.is_empty() {
        return Err(ApiError::fields(faults));
    }
    let client = session_id(headers)?;
    // Checked as any caller's are; what is the session's and the request's own to say is said when it is sent.
    let session = client.clone().unwrap_or_else(fresh_session_id);
    let mut passed = headers_in(headers, &version, &session, "")?;
    passed.retain(|(name, _)| name != AUTHORIZATION.as_str() && !name.starts_with(OURS));
    Ok(Order {
        kind: TaskKind::Task,
        owner: caller.owner(broker, headers)?,
        version,
        endpoint,
        client,
        once,
        headers: passed,
        retries,
        backoff,
        deadline,
        callback: query.callback,
    })
}

/// Of headers that the runtime says: session, request.
const OURS: &str = "x-amzn-bedrock-agentcore-runtime-session-id";

/// What the endpoint leads to.
fn version(
    broker: &Broker,
    name: &RuntimeName,
    endpoint: &EndpointName,
) -> Result<Arc<RuntimeVersion>, ApiError> {
    let deployed = broker.catalogue.by_name(name).ok_or_else(|| {
        ApiError::not_found(format!(
            "there is no runtime {name}; `agentcore runtime list` shows what is deployed"
        ))
    })?;
    let version = deployed
        .endpoint(endpoint)
        .ok_or_else(|| ApiError::not_found(format!("runtime {name} has no endpoint {endpoint}")))?;
    version.ok_or_else(|| {
        ApiError::new(
            ErrorCode::Conflict,
            format!("endpoint {endpoint} of runtime {name} has no version that can take calls; its status says why"),
        )
    })
}

fn key(headers: &HeaderMap) -> Result<Option<String>, String> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err("is given more than once".to_owned());
    }
    let text = value.to_str().ok();
    let text = text.filter(|text| {
        (1..=MAX_KEY).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
    });
    text.map(|text| Some(text.to_owned()))
        .ok_or_else(|| format!("must be 1 to {MAX_KEY} visible ASCII characters"))
}
