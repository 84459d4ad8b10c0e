//! What CreateAgentRuntime and UpdateAgentRuntime ask for, in this daemon's own terms: a [`RuntimeConfig`] and the object
//! that holds the code. Everything that is accepted takes effect; everything else is refused with its field and the reason.

use super::input::Input;
use crate::api::reply::ApiError;
use crate::broker::Broker;
use proto::api::FieldFault;
use proto::config::{
    Authorizer, ClaimOperator, ClaimType, ClaimValue, Concurrency, CustomClaim, Entrypoint,
    Language, Lifecycle, Network, NetworkMode, Protocol, Resources, RuntimeConfig, StorageMount,
};
use proto::ids::RuntimeName;
use proto::ports::Ports;
use proto::units::{MemoryBytes, Seconds};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

const CODE: &str = "agentRuntimeArtifact.codeConfiguration";

/// The wrapper that AWS knows by name (contract §1.10).
const WRAPPER: &str = "opentelemetry-instrument";

/// Where a bundle that vendors the wrapper has it: `pip install --target` puts programs there.
const WRAPPER_FILE: &str = "bin/opentelemetry-instrument";

/// Which object holds the code.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct S3 {
    pub(super) bucket: String,
    /// The key; AWS calls it prefix.
    pub(super) prefix: String,
    pub(super) version_id: Option<String>,
}

/// What is asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) config: RuntimeConfig,
    pub(super) code: S3,
}

/// The members that are understood; the model has checked their types.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    agent_runtime_artifact: Artifact,
    description: Option<String>,
    network_configuration: Option<Value>,
    protocol_configuration: Option<ProtocolConfiguration>,
    lifecycle_configuration: Option<LifecycleConfiguration>,
    #[serde(default)]
    environment_variables: BTreeMap<String, String>,
    request_header_configuration: Option<Headers>,
    #[serde(default)]
    allowed_ports: Vec<AllowedPort>,
    hooks_configuration: Option<Value>,
    #[serde(default)]
    resource_configurations: Vec<Resource>,
    authorizer_configuration: Option<AuthorizerConfiguration>,
}

#[derive(Debug, Deserialize)]
struct AuthorizerConfiguration {
    #[serde(rename = "customJWTAuthorizer")]
    jwt: Jwt,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Jwt {
    discovery_url: String,
    allowed_audience: Option<Vec<String>>,
    allowed_clients: Option<Vec<String>>,
    allowed_scopes: Option<Vec<String>>,
    custom_claims: Option<Vec<Claim>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claim {
    inbound_token_claim_name: String,
    inbound_token_claim_value_type: ClaimType,
    authorizing_claim_match_value: Match,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Match {
    claim_match_value: MatchValue,
    claim_match_operator: ClaimOperator,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
enum MatchValue {
    MatchValueString(String),
    MatchValueStringList(Vec<String>),
}

impl From<Jwt> for Authorizer {
    fn from(asked: Jwt) -> Self {
        let claim = |asked: Claim| CustomClaim {
            name: asked.inbound_token_claim_name,
            value_type: asked.inbound_token_claim_value_type,
            operator: asked.authorizing_claim_match_value.claim_match_operator,
            value: match asked.authorizing_claim_match_value.claim_match_value {
                MatchValue::MatchValueString(value) => ClaimValue::One(value),
                MatchValue::MatchValueStringList(values) => ClaimValue::Any(values),
            },
        };
        Self {
            discovery_url: asked.discovery_url,
            allowed_audience: asked.allowed_audience,
            allowed_clients: asked.allowed_clients,
            allowed_scopes: asked.allowed_scopes,
            custom_claims: asked
                .custom_claims
                .map(|claims| claims.into_iter().map(claim).collect()),
        }
    }
}

/// Members of `customJWTAuthorizer` that are not offered.
const NOT_AUTHORIZED: &[&str] = &[
    "advertisedScopeMapping",
    "privateEndpoint",
    "privateEndpointOverrides",
    "certificateConfigurations",
    "allowedWorkloadConfiguration",
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Artifact {
    code_configuration: Option<Code>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Code {
    code: Place,
    runtime: String,
    entry_point: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Place {
    s3: S3,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProtocolConfiguration {
    server_protocol: Protocol,
    port: Option<u16>,
    path: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LifecycleConfiguration {
    idle_runtime_session_timeout: Option<u32>,
    max_lifetime: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Headers {
    request_header_allowlist: Vec<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum AllowedPort {
    Port(u16),
    PortRange { from: u16, to: u16 },
}

impl From<AllowedPort> for Ports {
    fn from(asked: AllowedPort) -> Self {
        match asked {
            AllowedPort::Port(port) => Self::one(port),
            AllowedPort::PortRange { from, to } => Self { from, to },
        }
    }
}

#[derive(Debug, Deserialize)]
struct Resource {
    #[serde(rename = "minimumMemoryInMiB")]
    minimum_memory: i64,
}

/// Members that this daemon does not offer, and what it says of them.
const NOT_HERE: &[(&str, &str)] = &[(
    "capacityProviderConfiguration",
    "cannot be used: this daemon has no capacity providers, its sessions run on this host",
)];

/// Reads a request. What this wire cannot say stays as the runtime's newest version, `before`, has it.
pub(super) fn wanted(
    broker: &Broker,
    name: RuntimeName,
    before: Option<&RuntimeConfig>,
    input: &Input,
) -> Result<Wanted, ApiError> {
    let mut faults = Vec::new();
    for (field, why) in NOT_HERE {
        if input.get(field).is_some() {
            fault(&mut faults, field, *why);
        }
    }
    refuse_parts(input, &mut faults);
    let asked: Asked = serde_json::from_value(input.without(&[])).map_err(|error| {
        // The model lets through what these types take.
        ApiError::internal(&error)
    })?;
    let warmup = warmup(&asked, &mut faults);
    let storage = storage(input, &mut faults);
    let network = network(asked.network_configuration.as_ref(), &mut faults);
    let Some(code) = asked.agent_runtime_artifact.code_configuration else {
        fault(
            &mut faults,
            "agentRuntimeArtifact.containerConfiguration",
            "cannot be used yet: this daemon runs no container images; give the code as a zip by codeConfiguration",
        );
        return Err(ApiError::fields(faults));
    };
    let (entrypoint, language, version) = command(&code, &mut faults);
    let protocol = asked.protocol_configuration;
    let lifecycle = asked.lifecycle_configuration;
    let headers = asked.request_header_configuration;
    let default_memory = broker.config().defaults.memory;
    let config = RuntimeConfig {
        name,
        entrypoint,
        description: asked.description,
        protocol: protocol
            .as_ref()
            .map_or(Protocol::Http, |asked| asked.server_protocol),
        port: protocol.as_ref().and_then(|asked| asked.port),
        path: protocol.and_then(|asked| asked.path),
        warmup,
        request_headers: headers.map_or_else(Vec::new, |asked| asked.request_header_allowlist),
        allowed_ports: asked.allowed_ports.into_iter().map(Ports::from).collect(),
        language: Some(language),
        language_version: Some(version),
        requirements: None,
        environment: asked.environment_variables,
        lifecycle: Lifecycle {
            idle_timeout: lifecycle
                .as_ref()
                .and_then(|asked| asked.idle_runtime_session_timeout.map(Seconds)),
            max_lifetime: lifecycle.and_then(|asked| asked.max_lifetime.map(Seconds)),
            ..Lifecycle::default()
        },
        resources: Resources {
            // At least as much: a session that would get more without being asked still does.
            memory: asked.resource_configurations.first().map(|asked| {
                let bytes = u64::try_from(asked.minimum_memory).unwrap_or(0) << 20;
                MemoryBytes(bytes).max(match bytes {
                    0 => MemoryBytes(0),
                    _ => default_memory,
                })
            }),
            ..Resources::default()
        },
        network,
        authorizer: asked.authorizer_configuration.map(|asked| asked.jwt.into()),
        // AWS does not order the invocations of a session.
        concurrency: before.map_or(Concurrency::Parallel, |before| before.concurrency),
        shared: before.is_some_and(|before| before.shared),
        storage,
        // Nor has it budgets.
        budget: before.map(|before| before.budget).unwrap_or_default(),
        pool: before.map_or_else(proto::config::Pool::default, |before| before.pool),
    };
    // A language that this host lacks is found out while the version is made (contract §1.10).
    let more = broker
        .faults(&config)
        .into_iter()
        .filter(|fault| !fault.name.starts_with("language"));
    faults.extend(more.map(wire_name));
    if faults.is_empty() {
        Ok(Wanted {
            config,
            code: code.code.s3,
        })
    } else {
        Err(ApiError::fields(faults))
    }
}

fn fault(faults: &mut Vec<FieldFault>, name: &str, message: impl Into<String>) {
    faults.push(FieldFault {
        name: name.to_owned(),
        message: message.into(),
    });
}

/// Members of which only some values are here.
fn refuse_parts(input: &Input, faults: &mut Vec<FieldFault>) {
    if input
        .text("platformVersion")
        .is_some_and(|version| version != "V1")
    {
        fault(
            faults,
            "platformVersion",
            "must be V1: this daemon restores no snapshots of warmed sessions",
        );
    }
    let jwt = input
        .get("authorizerConfiguration")
        .and_then(|asked| asked.get("customJWTAuthorizer"));
    for name in NOT_AUTHORIZED {
        if jwt.is_some_and(|jwt| jwt.get(name).is_some()) {
            fault(
                faults,
                &format!("authorizerConfiguration.customJWTAuthorizer.{name}"),
                "is not offered here",
            );
        }
    }
    let metadata = input.get("metadataConfiguration");
    if metadata.is_some_and(|asked| asked["requireMMDSV2"] == Value::Bool(false)) {
        fault(
            faults,
            "metadataConfiguration.requireMMDSV2",
            "must be true: sessions reach no metadata service here, of neither version",
        );
    }
}

/// Session storage is here; the file systems of other services are not.
fn storage(input: &Input, faults: &mut Vec<FieldFault>) -> Vec<StorageMount> {
    let mounts = input
        .get("filesystemConfigurations")
        .and_then(Value::as_array);
    let mut storage = Vec::new();
    for (at, mount) in mounts.into_iter().flatten().enumerate() {
        match mount.pointer("/sessionStorage/mountPath") {
            Some(Value::String(path)) => storage.push(StorageMount {
                mount: path.trim_end_matches('/').to_owned(),
                size: None,
            }),
            Some(_) | None => fault(
                faults,
                &format!("filesystemConfigurations[{at}]"),
                "cannot be mounted: of file systems, sessions here have `sessionStorage` only",
            ),
        }
    }
    storage
}

/// The hook's path; its port must be the agent's own.
fn warmup(asked: &Asked, faults: &mut Vec<FieldFault>) -> Option<String> {
    let action = asked
        .hooks_configuration
        .as_ref()?
        .pointer("/build/warmup/action/httpPost")?;
    let protocol = asked.protocol_configuration.as_ref();
    let own = protocol.and_then(|asked| asked.port).unwrap_or_else(|| {
        protocol
            .map_or(Protocol::Http, |asked| asked.server_protocol)
            .port()
    });
    if action
        .get("port")
        .is_some_and(|port| port.as_u64() != Some(u64::from(own)))
    {
        fault(
            faults,
            "hooksConfiguration.build.warmup.action.httpPost.port",
            format!("must be the port that the agent serves, {own}, or be left out"),
        );
    }
    Some(action.get("path")?.as_str()?.to_owned())
}

fn network(asked: Option<&Value>, faults: &mut Vec<FieldFault>) -> Network {
    let mode = asked.and_then(|asked| asked["networkMode"].as_str());
    if mode == Some("VPC") {
        fault(
            faults,
            "networkConfiguration.networkMode",
            "must be PUBLIC: there is no VPC here; private targets are the operator's to allow (network.allow_private)",
        );
    } else if asked.is_some_and(|asked| asked.get("networkModeConfig").is_some()) {
        fault(
            faults,
            "networkConfiguration.networkModeConfig",
            "goes with networkMode VPC, which is not offered here",
        );
    }
    Network {
        mode: mode.map(|_| NetworkMode::Outbound),
        allow: None,
    }
}

/// Command line, language and version.
fn command(code: &Code, faults: &mut Vec<FieldFault>) -> (Entrypoint, Language, String) {
    let (language, extension, version) = match code.runtime.strip_prefix("PYTHON_") {
        Some(version) => (Language::Python, ".py", version.replace('_', ".")),
        None => {
            let version = code.runtime.strip_prefix("NODE_").unwrap_or_default();
            (Language::Node, ".js", version.replace('_', "."))
        }
    };
    let entry = format!("{CODE}.entryPoint");
    let (wrapper, file) = match code.entry_point.as_slice() {
        [file] => (None, file.as_str()),
        [wrapper, file] => (Some(wrapper.as_str()), file.as_str()),
        _ => (None, ""),
    };
    if !file.ends_with(extension) {
        fault(
            faults,
            &entry,
            format!(
                "must end with a {extension} file of the bundle for runtime {}",
                code.runtime
            ),
        );
    }
    let entrypoint = match wrapper {
        None => Entrypoint::File(file.to_owned()),
        Some(WRAPPER) if language == Language::Python => Entrypoint::Argv(vec![
            WRAPPER_FILE.to_owned(),
            "/usr/bin/python3".to_owned(),
            format!("/app/{file}"),
        ]),
        Some(_) => {
            fault(
                faults,
                &format!("{entry}[0]"),
                format!("must be {WRAPPER}, which is for Python, or be left out"),
            );
            Entrypoint::File(file.to_owned())
        }
    };
    (entrypoint, language, version)
}

/// A fault of our own configuration under the name that the caller knows.
fn wire_name(fault: FieldFault) -> FieldFault {
    const NAMES: &[(&str, &str)] = &[
        (
            "entrypoint",
            "agentRuntimeArtifact.codeConfiguration.entryPoint",
        ),
        ("environment", "environmentVariables"),
        (
            "lifecycle.idle_timeout",
            "lifecycleConfiguration.idleRuntimeSessionTimeout",
        ),
        (
            "lifecycle.max_lifetime",
            "lifecycleConfiguration.maxLifetime",
        ),
        ("port", "protocolConfiguration.port"),
        ("path", "protocolConfiguration.path"),
        (
            "warmup",
            "hooksConfiguration.build.warmup.action.httpPost.path",
        ),
        (
            "request_headers",
            "requestHeaderConfiguration.requestHeaderAllowlist",
        ),
        ("allowed_ports", "allowedPorts"),
        (
            "resources.memory",
            "resourceConfigurations[0].minimumMemoryInMiB",
        ),
        (
            "authorizer.discovery_url",
            "authorizerConfiguration.customJWTAuthorizer.discoveryUrl",
        ),
        (
            "authorizer.allowed_audience",
            "authorizerConfiguration.customJWTAuthorizer.allowedAudience",
        ),
        (
            "authorizer.allowed_clients",
            "authorizerConfiguration.customJWTAuthorizer.allowedClients",
        ),
        (
            "authorizer.allowed_scopes",
            "authorizerConfiguration.customJWTAuthorizer.allowedScopes",
        ),
        (
            "authorizer.custom_claims",
            "authorizerConfiguration.customJWTAuthorizer.customClaims",
        ),
        ("authorizer", "authorizerConfiguration.customJWTAuthorizer"),
        (
            "storage[0].mount",
            "filesystemConfigurations[0].sessionStorage.mountPath",
        ),
        ("storage", "filesystemConfigurations"),
        ("network.mode", "networkConfiguration.networkMode"),
        ("network.allow", "networkConfiguration.networkMode"),
    ];
    let found = NAMES.iter().find_map(|(ours, theirs)| {
        let rest = fault.name.strip_prefix(ours)?;
        matches!(rest.chars().next(), None | Some('.' | '[')).then(|| format!("{theirs}{rest}"))
    });
    let message = fault.message.replace(
        "must be less than or equal to max_lifetime",
        "idleRuntimeSessionTimeout must be less than or equal to maxLifetime",
    );
    FieldFault {
        name: found.unwrap_or(fault.name),
        message,
    }
}
