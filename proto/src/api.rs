//! Bodies of the `/v1` routes, as the daemon writes and the command reads them. Field names are camelCase on the wire,
//! except inside [`crate::config::RuntimeConfig`], whose keys are those of `agentcore.toml`.
//!
//! | route | in ▸ out |
//! |---|---|
//! | `GET /v1/info` | ▸ [`Info`] |
//! | `POST /v1/artifacts` (body: zip or tar.gz bytes) | ▸ 201 [`Artifact`] (200 if it was there already) |
//! | `GET /v1/artifacts[/{id}]` · `DELETE …/{id}` | ▸ [`Page<Artifact>`], [`Artifact`] · 204, 409 while a version uses it |
//! | `GET /v1/runtimes` | ▸ [`Page<Runtime>`] |
//! | `PUT /v1/runtimes/{name}` | [`PutRuntime`] ▸ 201 or 200 [`Runtime`]: makes the runtime, or its next version |
//! | `GET`, `DELETE /v1/runtimes/{name}` | ▸ [`Runtime`], 204 (its sessions are stopped) |
//! | `GET /v1/runtimes/{name}/versions[/{n}]` · `DELETE …/{n}` | ▸ [`Page<Version>`], [`Version`] · 204, 409 while it is in use |
//! | `GET /v1/runtimes/{name}/endpoints[/{endpoint}]` | ▸ [`Page<Endpoint>`], [`Endpoint`]; `DEFAULT` follows the newest version |
//! | `PUT`, `DELETE /v1/runtimes/{name}/endpoints/{endpoint}` | [`PutEndpoint`] ▸ 201 or 200 [`Endpoint`] · 204 |
//! | `GET /v1/sessions?runtime=&phase=` | ▸ [`Page<Session>`] |
//! | `GET /v1/sessions/{id}` | ▸ [`Session`]; `{id}` is ours, or the client's with `?runtime=` if several runtimes know it |
//! | `DELETE /v1/sessions/{id}` | ▸ 202 [`Session`]; waits for the end with `?wait=true` (200) |
//! | `POST /v1/sessions/{id}/freeze?reason=` · `…/thaw` | ▸ [`Session`]: all its processes stopped, or going on again |
//! | `GET`, `PATCH /v1/sessions/{id}/limits` | [`LimitsPatch`] ▸ [`SessionLimits`], as the kernel has them |
//! | `PATCH /v1/runtimes/{name}/resources` | [`LimitsPatch`] ▸ [`ResourcesChanged`]: a next version, and the live sessions |
//! | `GET /v1/sessions/{id}/logs?tail=&follow=` | (`tail` at most 10,000 lines, of which the last 4 MiB) ▸ `text/plain` lines, or NDJSON of [`LogRecord`] with `Accept: application/x-ndjson` |
//! | `POST /v1/sessions/{id}/exec` | [`ExecRequest`] ▸ 101, `Upgrade: agentcore-exec`, then [frames](ExecChannel) |
//! | `GET /openapi.json` | ▸ all of this, as OpenAPI 3.1 |
//! | `POST /v1/keys` | [`NewAccessKeyRequest`] ▸ 201 [`NewAccessKey`]: the one answer that has the secret |
//! | `GET /v1/keys` · `DELETE /v1/keys/{id}` | ▸ [`Page<AccessKey>`], revoked ones too · 204: revoked |
//! | `GET /v1/audit` | ▸ [`Page<AuditRecord>`]: who was turned away and why, the newest first |
//! | `POST /v1/runtimes/{name}/tasks?deadline=&callback=&retries=&backoff=&qualifier=` (body: the payload; headers: `Idempotency-Key`, session id and user id as on the AWS wire) | ▸ 202 [`Task`] (200 if the key was used before), on disk by then |
//! | `GET /v1/tasks?runtime=&status=&session=` | ▸ [`Page<Task>`], the newest first |
//! | `GET /v1/tasks/{id}` | ▸ [`Task`] |
//! | `DELETE /v1/tasks/{id}`, `POST /v1/tasks/{id}/cancel` | ▸ 202 [`Task`]: being cancelled (200 if it has its outcome); the same |
//! | `GET /v1/tasks/{id}/result?follow=` | ▸ the agent's answer; 409 while it is not complete, unless it is followed. Goes on from `Range: bytes=N-`, of event streams from `Last-Event-ID` |
//! | `GET /v1/tasks/{id}/events` | ▸ events, each a [`TaskEvent`], until the task has its outcome; goes on from `Last-Event-ID` |
//! | `GET /v1/runtimes/{name}/callback-secret` | ▸ [`CallbackSecret`] |
//! | `GET /v1/usage?by=&runtime=&owner=&userId=&since=&until=` | ▸ [`Page<UsageRecord>`]: by `runtime`, `session`, `user` or `day` |
//! | `GET /v1/usage/invocations?session=&task=` | ▸ [`Page<InvocationRecord>`], the newest first |
//! | `GET /v1/budgets` · `POST /v1/budgets/approve?scope=&key=` | ▸ [`Page<BudgetState>`]: those that are used up · 204 |
//! | `GET /v1/usage/verify` | ▸ [`LedgerCheck`]: whether the records are what was written |
//! | `GET /v1/doctor` | ▸ [`Doctor`]: what this host offers |
//!
//! Every list takes `maxResults` (1–1,000, default 100) and `nextToken`. Errors are [`Problem`] (RFC 9457).

mod task;

pub use task::*;
mod usage;
pub use usage::{Amounts, BudgetState, InvocationRecord, LedgerCheck, LedgerFault, UsageRecord};

use crate::config::RuntimeConfig;
use crate::ids::{
    ArtifactId, ClientSessionId, EndpointName, InstanceId, RuntimeId, RuntimeName, SessionId,
    VersionNumber,
};
use crate::object::{object, optional_object};
use crate::shim::{LogStream, TtySize};
use crate::units::{CpuMillis, MemoryBytes};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Pass it as `nextToken` for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_token: Option<String>,
}

impl<T> Page<T> {
    /// The same page of something else.
    #[must_use]
    pub fn map<U>(self, each: impl FnMut(T) -> U) -> Page<U> {
        Page {
            items: self.items.into_iter().map(each).collect(),
            next_token: self.next_token,
        }
    }
}

/// The daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Info {
    /// Version of the daemon.
    pub version: String,
    /// Its instance id.
    pub instance: InstanceId,
    /// Broker's process id.
    pub pid: u32,
    /// The region in ARNs and signatures.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// Kernel release.
    pub kernel: String,
    /// What sessions' root file system holds, by name ▸ version (`python3`, `node`, `bash`, …).
    pub base: BTreeMap<String, String>,
    /// Live sessions.
    pub sessions: u32,
    /// Where it listens.
    pub listen: Vec<String>,
    /// How callers over TCP say who they are: `none` (they do not), or `sigv4`, `jwt`, one or both. Empty without a TCP
    /// address.
    #[serde(default)]
    pub auth: Vec<String>,
    /// When it started (RFC 3339).
    pub started_at: String,
}

/// An uploaded bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// SHA-256 of the packed bytes.
    pub artifact_id: ArtifactId,
    /// Packed bytes.
    pub packed_bytes: u64,
    /// Bytes of its files.
    pub unpacked_bytes: u64,
    /// Number of files, directories and links.
    pub entries: u64,
    /// When it was uploaded (RFC 3339).
    pub created_at: String,
}

/// Body of `PUT /v1/runtimes/{name}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PutRuntime {
    /// The code.
    pub artifact: ArtifactId,
    /// The keys of `agentcore.toml`.
    #[serde(deserialize_with = "object")]
    pub config: RuntimeConfig,
}

/// A runtime and its newest version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Runtime {
    /// `<name>-<10 characters>`.
    pub runtime_id: RuntimeId,
    /// Full ARN.
    pub arn: String,
    /// Its name.
    pub name: RuntimeName,
    /// Newest version.
    pub version: VersionNumber,
    /// Of the newest version: `READY`; `CREATING`, `CREATE_FAILED`, or with an older version `UPDATING`, `UPDATE_FAILED`.
    pub status: String,
    /// Why the newest version failed, if it did; the newest one that is READY is served all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// The newest version's configuration.
    pub config: RuntimeConfig,
    /// The newest version's code.
    pub artifact: ArtifactId,
    /// Live sessions of all versions.
    pub sessions: u32,
    /// Sessions that wait in its pool, if it has one and was used lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolState>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
}

/// Sessions of a runtime that are started, healthy, and nobody's yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct PoolState {
    /// So many wait.
    pub ready: u32,
    /// So many are being started.
    pub starting: u32,
    /// So many are to wait now: demand, within the pool's bounds and what there is room for.
    pub target: u32,
    /// New sessions that were had from the pool, since this daemon looks after it.
    pub hits: u64,
    /// New sessions that were started for their caller.
    pub misses: u64,
    /// Why the last one that waited, or was to, ended by itself; until one is had again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// An immutable version of a runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Its number.
    pub version: VersionNumber,
    /// As in [`Runtime`].
    #[serde(default)]
    pub status: String,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Its configuration.
    pub config: RuntimeConfig,
    /// Its code.
    pub artifact: ArtifactId,
    /// RFC 3339.
    pub created_at: String,
}

/// A name that leads calls to one version of a runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Its name: the `qualifier` of calls.
    pub name: EndpointName,
    /// Full ARN.
    pub arn: String,
    /// The version that takes calls; absent if none of the runtime's can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionNumber>,
    /// As in [`Runtime`].
    pub status: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
}

/// Body of `PUT /v1/runtimes/{name}/endpoints/{endpoint}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PutEndpoint {
    /// Where it leads: one that is READY. The newest if absent, or what it is for an endpoint that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionNumber>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Where a session is in its life (architecture §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Waiting to be launched.
    Requested,
    /// The launcher is making it.
    Launching,
    /// Its agent is not healthy yet.
    Starting,
    /// Idle.
    Ready,
    /// Work in flight, or HealthyBusy.
    Busy,
    /// None of its processes runs, see [`Frozen`]; or it is on its way there, or back.
    Frozen,
    /// Being stopped.
    Draining,
    /// Over.
    Ended,
    /// Never became ready.
    Failed,
}

/// Why a session ended: exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// A caller stopped it.
    Stopped,
    /// Idle timeout.
    Idle,
    /// It was idle, and others needed its place.
    Evicted,
    /// Max lifetime.
    MaxLifetime,
    /// `/ping` failed for too long.
    Unhealthy,
    /// Out of memory.
    OutOfMemory,
    /// The agent exited by itself or was killed by a signal.
    AgentExited,
    /// The shim died without a record.
    ShimDied,
    /// The shim broke the session protocol.
    Protocol,
    /// The sandbox could not be made.
    LaunchFailed,
    /// Not healthy within the start deadline.
    StartTimeout,
    /// The daemon was stopped and ends its sessions.
    DaemonStopped,
    /// The daemon that owned it is gone.
    DaemonLost,
}

/// Why a session is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum FreezeCause {
    /// An operator froze it, and thaws it: calls are refused until then.
    Operator,
    /// A budget is used up: calls are refused until it is raised.
    Budget,
    /// It was idle: the next call thaws it.
    Idle,
}

/// That a session is frozen: it keeps its memory, uses no CPU, and its lifetime goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Frozen {
    /// Why; it thaws when none of them is left.
    pub causes: Vec<FreezeCause>,
    /// Since when (RFC 3339).
    pub since: String,
    /// In the words of whoever froze it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a session has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// CPU seconds of all its processes.
    pub cpu_seconds: f64,
    /// Memory now.
    pub memory_bytes: u64,
    /// Highest memory seen.
    pub memory_peak_bytes: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// Ours.
    pub id: SessionId,
    /// The caller's.
    pub session_id: ClientSessionId,
    /// Its runtime.
    pub runtime: RuntimeName,
    /// The version that it runs.
    pub version: VersionNumber,
    /// Whose it is: `uid:…`, `key:…`, `token:…`, `local` (whoever calls a developer's daemon) or `shared`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The caller's own user that it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// Where it is.
    pub phase: Phase,
    /// If it is frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Frozen>,
    /// Invocations and streams in flight.
    pub in_flight: u32,
    /// RFC 3339.
    pub created_at: String,
    /// Last activity (RFC 3339).
    pub last_activity_at: String,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<EndReason>,
    /// More about the end, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_detail: Option<String>,
    /// Host pid of its PID 1 while it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// First host uid of its range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid_base: Option<u32>,
    /// What it used.
    pub usage: Usage,
    /// How much it waits: of a list, where it was asked for (`?pressure=true`) and the kernel tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
    /// Outbound connections refused by policy.
    pub egress_refused: u64,
    /// Lines of output dropped.
    pub log_lines_dropped: u64,
}

/// Shares of the last ten seconds, in percent, in which some process of a session waited (the kernel's PSI).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Pressure {
    /// For a processor.
    pub cpu: f64,
    /// For memory.
    pub memory: f64,
    /// For a disk.
    pub io: f64,
}

/// Limits that a session has now, read back from its cgroup; absent: none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SessionLimits {
    /// Which session.
    pub id: SessionId,
    /// Memory of all its processes, tmpfs included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryBytes>,
    /// CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<CpuMillis>,
    /// Processes and threads, the shim included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Share of the processors where others want them too; 100 is what everybody has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,
    /// What it uses of them.
    pub usage: Usage,
    /// How much it waits, where the kernel tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
}

/// New limits; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitsPatch {
    /// Memory of a session, tmpfs included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryBytes>,
    /// CPUs of a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<CpuMillis>,
    /// Processes and threads of a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Share of the processors where others want them too, 1 to 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,
}

/// A runtime whose resources were changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ResourcesChanged {
    /// With its next version, which new sessions run.
    pub runtime: Runtime,
    /// Live sessions that have the new limits now.
    pub changed: Vec<SessionLimits>,
    /// Those that keep theirs, and why.
    pub unchanged: Vec<Unchanged>,
}

/// A live session that keeps its limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Unchanged {
    /// Which.
    pub id: SessionId,
    /// Why.
    pub reason: String,
}

/// Body of `POST /v1/keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewAccessKeyRequest {
    /// For people: whose it is, or what for.
    pub name: String,
    /// The only runtimes that it may act on; absent is any. A key without limits is an operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtimes: Option<Vec<RuntimeName>>,
    /// The only actions that it may do, such as `bedrock-agentcore:InvokeAgentRuntime`, `Invoke*` or `s3:*`; absent is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actions: Option<Vec<String>>,
    /// The only objects of the S3 subset that it may act on, and deploy: `BUCKET/KEY`, `BUCKET/PREFIX*` or `BUCKET/*`, whoever
    /// made them. Absent is those that it made itself; for a key that is limited to runtimes, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<Vec<String>>,
    /// Seconds until it ends; absent is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
}

/// A key that was just made, with its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct NewAccessKey {
    /// Told here and never again.
    pub secret_access_key: String,
    /// The key.
    #[serde(flatten)]
    pub key: AccessKey,
}

/// An access key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct AccessKey {
    /// Its id: no secret.
    pub access_key_id: String,
    /// For people.
    pub name: String,
    /// The only runtimes that it may act on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtimes: Option<Vec<RuntimeName>>,
    /// The only actions that it may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actions: Option<Vec<String>>,
    /// The only objects that it may act on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<Vec<String>>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<String>,
}

/// Somebody was turned away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    /// RFC 3339.
    pub at: String,
    /// That of the answer.
    pub request_id: String,
    /// The answer's status.
    pub status: u16,
    /// The answer's error name.
    pub code: String,
    /// Why; the answer did not say.
    pub reason: String,
    /// Who it was, if that is certain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// Where the connection came from.
    pub peer: String,
    /// What was asked for.
    pub method: String,
    /// See `method`; without its query.
    pub path: String,
}

/// One line of a session's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct LogRecord {
    /// RFC 3339 with milliseconds.
    pub at: String,
    /// Where it came from; `None` is the daemon's own note about the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<LogStream>,
    /// The line.
    pub text: String,
}

/// Body of `POST /v1/sessions/{id}/exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to the agent's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory.
    #[serde(default)]
    pub cwd: Option<String>,
    /// With a terminal.
    #[serde(default, deserialize_with = "optional_object")]
    pub tty: Option<TtySize>,
}

/// Frames of an exec connection, after the 101: channel `u8`, length `u32` big-endian (≤ 65,536), payload.
/// Numbers as in the contract's interactive shell (§2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExecChannel {
    /// Client ▸ process. An empty payload closes standard input.
    Stdin = 0,
    /// Process ▸ client.
    Stdout = 1,
    /// Process ▸ client.
    Stderr = 2,
    /// Last frame to the client: JSON [`ExecOutcome`].
    Status = 3,
    /// Client ▸ process: JSON [`TtySize`].
    Resize = 4,
}

impl ExecChannel {
    /// The channel of a frame's first byte.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Stdin),
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            3 => Some(Self::Status),
            4 => Some(Self::Resize),
            5.. => None,
        }
    }
}

/// Largest payload of an exec frame.
pub const MAX_EXEC_FRAME: usize = 65_536;

/// How an exec ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecOutcome {
    /// Exit code as a shell would give it: the code, or 128 + signal; 127 not found, 126 not executable.
    pub exit_code: i32,
    /// Set if it could not be started or the session ended first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What this host offers, feature by feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Doctor {
    /// In a stable order.
    pub checks: Vec<Check>,
}

/// One line of `agentcore doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// `cgroup.memory`, `seccomp`, …
    pub name: String,
    /// Outcome.
    pub state: CheckState,
    /// Why, and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// There and in force.
    On,
    /// There with a restriction.
    Degraded,
    /// Not there.
    Off,
}

/// RFC 9457 problem (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Short, the same for all problems of this kind.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened, what it means, what to do.
    pub detail: String,
    /// AWS error name of the same failure.
    pub code: String,
    /// For finding it in the log.
    pub request_id: String,
    /// Field by field, if the request broke rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldFault>,
}

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FieldFault {
    /// Which field.
    pub name: String,
    /// Which rule, and what to write instead.
    pub message: String,
}
