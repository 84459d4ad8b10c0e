//! Which runtime, at which endpoint, a call means.

use crate::api::reply::ApiError;
use crate::broker::Broker;
use crate::catalogue::{Deployed, RuntimeVersion};
use crate::owner::Owner;
use crate::session::handle::SessionKey;
use percent_encoding::percent_decode_str;
use proto::code::ErrorCode;
use proto::config::Protocol;
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

    /// The endpoint that it or an ARN names; `ours` is the daemon's account.
    fn endpoint(&self, named: Option<&str>, ours: &str) -> Result<EndpointName, ApiError> {
        if self.account.as_deref().is_some_and(|id| !is_account(id)) {
            return Err(ApiError::field("accountId", "must be 12 digits"));
        }
        let qualifier = self.qualifier.as_deref();
        if let (Some(qualifier), Some(named)) = (qualifier, named)
            && qualifier != named
        {
            return Err(ApiError::field(
                "qualifier",
                format!("names endpoint {qualifier:?}, the ARN another one"),
            ));
        }
        let endpoint = EndpointName::parse(qualifier.or(named).unwrap_or("DEFAULT"))
            .map_err(|error| ApiError::field("qualifier", error.to_string()))?;
        match &self.account {
            Some(account) if account != ours => Err(ApiError::not_found(format!(
                "account {account} has no runtimes here: this daemon's is {ours}"
            ))),
            Some(_) | None => Ok(endpoint),
        }
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

/// What is known of whom a call means.
pub(super) struct Meant {
    /// Where it goes, or why nowhere.
    pub target: Result<Target, ApiError>,
    /// The runtime, if there is one: what is wrong may be the rest.
    pub runtime: Option<Deployed>,
}

impl Meant {
    /// The version whose rules count for the call: the target's, or DEFAULT's if it goes nowhere.
    pub(super) fn version(&self) -> Option<&Arc<RuntimeVersion>> {
        let default = || self.runtime.as_ref()?.default.as_ref();
        match &self.target {
            Ok(target) => Some(&target.version),
            Err(_) => default(),
        }
    }

    /// The runtime's name.
    pub(super) fn name(&self) -> Option<RuntimeName> {
        RuntimeName::parse(self.runtime.as_ref()?.runtime.name()).ok()
    }

    /// What those speak who are called; plain HTTP if nobody is.
    pub(super) fn protocol(&self) -> Protocol {
        let newest = || self.runtime.as_ref().map(|runtime| runtime.protocol);
        let called = self.version().map(|version| version.spec.protocol);
        called.or_else(newest).unwrap_or(Protocol::Http)
    }
}

/// Whom an ARN, id or name means, with what the query says. What breaks a rule is found before it matters who is there.
pub(super) fn resolve(broker: &Broker, label: &str, query: &Result<Query, ApiError>) -> Meant {
    let (named, runtime) = match runtime(broker, label) {
        Ok((named, runtime)) => (Ok(named), runtime),
        Err(fault) => (Err(fault), None),
    };
    let endpoint = match (query, named) {
        (Ok(query), Ok(named)) => query.endpoint(named, &broker.config().account),
        (Err(fault), _) => Err(fault.clone()),
        (_, Err(fault)) => Err(fault),
    };
    let target = endpoint.and_then(|endpoint| match &runtime {
        Some(deployed) => target(deployed, endpoint),
        None => Err(unknown_runtime(label)),
    });
    Meant { target, runtime }
}

/// The endpoint that an ARN names, and the runtime, if it is there.
fn runtime<'a>(
    broker: &Broker,
    label: &'a str,
) -> Result<(Option<&'a str>, Option<Deployed>), ApiError> {
    let fault = |text: &str| ApiError::field("agentRuntimeArn", text);
    let config = broker.config();
    let (text, named) = match label.strip_prefix("arn:") {
        None => (label, None),
        Some(_) => {
            let parts: Vec<&str> = label.splitn(6, ':').collect();
            let [_, partition, "bedrock-agentcore", region, account, resource] = parts[..] else {
                return Err(fault(
                    "must look like arn:aws:bedrock-agentcore:<region>:<account>:runtime/<id>",
                ));
            };
            let Some(rest) = resource.strip_prefix("runtime/") else {
                return Err(fault("must name a runtime (`:runtime/<id>`)"));
            };
            let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if !partition.starts_with("aws")
                || !is_account(account)
                || region.is_empty()
                || !region.bytes().all(letter)
            {
                return Err(fault("has a malformed partition, region or account"));
            }
            // An endpoint's ARN names its runtime first.
            let (id, endpoint) = match rest.split_once("/runtime-endpoint/") {
                Some((id, endpoint)) => (id, Some(endpoint)),
                None => (rest, None),
            };
            if region != config.region || account != config.account {
                return Ok((endpoint, None));
            }
            (id, endpoint)
        }
    };
    let found = if let Ok(name) = RuntimeName::parse(text) {
        broker.catalogue.by_name(&name)
    } else if let Ok(id) = RuntimeId::parse(text) {
        broker.catalogue.by_id(&id)
    } else {
        return Err(fault("is not an ARN, a runtime's id or a runtime's name"));
    };
    Ok((named, found))
}

fn target(deployed: &Deployed, endpoint: EndpointName) -> Result<Target, ApiError> {
    let runtime = &deployed.runtime;
    let version = deployed
        .endpoint(&endpoint)
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

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
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
