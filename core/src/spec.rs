//! From what a user typed to what a session is made of.
//!
//! [`proto::config::RuntimeConfig`] is the typed half: optional everywhere, possibly absurd. [`HostPolicy`] is what the
//! operator of this host grants. Out comes a [`RuntimeSpec`] with nothing left open, or every fault at once, each with the
//! name of its field as it is written in `agentcore.toml`.
//!
//! Not for: looking at the bundle or the host. Whether the entrypoint exists in the bundle is for whoever has the bundle
//! to ask ([`RuntimeSpec::entry_file`]).

mod authorizer;
mod budgets;
mod command;
mod environment;
mod faults;
mod policy;
mod pool;
mod quantities;
mod storage;
mod targets;
mod wire;

pub use environment::RESERVED;
pub use policy::{HostPolicy, Interpreters, NetworkGrant, PoolGrant, Settings, StorageGrant};
pub use storage::SessionStorage;

use crate::egress::{AllowList, Target};
use crate::pool::Bounds;
use faults::Faults;
use proto::api::FieldFault;
use proto::config::{Concurrency, Language, Protocol, Resources, RuntimeConfig};
use proto::ids::RuntimeName;
use proto::shim::{AgentStart, AgentWire};
use proto::units::{CpuMillis, MemoryBytes};
use std::time::Duration;

/// Where a session finds its bundle.
pub const BUNDLE: &str = "/app";

/// The agent's home directory in its session.
pub const HOME: &str = "/home/agent";

/// Where a session finds the built-in Python modules.
pub const BUILT_IN_PYTHON: &str = "/opt/agentcore/python";

/// Longest description (contract §3.2), in characters.
const MAX_DESCRIPTION: usize = 4096;

/// What every session of one version of a runtime is made of. Made by [`RuntimeSpec::resolve`] only, so that whoever has
/// one knows that it keeps to the host's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeSpec {
    /// The runtime's name.
    pub name: RuntimeName,
    /// What the agent speaks.
    pub protocol: Protocol,
    /// What runs the entrypoint.
    pub language: Language,
    /// The entrypoint's file, relative to the bundle; the caller checks that the bundle has it.
    pub entry_file: String,
    /// How the agent is started. Proxy variables are added by the shim, which knows the port.
    pub agent: AgentStart,
    /// How it is spoken to.
    pub wire: AgentWire,
    /// Path that invocations are POSTed to.
    pub path: String,
    /// Path that is POSTed to before the version takes calls, if any.
    pub warmup: Option<String>,
    /// The caller's headers that reach the agent beside the contract's own: lower-case names, in order, each once.
    pub request_headers: Vec<String>,
    /// What happens to an invocation of a session that works on one already.
    pub concurrency: Concurrency,
    /// Limits of the session.
    pub limits: Limits,
    /// Timeouts of the session.
    pub timeouts: Timeouts,
    /// What it may reach.
    pub network: NetworkPolicy,
    /// What of it outlives it.
    pub storage: Option<SessionStorage>,
    /// How many of them may wait, started, for whoever comes.
    pub pool: Bounds,
}

/// Limits of a session, none above the operator's ceilings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory of the whole session, its tmpfs included.
    pub memory: MemoryBytes,
    /// CPU.
    pub cpus: CpuMillis,
    /// Processes and threads, the shim included.
    pub pids: u32,
    /// Share of the processors where others want them too.
    pub cpu_weight: u32,
    /// Size of `/tmp` and of `$HOME`, each.
    pub tmp_size: MemoryBytes,
    /// Open files of one process.
    pub open_files: u32,
}

/// What is wrong with limits that a session or runtime is to have, each as `resources.<name>`: the same rules as for a
/// configuration.
#[must_use]
pub fn limit_faults(asked: &Resources, policy: &HostPolicy) -> Vec<FieldFault> {
    let mut faults = Faults::default();
    let _ = quantities::limits(asked, policy, &mut faults);
    faults.finish().err().unwrap_or_default()
}

/// Timeouts of a session, none above the operator's ceilings, and `idle` never above `max_lifetime`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A session idle for this long ends.
    pub idle: Duration,
    /// A session this old ends.
    pub max_lifetime: Duration,
    /// A session not healthy after this long has failed.
    pub start: Duration,
    /// From TERM to KILL.
    pub stop_grace: Duration,
    /// One synchronous invocation.
    pub invocation: Duration,
    /// A session idle for this long is frozen; `None`: never.
    pub freeze_after: Option<Duration>,
}

/// What a session may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkPolicy {
    /// Its own loopback only.
    None,
    /// Targets that every list names that is there; addresses are judged after resolving all the same
    /// ([`crate::egress::classify`]).
    Outbound {
        /// The runtime's own list.
        allow: Option<AllowList>,
        /// The operator's ceiling.
        ceiling: Option<AllowList>,
    },
}

impl NetworkPolicy {
    /// Whether the session may ask for this target.
    #[must_use]
    pub fn permits(&self, target: &Target) -> bool {
        match self {
            Self::None => false,
            Self::Outbound { allow, ceiling } => [allow, ceiling]
                .into_iter()
                .flatten()
                .all(|list| list.permits(target)),
        }
    }
}

impl RuntimeSpec {
    /// Fills in what the user left open and checks what he asked for. All faults at once, in the order of the fields.
    pub fn resolve(config: &RuntimeConfig, policy: &HostPolicy) -> Result<Self, Vec<FieldFault>> {
        let mut faults = Faults::default();
        let command = command::resolve(config, policy, &mut faults);
        description(config, &mut faults);
        let (port, path) = wire::address(config, &mut faults);
        let warmup = wire::warmup(config, &path, &mut faults);
        let request_headers = wire::request_headers(config, &mut faults);
        let ports = wire::allowed_ports(config, &mut faults);
        let env = environment::resolve(config, policy, command.as_ref(), &mut faults);
        let timeouts = quantities::timeouts(&config.lifecycle, policy, &mut faults);
        let limits = quantities::limits(&config.resources, policy, &mut faults);
        let network = targets::resolve(&config.network, &policy.network, &mut faults);
        if let Some(asked) = &config.authorizer {
            authorizer::check(asked, &mut faults);
        }
        budgets::check(&config.budget, &mut faults);
        let storage = storage::resolve(&config.storage, &policy.storage, &mut faults);
        let pool = pool::resolve(&config.pool, &policy.pool, storage.as_ref(), &mut faults);
        identity(policy, &mut faults);
        match (command, faults.finish()) {
            (Some(command), Ok(())) => Ok(Self {
                name: config.name.clone(),
                protocol: config.protocol,
                language: command.language,
                entry_file: command.file,
                agent: AgentStart {
                    argv: command.argv,
                    env,
                    cwd: BUNDLE.to_owned(),
                    uid: policy.agent_uid,
                    gid: policy.agent_gid,
                },
                wire: AgentWire {
                    port,
                    ping_path: config.protocol.ping_path().map(str::to_owned),
                    ports,
                },
                path,
                warmup,
                request_headers,
                concurrency: config.concurrency,
                limits,
                timeouts,
                network,
                storage,
                pool,
            }),
            (_, Err(faults)) => Err(faults),
            (None, Ok(())) => unreachable!("no command without a fault"),
        }
    }
}

fn description(config: &RuntimeConfig, faults: &mut Faults) {
    let Some(text) = &config.description else {
        return;
    };
    let found = text.chars().count();
    if !(1..=MAX_DESCRIPTION).contains(&found) {
        faults.add(
            "description",
            format!("must be 1 to {MAX_DESCRIPTION} characters long, has {found}"),
        );
    }
}

/// Not the user's fault, but nothing may be launched as root because of it.
fn identity(policy: &HostPolicy, faults: &mut Faults) {
    if policy.agent_uid == 0 || policy.agent_gid == 0 {
        faults.add("(host policy)", "would run agents as root in their session");
    }
}

#[cfg(test)]
mod tests;
