//! What the operator grants: defaults for what a runtime leaves open, ceilings for what it asks.

use crate::egress::AllowList;
use crate::pool::Bounds;
use proto::config::NetworkMode;
use proto::units::{CpuMillis, MemoryBytes, Seconds};

/// One set of limits and timeouts of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
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
    /// A session idle for this long ends.
    pub idle_timeout: Seconds,
    /// A session this old ends.
    pub max_lifetime: Seconds,
    /// A session not healthy after this long has failed.
    pub start_timeout: Seconds,
    /// From TERM to KILL.
    pub stop_grace: Seconds,
    /// One synchronous invocation.
    pub invocation_timeout: Seconds,
}

/// What every session weighs that does not say, as everything else on a host does.
const NORMAL_WEIGHT: u32 = 100;

impl Settings {
    /// What a session gets where neither the runtime nor the operator says anything (interfaces.md, contract §3.5).
    pub const BUILT_IN: Self = Self {
        memory: MemoryBytes::mib(512),
        cpus: CpuMillis(1000),
        pids: 256,
        cpu_weight: NORMAL_WEIGHT,
        tmp_size: MemoryBytes::mib(64),
        idle_timeout: Seconds(900),
        max_lifetime: Seconds(28_800),
        start_timeout: Seconds(120),
        stop_grace: Seconds(15),
        invocation_timeout: Seconds(900),
    };

    /// The most that a runtime may ask for where the operator says nothing. The two lifetimes are the contract's own
    /// (§3.2); the rest leaves room for heavy agents while one runtime cannot claim a whole machine by a typing error.
    pub const BUILT_IN_CEILINGS: Self = Self {
        memory: MemoryBytes::mib(16 * 1024),
        cpus: CpuMillis(16_000),
        pids: 4096,
        // Nobody takes from the others unless the operator says so.
        cpu_weight: NORMAL_WEIGHT,
        tmp_size: MemoryBytes::mib(4 * 1024),
        idle_timeout: Seconds(1_209_600),
        max_lifetime: Seconds(1_209_600),
        start_timeout: Seconds(900),
        stop_grace: Seconds(300),
        invocation_timeout: Seconds(28_800),
    };
}

/// What the operator says about outbound connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkGrant {
    /// Mode of runtimes that do not say.
    pub mode: NetworkMode,
    /// Allow-list of runtimes that say neither mode nor list; `None` allows every public target.
    pub allow: Option<AllowList>,
    /// The widest mode that a runtime may have.
    pub ceiling: NetworkMode,
    /// The widest allow-list that a runtime may have; `None` means any.
    pub ceiling_allow: Option<AllowList>,
}

impl Default for NetworkGrant {
    /// As AWS's PUBLIC: outbound, anything public.
    fn default() -> Self {
        Self {
            mode: NetworkMode::Outbound,
            allow: None,
            ceiling: NetworkMode::Outbound,
            ceiling_allow: None,
        }
    }
}

/// What the operator and the host grant of session storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageGrant {
    /// The largest one, which is also what a runtime gets that does not say.
    pub max_size: MemoryBytes,
    /// Why there is none on this host, if there is none.
    pub unavailable: Option<String>,
}

impl StorageGrant {
    /// The contract's (§6).
    pub const BUILT_IN_SIZE: MemoryBytes = MemoryBytes::mib(1024);
}

/// What the operator grants of warm pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolGrant {
    /// Of runtimes that do not say.
    pub bounds: Bounds,
    /// The most that a runtime may ask for.
    pub ceiling: u32,
}

/// Interpreters that sessions' root file system holds, as absolute paths in the session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interpreters {
    /// Python 3, if there.
    pub python: Option<String>,
    /// Node.js, if there.
    pub node: Option<String>,
    /// Version of Python, such as `3.11.2`, if known.
    pub python_version: Option<String>,
    /// Version of Node.js, such as `22.14.0`, if known.
    pub node_version: Option<String>,
}

/// Everything about this host that a [`super::RuntimeSpec`] depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPolicy {
    /// For what a runtime leaves open.
    pub defaults: Settings,
    /// For what it asks.
    pub ceilings: Settings,
    /// Outbound connections.
    pub network: NetworkGrant,
    /// Session storage.
    pub storage: StorageGrant,
    /// Warm pools.
    pub pool: PoolGrant,
    /// What can run agents here.
    pub interpreters: Interpreters,
    /// Where callers reach this daemon, such as `http://127.0.0.1:8080`; `None`: nowhere that a URL could name.
    pub url: Option<String>,
    /// `AWS_REGION` of sessions that do not set their own.
    pub region: String,
    /// Uid of agents inside their session's user namespace; never 0.
    pub agent_uid: u32,
    /// Gid of agents inside their session's user namespace; never 0.
    pub agent_gid: u32,
    /// Open files of one process.
    pub open_files: u32,
    /// Idle time that freezes sessions of a runtime that does not say; 0 is never.
    pub freeze_after: Seconds,
}

impl HostPolicy {
    /// Where the operator says nothing.
    pub const FREEZE_AFTER: Seconds = Seconds(30);
}
