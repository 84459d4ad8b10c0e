//! An operation's input: body, path and query put together and held to the model.

use super::Operation;
use super::model::{self, Place};
use crate::api::authorize::{self, Presented};
use crate::api::identify::Caller;
use crate::api::input::bounded;
use crate::api::reply::ApiError;
use crate::broker::Broker;
use crate::objects::hex;
use crate::store::{Once, PageRequest};
use axum::extract::Request;
use proto::ids::{EndpointName, RuntimeId, RuntimeName, VersionNumber};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// A request that keeps to the model.
#[derive(Debug)]
pub(super) struct Input {
    /// Its members, whose types and bounds are known.
    fields: Map<String, Value>,
    operation: Operation,
    caller: String,
}

impl Input {
    /// Reads a request, of whoever may make it; everything that is wrong with it at once.
    pub(super) async fn read(
        broker: &Broker,
        presented: &Presented,
        operation: Operation,
        labels: Vec<(&'static str, String)>,
        request: Request,
    ) -> Result<Self, ApiError> {
        let action = operation.action();
        let shape = model::input(action.name());
        // Before anything else of it is looked at. Of a runtime that is to be made only the body has the name.
        let known = if operation == Operation::CreateAgentRuntime {
            authorize::anywhere(presented, action)?;
            None
        } else {
            Some(permitted(presented, operation, of_path(&labels))?)
        };
        let query = request.uri().query().unwrap_or_default().to_owned();
        let max = broker.config().limits.max_control_body.0;
        let body = bounded(request.into_body(), max).await?;
        let mut fields = of_body(&body)?;
        // What belongs in the path must not come by the body.
        if let Some(stranger) = fields.keys().find(|name| {
            !shape.in_body(name) && shape.outside().any(|outside| outside.name == name.as_str())
        }) {
            return Err(ApiError::field(stranger, "does not belong in the body"));
        }
        drop_nulls(&mut fields);
        for (name, label) in labels {
            fields.insert(name.to_owned(), Value::from(label));
        }
        for outside in shape.outside() {
            if outside.place == Place::QueryString {
                let given: Vec<String> = form_urlencoded::parse(query.as_bytes())
                    .filter(|(name, _)| name == outside.wire)
                    .map(|(_, value)| value.into_owned())
                    .collect();
                if let Some(value) = of_query(&outside, given)? {
                    fields.insert(outside.name.to_owned(), value);
                }
            }
        }
        let value = Value::Object(fields);
        let faults = shape.faults(&value);
        if !faults.is_empty() {
            return Err(ApiError::fields(faults));
        }
        let Value::Object(fields) = value else {
            return Err(ApiError::field("body", "must be an object"));
        };
        let mut input = Self {
            fields,
            operation,
            caller: String::new(),
        };
        let caller = match known {
            Some(caller) => caller,
            None => permitted(presented, operation, input.names())?,
        };
        input.caller = caller
            .principal(broker)
            .map_or_else(String::new, |principal| principal.as_str().to_owned());
        Ok(input)
    }

    /// The name of the runtime that is to be made.
    fn names(&self) -> Option<RuntimeName> {
        RuntimeName::parse(self.text("agentRuntimeName")?).ok()
    }

    /// A text member; its bounds are the model's.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name).and_then(Value::as_str)
    }

    /// Whatever a member says.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    /// All members but those named.
    pub(super) fn without(&self, names: &[&str]) -> Value {
        let mut fields = self.fields.clone();
        fields.retain(|name, _| !names.contains(&name.as_str()));
        Value::Object(fields)
    }

    /// A map of texts; empty if absent.
    pub(super) fn texts(&self, name: &str) -> BTreeMap<String, String> {
        let entries = self.fields.get(name).and_then(Value::as_object);
        entries
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect()
    }

    /// A list of texts; empty if absent.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let items = self.fields.get(name).and_then(Value::as_array);
        items
            .into_iter()
            .flatten()
            .filter_map(|item| Some(item.as_str()?.to_owned()))
            .collect()
    }

    /// `agentRuntimeId`.
    pub(super) fn runtime(&self) -> Result<RuntimeId, ApiError> {
        let text = self.text("agentRuntimeId").unwrap_or_default();
        // The model's names are twice as long as those that can be made; no such runtime exists.
        RuntimeId::parse(text)
            .map_err(|_| ApiError::not_found(format!("there is no runtime {text}")))
    }

    /// `endpointName`, or `name` where an endpoint is made.
    pub(super) fn endpoint(&self, member: &str) -> Result<EndpointName, ApiError> {
        EndpointName::parse(self.text(member).unwrap_or_default())
            .map_err(|error| ApiError::field(member, error.to_string()))
    }

    /// `agentRuntimeVersion`.
    pub(super) fn version(&self) -> Result<Option<VersionNumber>, ApiError> {
        let parse = |text: &str| {
            text.parse()
                .map(VersionNumber)
                .map_err(|_| ApiError::field("agentRuntimeVersion", "must be a number"))
        };
        self.text("agentRuntimeVersion").map(parse).transpose()
    }

    /// `maxResults` and `nextToken`.
    pub(super) fn page(&self) -> Result<PageRequest, ApiError> {
        let most = self.fields.get("maxResults").and_then(Value::as_u64);
        let most = most.and_then(|most| u32::try_from(most).ok());
        Ok(PageRequest::parse(most, self.text("nextToken"))?)
    }

    /// The caller's token, if it gave one.
    pub(super) fn once(&self) -> Option<Once> {
        let token = self.text("clientToken")?.to_owned();
        let rest = self.without(&["clientToken"]).to_string();
        Some(Once {
            caller: self.caller.clone(),
            operation: self.operation.action().name(),
            token,
            digest: hex(&Sha256::digest(rest.as_bytes())),
        })
    }
}

/// The caller, if it may do this to the runtime of that name, or to none in particular.
fn permitted(
    presented: &Presented,
    operation: Operation,
    concerned: Option<RuntimeName>,
) -> Result<Caller, ApiError> {
    let action = operation.action();
    match concerned {
        Some(name) => authorize::on_name(presented, action, &name),
        None => authorize::without_runtime(presented, action),
    }
}

/// The name of the runtime that a path concerns, whether or not there is one.
fn of_path(labels: &[(&'static str, String)]) -> Option<RuntimeName> {
    let label = |wanted: &str| {
        let found = labels.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, label)| label.as_str())
    };
    let id = match label("agentRuntimeId") {
        Some(id) => id,
        None => {
            let (_, resource) = label("resourceArn")?.split_once(":runtime/")?;
            resource.split('/').next()?
        }
    };
    let (name, _) = id.rsplit_once('-')?;
    RuntimeName::parse(name).ok()
}

/// A body's object; nothing at all counts as an empty one, whatever the media type (contract §7.3).
fn of_body(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ApiError::new(
            proto::code::ErrorCode::Validation,
            "the body must be a JSON object",
        )),
        Err(error) => Err(ApiError::new(
            proto::code::ErrorCode::Validation,
            format!("the body is not JSON: {error}"),
        )),
    }
}

/// A member that is null is one that is not there, as everywhere in AWS's JSON.
fn drop_nulls(fields: &mut Map<String, Value>) {
    fields.retain(|_, value| !value.is_null());
    for value in fields.values_mut() {
        if let Value::Object(fields) = value {
            drop_nulls(fields);
        }
    }
}

fn of_query(
    outside: &model::Outside<'_>,
    mut given: Vec<String>,
) -> Result<Option<Value>, ApiError> {
    if outside.list {
        return Ok((!given.is_empty()).then(|| Value::from(given)));
    }
    if given.len() > 1 {
        return Err(ApiError::field(outside.name, "is given more than once"));
    }
    let Some(text) = given.pop() else {
        return Ok(None);
    };
    if !outside.number {
        return Ok(Some(Value::from(text)));
    }
    let number: i64 = text
        .parse()
        .map_err(|_| ApiError::field(outside.name, "must be a whole number"))?;
    Ok(Some(Value::from(number)))
}
