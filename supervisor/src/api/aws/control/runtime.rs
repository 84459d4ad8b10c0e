//! Runtimes and their versions (contract §3.1, §3.2).

use super::Answer;
use super::input::Input;
use super::mapping::{self, S3};
use crate::api::authorize::{self, Presented};
use crate::api::reply::ApiError;
use crate::broker::Broker;
use crate::permit::Action;
use crate::store::{Done, NewVersion, State, VersionOf, VersionRecord};
use proto::api::EndReason;
use proto::config::{NetworkMode, RuntimeConfig};
use proto::ids::{ArtifactId, RuntimeName};
use proto::ports::Ports;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Members of a request that are not part of what GetAgentRuntime gives back.
const NOT_KEPT: &[&str] = &["agentRuntimeName", "agentRuntimeId", "clientToken", "tags"];

/// CreateAgentRuntime.
pub(super) async fn create(
    broker: &Arc<Broker>,
    presented: &Presented,
    input: Input,
) -> Result<Answer, ApiError> {
    if let Some(answer) = answered(broker, &input).await? {
        return Ok(answer);
    }
    let name = RuntimeName::parse(input.text("agentRuntimeName").unwrap_or_default())
        .map_err(|error| ApiError::field("agentRuntimeName", error.to_string()))?;
    let wanted = mapping::wanted(broker, name, None, &input)?;
    let artifact = code(broker, presented, &wanted.code).await?;
    make(
        broker,
        VersionOf::New,
        (wanted.config, artifact),
        &input,
        created,
    )
    .await
}

/// UpdateAgentRuntime: replaces everything, as a new version.
pub(super) async fn update(
    broker: &Arc<Broker>,
    presented: &Presented,
    input: Input,
) -> Result<Answer, ApiError> {
    if let Some(answer) = answered(broker, &input).await? {
        return Ok(answer);
    }
    let id = input.runtime()?;
    let newest = broker.store.version_record(&id, None).await?;
    let wanted = mapping::wanted(broker, newest.name, Some(&newest.config), &input)?;
    let artifact = code(broker, presented, &wanted.code).await?;
    make(
        broker,
        VersionOf::Existing(id),
        (wanted.config, artifact),
        &input,
        updated,
    )
    .await
}

/// GetAgentRuntime.
pub(super) async fn get(broker: &Arc<Broker>, input: &Input) -> Result<Answer, ApiError> {
    let id = input.runtime()?;
    let record = broker.store.version_record(&id, input.version()?).await?;
    Ok(Answer::ok(whole(broker, &record)))
}

/// DeleteAgentRuntime: all of it, or one version that nothing leads to.
pub(super) async fn delete(broker: &Arc<Broker>, input: &Input) -> Result<Answer, ApiError> {
    let id = input.runtime()?;
    let once = input.once();
    if let Some(number) = input.version()? {
        let done = broker
            .store
            .delete_version(&id, number, once, version_deleted);
        return Ok(Answer::accepted(match done.await? {
            Done::Now(record) => version_deleted(&record),
            Done::Before(answer) => answer,
        }));
    }
    let done = broker.store.delete_runtime_by_id(&id, once, deleted);
    match done.await? {
        Done::Now(record) => {
            broker.refresh(&record.name).await?;
            broker.forget_storage(id.clone());
            crate::tasks::runtime_deleted(broker, id.clone());
            for session in broker.registry.of_runtime(&id) {
                session.stop(EndReason::Stopped).await;
            }
            broker.pool.retire(broker, &id).await;
            Ok(Answer::accepted(deleted(&record)))
        }
        Done::Before(answer) => Ok(Answer::accepted(answer)),
    }
}

/// ListAgentRuntimes.
pub(super) async fn list(broker: &Arc<Broker>, input: &Input) -> Result<Answer, ApiError> {
    let page = broker.store.newest_versions(input.page()?).await?;
    Ok(Answer::ok(listed(&page.items, page.next_token)))
}

/// ListAgentRuntimeVersions.
pub(super) async fn versions(broker: &Arc<Broker>, input: &Input) -> Result<Answer, ApiError> {
    let page = broker
        .store
        .version_records(&input.runtime()?, input.page()?)
        .await?;
    Ok(Answer::ok(listed(&page.items, page.next_token)))
}

/// What the same request with the same token was answered before.
async fn answered(broker: &Broker, input: &Input) -> Result<Option<Answer>, ApiError> {
    match input.once() {
        Some(once) => Ok(broker
            .store
            .answered_before(once)
            .await?
            .map(Answer::accepted)),
        None => Ok(None),
    }
}

async fn make(
    broker: &Arc<Broker>,
    of: VersionOf,
    (config, artifact): (RuntimeConfig, ArtifactId),
    input: &Input,
    told: fn(&VersionRecord) -> Value,
) -> Result<Answer, ApiError> {
    let new = NewVersion {
        of,
        artifact,
        config,
        state: State::Making,
        typed: Some(input.without(NOT_KEPT)),
        tags: input.texts("tags"),
        quotas: broker.config().limits.quotas,
        once: input.once(),
    };
    match broker.store.make_version(new, told).await? {
        Done::Before(answer) => Ok(Answer::accepted(answer)),
        Done::Now((record, _)) => {
            let answer = told(&record);
            broker.refresh(&record.name).await?;
            broker.make_in_background(record);
            Ok(Answer::accepted(answer))
        }
    }
}

/// The bytes that an object has now: what the version is made of, whatever becomes of the object. Who deploys it must be
/// permitted to read it; on AWS the runtime's role is.
async fn code(broker: &Broker, presented: &Presented, place: &S3) -> Result<ArtifactId, ApiError> {
    let field = "agentRuntimeArtifact.codeConfiguration.code.s3";
    let S3 {
        bucket,
        prefix,
        version_id,
    } = place;
    let asker = authorize::on_object(broker, presented, Action::GET_OBJECT, bucket, prefix)?;
    let found = broker.objects.find(&asker, bucket, prefix).await?;
    let row = found.ok_or_else(|| {
        ApiError::field(
            field,
            format!(
                "names an object that is not there: s3://{bucket}/{prefix}; upload it to this daemon first (endpoint_url …/s3)"
            ),
        )
    })?;
    if let Some(wanted) = version_id.as_ref().filter(|wanted| **wanted != row.version) {
        return Err(ApiError::field(
            &format!("{field}.versionId"),
            format!(
                "is {wanted}, but s3://{bucket}/{prefix} has version {} only; older ones are not kept",
                row.version
            ),
        ));
    }
    ArtifactId::parse(row.sha256).map_err(|error| ApiError::internal(&error))
}

fn status(record: &VersionRecord) -> &'static str {
    record.state.status(record.number)
}

fn created(record: &VersionRecord) -> Value {
    json!({
        "agentRuntimeArn": record.arn,
        "agentRuntimeId": record.runtime,
        "agentRuntimeVersion": record.number.to_string(),
        "createdAt": record.runtime_created_at.to_string(),
        "status": status(record),
    })
}

fn updated(record: &VersionRecord) -> Value {
    let mut answer = created(record);
    answer["lastUpdatedAt"] = record.created_at.to_string().into();
    answer
}

fn deleted(record: &VersionRecord) -> Value {
    json!({ "status": "DELETING", "agentRuntimeId": record.runtime })
}

fn version_deleted(record: &VersionRecord) -> Value {
    json!({
        "status": "DELETING",
        "agentRuntimeId": record.runtime,
        "agentRuntimeVersion": record.number.to_string(),
    })
}

fn listed(records: &[VersionRecord], next: Option<String>) -> Value {
    let items: Vec<Value> = records
        .iter()
        .map(|record| {
            json!({
                "agentRuntimeArn": record.arn,
                "agentRuntimeId": record.runtime,
                "agentRuntimeVersion": record.number.to_string(),
                "agentRuntimeName": record.name,
                "description": record.config.description.clone().unwrap_or_default(),
                "lastUpdatedAt": record.created_at.to_string(),
                "status": status(record),
            })
        })
        .collect();
    let mut answer = json!({ "agentRuntimes": items });
    if let Some(next) = next {
        answer["nextToken"] = next.into();
    }
    answer
}

/// Everything about a version: as it was typed, and what the daemon adds.
fn whole(broker: &Broker, record: &VersionRecord) -> Value {
    let typed = match &record.typed {
        Some(Value::Object(typed)) => typed.clone(),
        Some(_) | None => told_as_typed(broker, &record.config, &record.artifact),
    };
    let mut answer = match updated(record) {
        Value::Object(answer) => answer,
        _ => Map::new(),
    };
    answer.extend(typed);
    answer.insert("agentRuntimeName".to_owned(), json!(record.name));
    if let Some(reason) = record.state.failure() {
        answer.insert("failureReason".to_owned(), json!(reason));
    }
    // Required, with what is in force where nothing was said.
    let lifecycle = &record.config.lifecycle;
    let defaults = broker.config().defaults;
    let lifetime = lifecycle.max_lifetime.unwrap_or(defaults.max_lifetime);
    let idle = lifecycle
        .idle_timeout
        .unwrap_or(defaults.idle_timeout.min(lifetime));
    answer.insert(
        "lifecycleConfiguration".to_owned(),
        json!({ "idleRuntimeSessionTimeout": idle.0, "maxLifetime": lifetime.0 }),
    );
    Value::Object(answer)
}

/// A version that came by `/v1`, as if it had come by this wire.
fn told_as_typed(
    broker: &Broker,
    config: &RuntimeConfig,
    artifact: &ArtifactId,
) -> Map<String, Value> {
    let account = broker.config().account.clone();
    let mut told = Map::new();
    let mut say = |name: &str, value: Value| told.insert(name.to_owned(), value);
    // Required by the model, and nobody's here.
    say(
        "roleArn",
        json!(format!("arn:aws:iam::{account}:role/agentcore-local")),
    );
    let node = config
        .entrypoint
        .words()
        .first()
        .is_some_and(|file| file.ends_with("js"));
    say(
        "agentRuntimeArtifact",
        json!({ "codeConfiguration": {
            "code": { "s3": { "bucket": "v1-artifacts", "prefix": artifact } },
            "runtime": if node { "NODE_22" } else { "PYTHON_3_11" },
            "entryPoint": config.entrypoint.words().iter().take(2).collect::<Vec<_>>(),
        }}),
    );
    let mut protocol = json!({ "serverProtocol": config.protocol });
    if let Some(port) = config.port {
        protocol["port"] = port.into();
    }
    if let Some(path) = &config.path {
        protocol["path"] = path.as_str().into();
    }
    say("protocolConfiguration", protocol);
    if config.network.mode != Some(NetworkMode::None) {
        say("networkConfiguration", json!({ "networkMode": "PUBLIC" }));
    }
    if let Some(description) = &config.description {
        say("description", json!(description));
    }
    if !config.environment.is_empty() {
        say("environmentVariables", json!(config.environment));
    }
    if !config.request_headers.is_empty() {
        say(
            "requestHeaderConfiguration",
            json!({ "requestHeaderAllowlist": config.request_headers }),
        );
    }
    if !config.allowed_ports.is_empty() {
        say(
            "allowedPorts",
            config.allowed_ports.iter().map(allowed_port).collect(),
        );
    }
    if let Some(storage) = config.storage.first() {
        say(
            "filesystemConfigurations",
            json!([{ "sessionStorage": { "mountPath": storage.mount } }]),
        );
    }
    if let Some(path) = &config.warmup {
        say(
            "hooksConfiguration",
            json!({ "build": { "warmup": { "action": { "httpPost": { "path": path } } } } }),
        );
    }
    told
}

fn allowed_port(ports: &Ports) -> Value {
    match ports.from == ports.to {
        true => json!({ "port": ports.from }),
        false => json!({ "portRange": { "from": ports.from, "to": ports.to } }),
    }
}
