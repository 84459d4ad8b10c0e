//! What was used, and what it costs.

use crate::config::Period;
use crate::ids::{ClientSessionId, RuntimeName, SessionId};
use serde::{Deserialize, Serialize};

/// What somebody or something used. GB are 10⁹ bytes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Amounts {
    /// From the begin to the end of sessions.
    pub wall_seconds: f64,
    /// Of it, with work in flight or `HealthyBusy`.
    pub active_seconds: f64,
    /// Of it, frozen.
    pub frozen_seconds: f64,
    /// CPU time, by the kernel's counters.
    pub cpu_seconds: f64,
    /// Memory over time, plainly.
    pub memory_gb_seconds: f64,
    /// Memory over time, each second with its peak.
    pub memory_peak_gb_seconds: f64,
    /// Memory over time as AWS charges it: the highest so far, 128 MB at least.
    pub memory_aws_gb_seconds: f64,
    /// What sessions might use of memory, over their active time.
    pub allocated_gb_seconds: f64,
    /// What sessions might use of CPU time in their active time.
    pub allocated_cpu_seconds: f64,
    /// Invocations, streams, WebSockets, commands and shells.
    pub invocations: u64,
    /// Bytes of their requests.
    pub bytes_in: u64,
    /// Bytes of their answers.
    pub bytes_out: u64,
    /// Bytes that came by outbound connections.
    pub egress_in: u64,
    /// Bytes that went out by them.
    pub egress_out: u64,
    /// Highest memory of one session.
    pub peak_bytes: u64,
    /// Most that one session's tmpfs mounts and shared memory were seen to hold.
    pub tmp_bytes: u64,
}

/// A row of `GET /v1/usage`. Which of the names are there depends on `by`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct UsageRecord {
    /// Runtime's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeName>,
    /// Our name of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<SessionId>,
    /// The caller's name of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<ClientSessionId>,
    /// Whose: as in `Session`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The caller's own user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// Day (UTC), `2026-11-29`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// Sessions that ended.
    pub sessions: u64,
    /// Sessions that live. What they used so far is in the figures, and what members of pools and templates did, which are no sessions.
    pub live: u64,
    /// What was used.
    #[serde(flatten)]
    pub used: Amounts,
    /// What it costs by the daemon's own table (`[prices]`).
    pub cost: f64,
    /// What it would have cost at AWS.
    pub aws_cost: f64,
    /// Of both.
    pub currency: String,
}

/// An invocation on record, or several of one session that came too fast to be told apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct InvocationRecord {
    /// Its number in the chain.
    pub record: u64,
    /// Our name of its session.
    pub id: SessionId,
    /// Its runtime.
    pub runtime: RuntimeName,
    /// When it ended (RFC 3339).
    pub at: String,
    /// The task that it ran for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// How many these are; all else is their sum.
    pub count: u64,
    /// From begin to end, milliseconds.
    pub wall_ms: u64,
    /// Bytes of the request.
    pub bytes_in: u64,
    /// Bytes of the answer.
    pub bytes_out: u64,
    /// CPU time of the session while it was in flight, shared with what was in flight beside it, microseconds.
    pub cpu_us: u64,
}

/// `GET /v1/usage/verify`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct LedgerCheck {
    /// Everything is as it was written.
    pub ok: bool,
    /// Records of sessions that hold.
    pub sessions: u64,
    /// Records of invocations that hold.
    pub invocations: u64,
    /// Checkpoints that hold.
    pub checkpoints: u64,
    /// The newest checkpoint (RFC 3339): records after it could be cut off unseen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_checkpoint_at: Option<String>,
    /// What is wrong first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<LedgerFault>,
}

/// What is wrong with a ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct LedgerFault {
    /// `sessions`, `invocations`, `checkpoints` or `sums`.
    pub chain: String,
    /// The first bad record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<u64>,
    /// What is wrong with it.
    pub message: String,
}

/// A budget that is used up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct BudgetState {
    /// Whose: `session`, `user` or `runtime`.
    pub scope: String,
    /// Which of them: our name of the session, the runtime's name, or the owner and its user.
    pub key: String,
    /// The runtime whose configuration has it; absent: the daemon's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeName>,
    /// After what it begins anew, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<Period>,
    /// What is used up: `cpu_seconds`, `gb_seconds`, `wall_seconds` or `cost`.
    pub measure: String,
    /// How much there was.
    pub limit: f64,
    /// How much was used.
    pub used: f64,
    /// How often it was approved before.
    pub approvals: u32,
}
