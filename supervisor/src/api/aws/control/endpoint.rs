//! Endpoints (contract §3.4).

use super::Answer;
use super::input::Input;
use crate::api::reply::ApiError;
use crate::broker::Broker;
use crate::store::{Done, EndpointRecord, NewEndpoint};
use serde_json::{Value, json};
use std::sync::Arc;

/// CreateAgentRuntimeEndpoint.
pub(super) async fn create(broker: &Arc<Broker>, input: &Input) -> Result<Answer, ApiError> {
    put(broker, input, "name", true, created).await
}

/// UpdateAgentRuntimeEndpoint: what is not said stays.
pub(super) async fn update(broker: &Arc<Broker>, input: &Input) -> Result<Answer, ApiError> {
    put(broker, input, "endpointName", false, updated).await
}

async fn put(
    broker: &Arc<Broker>,
    input: &Input,
    name: &str,
    new: bool,
    told: fn(&EndpointRecord) -> Value,
) -> Result<Answer, ApiError> {
    let runtime = input.runtime()?;
    let endpoint = NewEndpoint {
        runtime: runtime.clone(),
        name: input.endpoint(name)?,
        version: input.version()?,
        description: input.text("description").map(str::to_owned),
        new: Some(new),
        tags: input.texts("tags"),
        most: broker.config().limits.quotas.endpoints,
        once: input.once(),
    };
    match broker.store.put_endpoint(endpoint, told).await? {
        Done::Before(answer) => Ok(Answer::accepted(answer)),
        Done::Now((record, _)) => {
            broker.refresh_by_id(&runtime).await?;
            Ok(Answer::accepted(told(&record)))
        }
    }
}

/// GetAgentRuntimeEndpoint.
pub(super) async fn get(broker: &Arc<Broker>, input: &Input) -> Result<Answer, ApiError> {
    let (runtime, name) = (input.runtime()?, input.endpoint("endpointName")?);
    let record = broker.store.endpoint(&runtime, &name).await?;
    let mut answer = item(&record);
    if let Some(reason) = &record.failure {
        answer["failureReason"] = reason.as_str().into();
    }
    Ok(Answer::ok(answer))
}

/// DeleteAgentRuntimeEndpoint. Its live sessions go on until they end by themselves.
pub(super) async fn delete(broker: &Arc<Broker>, input: &Input) -> Result<Answer, ApiError> {
    let runtime = input.runtime()?;
    let name = input.endpoint("endpointName")?;
    let done = broker
        .store
        .delete_endpoint(&runtime, &name, input.once(), deleted);
    match done.await? {
        Done::Before(answer) => Ok(Answer::accepted(answer)),
        Done::Now(record) => {
            broker.refresh_by_id(&runtime).await?;
            Ok(Answer::accepted(deleted(&record)))
        }
    }
}

/// ListAgentRuntimeEndpoints.
pub(super) async fn list(broker: &Arc<Broker>, input: &Input) -> Result<Answer, ApiError> {
    let page = broker
        .store
        .endpoints(&input.runtime()?, input.page()?)
        .await?;
    let items: Vec<Value> = page.items.iter().map(item).collect();
    let mut answer = json!({ "runtimeEndpoints": items });
    if let Some(next) = page.next_token {
        answer["nextToken"] = next.into();
    }
    Ok(Answer::ok(answer))
}

fn created(record: &EndpointRecord) -> Value {
    json!({
        "targetVersion": record.target.to_string(),
        "agentRuntimeEndpointArn": record.arn,
        "agentRuntimeArn": record.runtime_arn,
        "agentRuntimeId": record.runtime,
        "endpointName": record.name,
        "status": record.status,
        "createdAt": record.created_at.to_string(),
    })
}

fn updated(record: &EndpointRecord) -> Value {
    let mut answer = json!({
        "targetVersion": record.target.to_string(),
        "agentRuntimeEndpointArn": record.arn,
        "agentRuntimeArn": record.runtime_arn,
        "status": record.status,
        "createdAt": record.created_at.to_string(),
        "lastUpdatedAt": record.updated_at.to_string(),
    });
    if let Some(live) = record.live {
        answer["liveVersion"] = live.to_string().into();
    }
    answer
}

fn item(record: &EndpointRecord) -> Value {
    let mut answer = updated(record);
    answer["name"] = json!(record.name);
    answer["id"] = json!(record.id);
    if let Some(description) = &record.description {
        answer["description"] = description.as_str().into();
    }
    answer
}

fn deleted(record: &EndpointRecord) -> Value {
    json!({
        "status": "DELETING",
        "agentRuntimeId": record.runtime,
        "endpointName": record.name,
    })
}
