//! Which runtime, at which endpoint, a call means.

use crate::api::reply::ApiError;
use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::owner::Owner;
use crate::session::handle::SessionKey;
use percent_encoding::percent_decode_str;
use proto::code::ErrorCode;
use proto::ids::{ClientSessionId, EndpointName, RuntimeId, RuntimeName};
use std::sync::Arc;

/// What the query says.
#[derive(Debug, Default)]
pub(super) struct Query {
    qualifier: Option<String>,
    account: Option<String>,
    /// Of the interactive shell.
    pub(super) shell: Option<String>,
}

impl Query {
    /// Of a path that names the endpoint itself.
    pub(super) fn of_endpoint(name: Option<String>) -> Self {
        Self {
            qualifier: name,
            ..Self::default()
        }
    }

    /// Reads it.
    pub(super) fn of(text: &str) -> Result<Self, ApiError> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // Names too: a signature covers what they mean, not how they are spelled.
            let name = percent_decode_str(name).decode_utf8_lossy();
            let place = match name.as_ref() {
                "qualifier" => &mut query.qualifier,
                "accountId" => &mut query.account,
                "shellId" => &mut query.shell,
                // Unknown parameters are other operations' or newer clients'.
                _ => continue,
            };
            let value = percent_decode_str(value)
                .decode_utf8()
                .map_err(|_| ApiError::field(&name, "is not UTF-8 after percent-decoding"))?;
            if place.replace(value.into_owned()).is_some() {
                return Err(ApiError::field(&name, "is given more than once"));
            }
        }
        Ok(query)
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// What new sessions run.
    pub version: Arc<RuntimeVersion>,
    /// Through which endpoint.
    pub endpoint: EndpointName,
}

impl Target {
    /// The key of a session here.
    pub(super) fn session(&self, client: ClientSessionId, owner: Owner) -> SessionKey {
        SessionKey {
            runtime: self.version.runtime.clone(),
            endpoint: self.endpoint.clone(),
            client,
            owner: if self.version.config.shared {
                Owner::everybody()
            } else {
                owner
            },
        }
    }
}

/// The runtime that an ARN, id or name means.
pub(super) fn resolve(broker: &Broker, label: &str, query: &Query) -> Result<Target, ApiError> {
    if let Some(account) = &query.account
        && (account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err(ApiError::field("accountId", "must be 12 digits"));
    }
    let config = broker.config();
    if let Some(account) = query
        .account
        .as_ref()
        .filter(|account| **account != config.account)
    {
        return Err(ApiError::not_found(format!(
            "account {account} has no runtimes here: this daemon's is {}",
            config.account
        )));
    }
    let (text, named) = match label.strip_prefix("arn:") {
        None => (label, None),
        Some(_) => {
            let parts: Vec<&str> = label.splitn(6, ':').collect();
            let [_, partition, "bedrock-agentcore", region, account, resource] = parts[..] else {
                return Err(ApiError::field(
                    "agentRuntimeArn",
                    "must look like arn:aws:bedrock-agentcore:<region>:<account>:runtime/<id>",
                ));
            };
            let Some(rest) = resource.strip_prefix("runtime/") else {
                return Err(ApiError::field(
                    "agentRuntimeArn",
                    "must name a runtime (`:runtime/<id>`)",
                ));
            };
            if !partition.starts_with("aws")
                || account.len() != 12
                || !account.bytes().all(|b| b.is_ascii_digit())
                || region.is_empty()
                || !region
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            {
                return Err(ApiError::field(
                    "agentRuntimeArn",
                    "has a malformed partition, region or account",
                ));
            }
            if region != config.region || account != config.account {
                return Err(unknown_runtime(label));
            }
            // An endpoint's ARN names its runtime first.
            match rest.split_once("/runtime-endpoint/") {
                Some((id, endpoint)) => (id, Some(endpoint)),
                None => (rest, None),
            }
        }
    };
    let endpoint = endpoint(query.qualifier.as_deref(), named)?;
    let found = if let Ok(name) = RuntimeName::parse(text) {
        broker.catalogue.by_name(&name)
    } else if let Ok(id) = RuntimeId::parse(text) {
        broker.catalogue.by_id(&id)
    } else {
        return Err(ApiError::field(
            "agentRuntimeArn",
            "is not an ARN, a runtime's id or a runtime's name",
        ));
    };
    let deployed = found.ok_or_else(|| unknown_runtime(label))?;
    let (runtime, endpoint_of) = (&deployed.runtime, deployed.endpoint(&endpoint));
    let version = endpoint_of
        .ok_or_else(|| {
            ApiError::not_found(format!("runtime {runtime} has no endpoint {endpoint}"))
        })?
        .ok_or_else(|| {
            ApiError::new(
                ErrorCode::Conflict,
                format!(
                    "endpoint {endpoint} of runtime {runtime} has no version that can take calls; its status says why"
                ),
            )
        })?;
    Ok(Target { version, endpoint })
}

/// The endpoint that the query or an ARN names.
fn endpoint(qualifier: Option<&str>, named: Option<&str>) -> Result<EndpointName, ApiError> {
    if let (Some(qualifier), Some(named)) = (qualifier, named)
        && qualifier != named
    {
        return Err(ApiError::field(
            "qualifier",
            format!("names endpoint {qualifier:?}, the ARN another one"),
        ));
    }
    EndpointName::parse(qualifier.or(named).unwrap_or("DEFAULT"))
        .map_err(|error| ApiError::field("qualifier", error.to_string()))
}

fn unknown_runtime(label: &str) -> ApiError {
    ApiError::not_found(format!(
        "there is no runtime {label}; `agentcore runtime list` shows what is deployed"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_has_one_meaning_however_it_is_spelled() {
        let query = Query::of("%71ualifier=v%31&x=1&shell%49d=s").expect("query");
        assert_eq!(query.qualifier.as_deref(), Some("v1"));
        assert_eq!(query.shell.as_deref(), Some("s"));
        for twice in ["qualifier=a&qualifier=b", "qualifier=a&%71ualifier=a"] {
            let error = Query::of(twice).expect_err(twice);
            assert_eq!(error.fields[0].name, "qualifier");
        }
        assert!(Query::of("qualifier=%ff").is_err());
    }
}
