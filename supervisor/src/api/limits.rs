//! Limits of sessions that run, and of a runtime whose sessions run: `/v1/sessions/{id}/limits`, `/v1/runtimes/{name}/resources`.
//!
//! What is answered is what the kernel has, read back. A runtime's versions never change, so new resources are a next version,
//! for sessions to come; those that live get the same limits where they are.

use super::input::{Path, Query, Reading, bounded};
use super::openapi::Refusals;
use super::reply::ApiError;
use super::router::RequestId;
use super::runtimes::{respond, runtime_name, runtime_param};
use super::sessions::live;
use super::to_the_end::to_the_end;
use crate::broker::Broker;
use crate::launcher::message::{Enforced, OrderFault, SetLimits};
use crate::session::handle::SessionHandle;
use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use proto::api::{FieldFault, LimitsPatch, PutRuntime, ResourcesChanged, SessionLimits, Unchanged};
use proto::code::ErrorCode;
use proto::config::Resources;
use proto::ids::RuntimeName;
use proto::units::{CpuMillis, MemoryBytes};
use serde::Deserialize;
use session_core::spec::limit_faults;
use std::sync::Arc;
use utoipa::IntoParams;

/// Which of the sessions that share a caller's id.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// The one of this runtime.
    #[param(value_type = Option<RuntimeName>)]
    runtime: Option<String>,
}

/// `GET /v1/sessions/{id}/limits`.
#[utoipa::path(
    get,
    path = "/sessions/{id}/limits",
    operation_id = "getSessionLimits",
    summary = "A session's limits, as the kernel has them",
    tag = "sessions",
    params(("id" = String, Path, description = "Ours, or the caller's"), Which),
    responses(
        (status = 200, body = SessionLimits, description = "Found"),
        Refusals
    )
)]
pub async fn show(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(session): Path<String>,
    Query(query): Query<Which>,
) -> Response {
    let result = async {
        let runtime = query.runtime.as_deref().map(runtime_param).transpose()?;
        let handle = live(&broker, &session, runtime.as_ref())?;
        let enforced = broker.launcher.limits(handle.id.clone()).await;
        let enforced = enforced.map_err(|fault| told(&handle, &fault))?;
        Ok(Json(shown(&broker, &handle, enforced).await).into_response())
    };
    respond(result.await, &id)
}

/// `PATCH /v1/sessions/{id}/limits`.
#[utoipa::path(
    patch,
    path = "/sessions/{id}/limits",
    operation_id = "setSessionLimits",
    summary = "Changes limits of a session while it runs",
    tag = "sessions",
    params(("id" = String, Path, description = "Ours, or the caller's"), Which),
    request_body(content = LimitsPatch),
    responses(
        (status = 200, body = SessionLimits, description = "As the kernel has them now"),
        Refusals
    )
)]
pub async fn change(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(session): Path<String>,
    Query(query): Query<Which>,
    request: Request,
) -> Response {
    let result = to_the_end(async move {
        let runtime = query.runtime.as_deref().map(runtime_param).transpose()?;
        let patch = patch(&broker, request).await?;
        let handle = live(&broker, &session, runtime.as_ref())?;
        let enforced = apply(&broker, &handle, &patch).await?;
        Ok(Json(shown(&broker, &handle, enforced).await).into_response())
    });
    respond(result.await, &id)
}

/// `PATCH /v1/runtimes/{name}/resources`.
#[utoipa::path(
    patch,
    path = "/runtimes/{name}/resources",
    operation_id = "setRuntimeResources",
    summary = "Changes resources of a runtime: its next version has them, and so have the sessions that live",
    tag = "runtimes",
    params(("name" = RuntimeName, Path)),
    request_body(content = LimitsPatch),
    responses(
        (status = 200, body = ResourcesChanged, description = "Changed"),
        Refusals
    )
)]
pub async fn change_runtime(
    State(broker): State<Arc<Broker>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let result = to_the_end(async move {
        let name = runtime_name(&name)?;
        let patch = patch(&broker, request).await?;
        let runtime = broker.store.runtime(&name).await?;
        let mut config = runtime.config;
        let resources = &mut config.resources;
        resources.memory = patch.memory.or(resources.memory);
        resources.cpus = patch.cpus.or(resources.cpus);
        resources.pids = patch.pids.or(resources.pids);
        resources.cpu_weight = patch.cpu_weight.or(resources.cpu_weight);
        let put = PutRuntime {
            artifact: runtime.artifact,
            config,
        };
        let (runtime, _) = broker.deploy(put).await?;
        let (mut changed, mut unchanged) = (Vec::new(), Vec::new());
        for handle in broker.registry.of_runtime(&runtime.runtime_id) {
            match apply(&broker, &handle, &patch).await {
                Ok(enforced) => changed.push(shown(&broker, &handle, enforced).await),
                Err(error) => unchanged.push(Unchanged {
                    id: handle.id.clone(),
                    reason: error.message,
                }),
            }
        }
        Ok(Json(ResourcesChanged {
            runtime,
            changed,
            unchanged,
        })
        .into_response())
    });
    respond(result.await, &id)
}

/// The body, if what it asks for is within the operator's ceilings.
async fn patch(broker: &Broker, request: Request) -> Result<LimitsPatch, ApiError> {
    let max = broker.config().limits.max_control_body.0;
    let body = bounded(request.into_body(), max).await?;
    let read = Reading::<LimitsPatch>::of(&body)?;
    let mut faults = Vec::new();
    if let Some(patch) = &read.value {
        let asked = Resources {
            memory: patch.memory,
            cpus: patch.cpus,
            pids: patch.pids,
            cpu_weight: patch.cpu_weight,
            tmp_size: None,
        };
        let found = limit_faults(&asked, &broker.host_policy()).into_iter();
        faults.extend(found.map(|fault| FieldFault {
            name: match fault.name.trim_start_matches("resources.") {
                "cpu_weight" => "cpuWeight".to_owned(),
                name => name.to_owned(),
            },
            message: fault.message,
        }));
        if *patch == LimitsPatch::default() {
            faults.push(FieldFault {
                name: "body".to_owned(),
                message: "must have memory, cpus, pids or cpuWeight; a session's tmp_size and open files cannot be changed while it runs".to_owned(),
            });
        }
    }
    read.finish(faults)
}

async fn apply(
    broker: &Broker,
    handle: &SessionHandle,
    patch: &LimitsPatch,
) -> Result<Enforced, ApiError> {
    let order = SetLimits {
        session: handle.id.clone(),
        memory_bytes: patch.memory.map(|memory| memory.0),
        cpu_millis: patch.cpus.map(|cpus| cpus.0),
        pids: patch.pids,
        cpu_weight: patch.cpu_weight,
    };
    let changed = broker.launcher.set_limits(order).await;
    let enforced = changed.map_err(|fault| told(handle, &fault))?;
    if handle.note_limits(enforced, broker.clock.now()) {
        let now = handle.limited();
        let text = format!(
            "limits are now memory {}, cpus {}, pids {}, cpu weight {}",
            now.memory,
            now.cpus.cpus(),
            now.pids,
            now.cpu_weight
        );
        handle.log.note(&text);
        tracing::info!(session_id = %handle.id, runtime = %handle.version.name, text, "limits changed");
    }
    Ok(enforced)
}

async fn shown(broker: &Broker, handle: &SessionHandle, enforced: Enforced) -> SessionLimits {
    let usage = broker.launcher.usage(handle.id.clone()).await;
    let pressure = broker.launcher.pressure(handle.id.clone()).await;
    SessionLimits {
        id: handle.id.clone(),
        memory: enforced.memory_bytes.map(MemoryBytes),
        cpus: enforced.cpu_millis.map(CpuMillis),
        pids: enforced.pids,
        cpu_weight: Some(enforced.cpu_weight),
        // It may be ending just now.
        usage: usage.map(|counters| counters.to_api()).unwrap_or_default(),
        pressure: pressure.ok().flatten().map(|pressure| pressure.to_api()),
    }
}

fn told(handle: &SessionHandle, fault: &OrderFault) -> ApiError {
    match fault {
        OrderFault::MemoryInUse { used } => ApiError::new(
            ErrorCode::Conflict,
            format!(
                "memory: session {} uses {} MiB and cannot give that back now, so its limits stay as they are; ask for more, or stop it",
                handle.id,
                used.div_ceil(1 << 20)
            ),
        ),
        OrderFault::Unknown | OrderFault::Refused(_) => ApiError::new(
            ErrorCode::Conflict,
            format!("session {} is just being made or is ending", handle.id),
        ),
        other => ApiError::internal(other),
    }
}
