//! The daemon's own configuration: flag > `AGENTCORED_*` environment > files > default (interfaces.md).
//!
//! Two steps. What was typed is gathered from every source into one map of key ▸ values with their origin ([`given`]),
//! unknown keys being faults. Then [`resolve`] turns it into a [`Config`] in which nothing is left open, collecting *all*
//! faults. Every key, its meaning and whether a reload takes it is in one table, [`keys`].
//!
//! Not for: a runtime's configuration (that is `session_core::spec`), and nothing here opens a socket or makes a directory.

mod args;
mod check;
mod faults;
mod given;
mod interval;
mod keys;
mod resolve;

pub use args::Args;
pub use faults::{Fault, Faults};
pub use interval::duration;
pub use keys::{KEYS, Key};

use crate::callback::Callbacks;
use crate::launcher::message::Slice;
use crate::rates::PerCaller;
use crate::store::{Quotas, Retention};
use crate::tokens::IssuerPolicy;
use given::Given;
use proto::config::{Budgets, Fork};
use proto::ids::RuntimeName;
use proto::units::{MemoryBytes, Seconds};
use session_core::admission::Policy as AdmissionPolicy;
use session_core::egress::AllowList;
use session_core::pool::Bounds;
use session_core::prices::Prices;
use session_core::spec::{
    HostPolicy, Interpreters, NetworkGrant, PoolGrant, Settings, StorageGrant,
};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most launches that may be prepared ahead; the launcher holds to it whatever the broker asks for.
pub const MAX_PREPARED: usize = 64;

/// What the daemon runs with. Nothing is optional but what may really be absent.
#[derive(Debug, Clone)]
pub struct Config {
    /// Database, artifacts, session storage.
    pub state_dir: PathBuf,
    /// Sockets, live session directories.
    pub runtime_dir: PathBuf,
    /// The API's Unix socket.
    pub socket: PathBuf,
    /// TCP addresses of the API.
    pub listen: Vec<SocketAddr>,
    /// Developer mode: loopback without authentication, text logs, sessions end with the daemon.
    pub dev: bool,
    /// How TCP callers are identified.
    pub auth: TcpAuth,
    /// Where sessions' root file system comes from.
    pub base: Base,
    /// User that the broker becomes.
    pub broker_user: String,
    /// cgroup below which sessions live, relative to the hierarchy's root; absent: found out at start.
    pub cgroup_parent: Option<String>,
    /// Where callers reach this daemon, without a slash at its end; absent: its first TCP address.
    pub public_url: Option<String>,
    /// Region in ARNs and in sessions' `AWS_REGION`.
    pub region: String,
    /// Account in ARNs, twelve digits.
    pub account: String,
    /// Runtime that the local-dev wire speaks to when there are several.
    pub default_runtime: Option<RuntimeName>,
    /// Whether a stopping daemon ends its sessions.
    pub end_sessions_on_exit: bool,
    /// Logging.
    pub log: Log,
    /// What a runtime gets that does not say.
    pub defaults: Settings,
    /// The most that a runtime may ask for.
    pub ceilings: Settings,
    /// Open files of one process of a session.
    pub open_files: u32,
    /// Idle time that freezes a session where the runtime does not say; 0 is never.
    pub freeze_after: Seconds,
    /// When new sessions wait, and whose place they get.
    pub admission: AdmissionPolicy,
    /// Bounds of the daemon itself.
    pub limits: Limits,
    /// Outbound connections of sessions.
    pub network: Network,
    /// Where issuers of tokens may be.
    pub tokens: IssuerPolicy,
    /// Who may be told of tasks' outcomes, and for how long that is tried.
    pub callbacks: Callbacks,
    /// Session storage.
    pub storage: Storage,
    /// Sessions that wait for whoever comes.
    pub pool: Pools,
    /// What sessions are forked from.
    pub template: Templates,
    /// The database.
    pub store: StoreKeys,
    /// Asynchronous tasks.
    pub tasks: TaskBounds,
    /// Whether anybody may read `/metrics`.
    pub metrics_public: bool,
    /// Records of usage.
    pub ledger: Keep,
    /// What usage costs.
    pub prices: Prices,
    /// How much may be used before somebody approves more.
    pub budgets: Budgets,
    /// Health checks.
    pub ping: Ping,
    /// Things a person should hear about though nothing is wrong with them (environment variables with our prefix that
    /// are no key). To be logged once logging runs.
    pub notes: Vec<String>,
    given: Given,
}

/// How TCP callers are identified. The Unix socket always goes by peer credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpAuth {
    /// Not at all: loopback addresses only.
    None,
    /// No TCP listener, so nobody to identify.
    NoListener,
    /// By what their requests carry.
    Checked(AuthMethods),
}

impl TcpAuth {
    /// As the configuration says it, word by word.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        let words: &[(bool, &str)] = match self {
            Self::NoListener => &[],
            Self::None => &[(true, "none")],
            Self::Checked(AuthMethods { sigv4, jwt }) => &[(sigv4, "sigv4"), (jwt, "jwt")],
        };
        words
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, word)| (*word).to_owned())
            .collect()
    }
}

/// What TCP callers may identify themselves with; at least one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthMethods {
    /// Signatures with access keys (SigV4).
    pub sigv4: bool,
    /// Bearer tokens, at runtimes that have an authorizer.
    pub jwt: bool,
}

/// Where sessions' root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Copied from the packages of this host.
    Host,
    /// A directory that the operator prepared.
    Directory(PathBuf),
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Filter directives of `tracing_subscriber::EnvFilter`, checked.
    pub level: String,
    /// Its form; absent: the journal's where standard error is the journal, else JSON.
    pub format: Option<LogFormat>,
    /// Whether what agents write is copied to the journal.
    pub sessions: bool,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
    /// Fields of systemd's journal.
    Journal,
}

/// Bounds of the daemon itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Live sessions.
    pub max_sessions: u32,
    /// What all of them may have together.
    pub all_sessions: Slice,
    /// Live sessions of one runtime; 0 is any number.
    pub max_sessions_per_runtime: u32,
    /// Live sessions of one caller; 0 is any number.
    pub max_sessions_per_caller: u32,
    /// Calls of one caller a second.
    pub rates: PerCaller,
    /// New sessions a second; 0 is any number.
    pub new_session_rate: u32,
    /// New sessions at once.
    pub new_session_burst: u32,
    /// New sessions that start at once.
    pub max_starting_sessions: u32,
    /// How long a caller waits for a place for a new session.
    pub admission_wait: Duration,
    /// Launches prepared ahead.
    pub prepared_launches: usize,
    /// Body of an invocation, each way.
    pub max_body: MemoryBytes,
    /// Body of a control request (JSON).
    pub max_control_body: MemoryBytes,
    /// Runtimes, versions of one, endpoints of one.
    pub quotas: Quotas,
    /// Bytes of all objects of the S3 subset.
    pub objects: MemoryBytes,
    /// Of those of one caller.
    pub objects_per_caller: MemoryBytes,
    /// Head of a request.
    pub max_head: MemoryBytes,
    /// Headers of a request.
    pub max_headers: u32,
    /// Bodies on disk whose signature is not checked yet, all of them.
    pub spool: MemoryBytes,
    /// Small bodies in memory, on their way to agents; and as much again while their signature is not checked.
    pub body_memory: MemoryBytes,
    /// How long a request's head may take to arrive, the idle time before it included.
    pub head_timeout: Duration,
    /// Open connections.
    pub max_connections: u32,
    /// Open connections of one user (Unix socket).
    pub max_connections_per_user: u32,
    /// Invocations in flight in one session.
    pub max_invocations_per_session: u32,
    /// Invocations that wait for their turn in one session.
    pub max_queue_per_session: u32,
    /// How long the answer of a call is kept for another attempt of it.
    pub retry_window: Duration,
    /// How long a call that may be tried again goes on without a client.
    pub retry_linger: Duration,
    /// Most bytes of one answer that are kept.
    pub retry_answer: MemoryBytes,
    /// Most bytes of all answers that are kept.
    pub retry_memory: MemoryBytes,
    /// How long an event stream may go on.
    pub stream_duration: Duration,
    /// WebSockets: frame, rate, age.
    pub websocket: crate::websocket::tunnel::Bounds,
    /// Interactive shells: how many, age and silence of their connections.
    pub shell: crate::api::shell::Bounds,
    /// Output of one session passed on per second.
    pub log_rate: MemoryBytes,
    /// Burst allowance of the above.
    pub log_burst: MemoryBytes,
    /// Logs of sessions that are over, all of them.
    pub session_logs: MemoryBytes,
    /// Bytes per second that each session may read from the base's disk; `None` is no limit.
    pub session_read_rate: Option<MemoryBytes>,
    /// A session that no daemon attends ends after this.
    pub orphan_timeout: Duration,
}

/// Outbound connections of sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Default and ceiling of runtimes' policies.
    pub grant: NetworkGrant,
    /// Private targets that may be reached all the same, each naming one host and one port.
    pub allow_private: AllowList,
    /// How long a dial may take, resolution included.
    pub dial_timeout: Duration,
    /// Open outbound connections of one session.
    pub max_connections: u32,
}

/// How long records of usage are kept. Sums by day stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Those of sessions.
    pub keep: Duration,
    /// Those of invocations.
    pub keep_invocations: Duration,
    /// The newest of those, at most.
    pub max_invocations: u64,
}

/// Session storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// The largest one, and what a runtime gets that does not say.
    pub max_size: MemoryBytes,
    /// All of them together.
    pub total: MemoryBytes,
    /// All of one caller's.
    pub per_caller: MemoryBytes,
    /// One that no session has had for so long is removed.
    pub keep: Duration,
}

impl Storage {
    /// What runtimes may ask for; `unavailable` says why this host has none, if it has none.
    #[must_use]
    pub fn grant(&self, unavailable: Option<String>) -> StorageGrant {
        StorageGrant {
            max_size: self.max_size,
            unavailable,
        }
    }
}

/// Sessions that wait for whoever comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pools {
    /// Of runtimes that do not say.
    pub bounds: Bounds,
    /// Of all runtimes together, and of one at most.
    pub total: u32,
    /// Of a runtime that nobody has called for so long only the floor waits.
    pub unused_after: Duration,
    /// One that has waited so long is replaced.
    pub max_age: Duration,
}

impl Pools {
    /// What runtimes may ask for.
    #[must_use]
    pub fn grant(&self) -> PoolGrant {
        PoolGrant {
            bounds: self.bounds,
            ceiling: self.total,
        }
    }
}

/// Templates, of which new sessions are forks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Templates {
    /// Of runtimes that do not say.
    pub fork: Fork,
    /// Of all runtimes together.
    pub total: u32,
    /// One from which nothing was forked for so long ends.
    pub unused_after: Duration,
    /// One that is so old is replaced.
    pub max_age: Duration,
}

/// The database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreKeys {
    /// Kept back on the disk for what must be written.
    pub reserve: MemoryBytes,
    /// What is forgotten when.
    pub retention: Retention,
}

/// Asynchronous tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskBounds {
    /// How long one may take if its submitter does not say.
    pub deadline: Duration,
    /// How long its submitter may say.
    pub max_deadline: Duration,
    /// Those that run at once.
    pub concurrency: u32,
    /// Those of one runtime that do.
    pub concurrency_per_runtime: u32,
    /// Those without an outcome.
    pub max_queued: u64,
    /// One's answer.
    pub max_result: MemoryBytes,
    /// All payloads and answers.
    pub max_stored: MemoryBytes,
    /// How long one is kept after its outcome.
    pub keep: Duration,
    /// How long a resumable stream is.
    pub keep_streams: Duration,
}

/// Health checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// Period once healthy.
    pub interval: Duration,
    /// How long one check may take.
    pub timeout: Duration,
    /// A session whose checks fail for this long ends.
    pub unhealthy_after: Duration,
}

/// Outcome of [`Config::reload`].
#[derive(Debug, Clone)]
pub struct Reloaded {
    /// What to run with from now on: keys that need a restart kept their value.
    pub config: Config,
    /// Keys that changed and are in force now.
    pub changed: Vec<&'static str>,
    /// Keys that changed and wait for a restart.
    pub needs_restart: Vec<&'static str>,
}

/// Reads every source and resolves it. All faults at once; nothing is touched.
pub fn load(args: &Args) -> Result<Config, Faults> {
    load_from(args, std::env::vars_os(), Path::new("/etc/agentcore"))
}

/// As [`load`], with the environment and the directory of the default files given.
pub fn load_from(
    args: &Args,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    etc: &Path,
) -> Result<Config, Faults> {
    let mut faults = Faults::default();
    let given = given::gather(args, environment, etc, &mut faults);
    resolve::resolve(given, &mut faults)
        .filter(|_| faults.is_empty())
        .ok_or(faults)
}

impl Config {
    /// What runtimes may ask for and get, given what this host's base holds and who agents are in their sessions.
    #[must_use]
    pub fn host_policy(&self, interpreters: Interpreters, agent: (u32, u32)) -> HostPolicy {
        HostPolicy {
            defaults: self.defaults,
            ceilings: self.ceilings,
            network: self.network.grant.clone(),
            storage: self.storage.grant(None),
            pool: self.pool.grant(),
            fork: self.template.fork,
            interpreters,
            region: self.region.clone(),
            url: self.public_url.clone(),
            agent_uid: agent.0,
            agent_gid: agent.1,
            open_files: self.open_files,
            freeze_after: self.freeze_after,
        }
    }

    /// Loads again (SIGHUP). On faults the caller keeps what it has.
    pub fn reload(&self, args: &Args) -> Result<Reloaded, Faults> {
        self.reload_from(args, std::env::vars_os(), Path::new("/etc/agentcore"))
    }

    /// As [`Config::reload`], with the environment and the directory of the default files given.
    pub fn reload_from(
        &self,
        args: &Args,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        etc: &Path,
    ) -> Result<Reloaded, Faults> {
        // The new configuration must be sound as a whole, or the next restart would fail where the reload did not.
        let fresh = load_from(args, environment, etc)?;
        let (changed, needs_restart) = self.given.changes(&fresh.given);
        let mut mixed = fresh.given;
        for key in &needs_restart {
            mixed.keep(key, &self.given);
        }
        let mut faults = Faults::default();
        let config = resolve::resolve(mixed, &mut faults)
            .filter(|_| faults.is_empty())
            .ok_or(faults)?;
        Ok(Reloaded {
            config,
            changed,
            needs_restart,
        })
    }
}

#[cfg(test)]
mod tests;
