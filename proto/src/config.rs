//! A runtime's configuration, as users type it: the keys of `agentcore.toml` and of the `/v1/runtimes` body.
//!
//! This is the *typed* half (unknown keys are errors, everything optional but what has no sensible default). What it
//! means on this host — defaults filled in, ceilings applied, all faults at once — is `session_core::spec`.

mod authorizer;
mod budget;

pub use authorizer::{Authorizer, ClaimOperator, ClaimType, ClaimValue, CustomClaim};
pub use budget::{Budget, Budgets, Period};

use crate::ids::RuntimeName;
use crate::object::{object, optional_object};
use crate::ports::Ports;
use crate::units::{CpuMillis, MemoryBytes, Seconds};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that a runtime's version is made of, but its code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RuntimeConfig {
    /// The runtime's name.
    pub name: RuntimeName,
    /// What to run, relative to the bundle: `my_agent.py`, or a program with arguments.
    pub entrypoint: Entrypoint,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What the agent speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// Port that the agent listens on, 8000–12000 but 8443; absent means its protocol's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Path that invocations are POSTed to; absent means its protocol's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// POSTed to once, in a session that is then thrown away, before a new version takes calls (contract §1.11).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<String>,
    /// Names of the caller's headers that reach the agent beside the contract's own (contract §1.3); at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub request_headers: Vec<String>,
    /// More ports of a session, 8000–12000 but 8443, that callers reach by its endpoint URL (contract §2.8); at most 5
    /// entries, which do not overlap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_ports: Vec<Ports>,
    /// What runs the entrypoint; guessed from its extension if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<Language>,
    /// Version of the language that the agent needs, as far as it matters: `3`, `3.11`, `22`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language_version: Option<String>,
    /// Requirements file that `launch` vendors into the bundle; the daemon keeps it for information only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirements: Option<String>,
    /// Environment of every session.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Timeouts.
    #[serde(
        default,
        deserialize_with = "object",
        skip_serializing_if = "is_default"
    )]
    pub lifecycle: Lifecycle,
    /// Limits of every session.
    #[serde(
        default,
        deserialize_with = "object",
        skip_serializing_if = "is_default"
    )]
    pub resources: Resources,
    /// What sessions may reach.
    #[serde(
        default,
        deserialize_with = "object",
        skip_serializing_if = "is_default"
    )]
    pub network: Network,
    /// Whose tokens it takes; without it, it takes signed requests.
    #[serde(
        default,
        deserialize_with = "optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub authorizer: Option<Authorizer>,
    /// What happens to an invocation of a session that works on one already.
    #[serde(default, skip_serializing_if = "is_default")]
    pub concurrency: Concurrency,
    /// Whether a session is everybody's who may call the runtime and knows its id, instead of its maker's only.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shared: bool,
    /// Files that outlive a session and are there again for the next one of the same id; at most one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub storage: Vec<StorageMount>,
    /// What may be used before its sessions freeze until somebody approves more; beside the operator's own budgets.
    #[serde(
        default,
        deserialize_with = "object",
        skip_serializing_if = "is_default"
    )]
    pub budget: Budgets,
    /// Sessions that wait, started, for whoever comes.
    #[serde(
        default,
        deserialize_with = "object",
        skip_serializing_if = "is_default"
    )]
    pub pool: Pool,
}

impl RuntimeConfig {
    /// Port that the agent listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(self.protocol.port())
    }

    /// Path that invocations are POSTed to.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or(self.protocol.path())
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// `"my_agent.py"` or `["my_agent.py", "--flag"]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(untagged, expecting = "expected a file's name, or a list of words")]
pub enum Entrypoint {
    /// A file of the bundle.
    File(String),
    /// A file or program, and its arguments.
    Argv(Vec<String>),
}

impl Entrypoint {
    /// The words of the command line; empty if the user gave none.
    #[must_use]
    pub fn words(&self) -> &[String] {
        match self {
            Self::File(file) => std::slice::from_ref(file),
            Self::Argv(argv) => argv,
        }
    }
}

/// Server protocol of the agent (contract §1.1): decides port and path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Protocol {
    /// 8080, `POST /invocations`, `GET /ping`.
    #[default]
    #[serde(rename = "HTTP", alias = "http")]
    Http,
    /// 8000, `POST /mcp`, no health route.
    #[serde(rename = "MCP", alias = "mcp")]
    Mcp,
    /// 9000, `POST /`, `GET /ping`.
    #[serde(rename = "A2A", alias = "a2a")]
    A2a,
    /// 8080, as HTTP, errors as SSE events.
    #[serde(rename = "AGUI", alias = "agui")]
    Agui,
}

impl Protocol {
    /// Port that the agent listens on.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Http | Self::Agui => 8080,
            Self::Mcp => 8000,
            Self::A2a => 9000,
        }
    }

    /// Path that invocations are POSTed to.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Http | Self::Agui => "/invocations",
            Self::Mcp => "/mcp",
            Self::A2a => "/",
        }
    }

    /// Path of the health check, if the protocol has one.
    #[must_use]
    pub const fn ping_path(self) -> Option<&'static str> {
        match self {
            Self::Http | Self::Agui | Self::A2a => Some("/ping"),
            Self::Mcp => None,
        }
    }
}

/// What happens to an invocation of a session that works on one already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Concurrency {
    /// It begins at once.
    #[default]
    Parallel,
    /// It waits its turn, in a bounded queue.
    Serial,
    /// It is refused (409).
    Reject,
}

/// What runs the entrypoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// `python3 FILE`.
    Python,
    /// `node FILE`.
    Node,
    /// The file itself (an executable of the bundle, or of the base).
    Binary,
}

/// Timeouts in seconds; absent means the operator's default (interfaces.md).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Lifecycle {
    /// A session idle for this long ends. 60–1,209,600, default 900.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Seconds>,
    /// A session this old ends. 60–1,209,600, default 28,800.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_lifetime: Option<Seconds>,
    /// A session not healthy after this long has failed. Default 120.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_timeout: Option<Seconds>,
    /// From TERM to KILL. Default 15.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace: Option<Seconds>,
    /// One synchronous invocation. Default 900.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation_timeout: Option<Seconds>,
    /// A session idle for this long, and not computing, is frozen until its next call; 0 is never. Default 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_after: Option<Seconds>,
}

/// Limits of one session; absent means the operator's default.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Memory of the whole session, its tmpfs included. Default 512M.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryBytes>,
    /// CPUs. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<CpuMillis>,
    /// Processes and threads. Default 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Share of the processors where others want them too, 1 to 10000. Default 100, which is what everybody has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,
    /// Size of `/tmp` and of `$HOME`, each. Default 64M.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tmp_size: Option<MemoryBytes>,
}

/// What a session may reach.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// `outbound` or `none`; absent means the operator's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<NetworkMode>,
    /// Only these, if given: `host:port`, `*.example.com:443`, `host` (port 443), `host:*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
}

/// The warm pool: sessions that are started and healthy before anybody asks for them. How many there are follows from how many
/// were wanted lately, within these bounds; absent means the operator's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// So many wait even when nobody has come for long; 0 costs nothing then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    /// So many wait at most; 0 is no pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

/// A directory of a session that is kept for the next session of the same caller, endpoint and id (AWS's
/// `sessionStorage`); a new version of the runtime begins with an empty one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct StorageMount {
    /// Where: `/mnt/<name>`.
    pub mount: String,
    /// Its size. Absent means the operator's largest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<MemoryBytes>,
}

/// Network policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Through the session's CONNECT proxy (AWS's PUBLIC).
    Outbound,
    /// Loopback only.
    None,
}
