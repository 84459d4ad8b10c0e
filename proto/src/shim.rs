//! The session protocol: every method between broker and worker shim, its parameters and its result.
//!
//! Link: the shim listens on a Unix SEQPACKET socket that the launcher bound before pivot_root; the broker connects and
//! says [`Attach`] with the session's token and an epoch (a newer epoch fences the older connection: the shim closes it).
//! A cold launch starts its agent at once, from [`Boot`]; nothing waits for the handshake.
//!
//! Bodies: `invoke` carries one end of a Unix *stream* socketpair. Request body bytes flow in, response body bytes flow
//! out, raw. The sender of each direction says [`BodyEnd`] on the link **before** it shuts down its writing half; a
//! reader that sees end of file first takes what is queued on the link, and if there is no `body.end` with exactly the
//! number of bytes that it read, the body was aborted. So truncation never looks like success. A request with a
//! `content_length` needs no `body.end`. The first bytes of an answer may be in the stream before its head is on the link.
//! Quickest is a caller that writes a small body into the stream before it sends `invoke`.
//!
//! An invocation ends with its link, unless it is kept: `invoke` with [`Keep`], and then `ack`, `settle`, `resume` and `ended`
//! ([`kept`] has all of it).
//!
//! | direction | method | parameters ▸ result | fds |
//! |---|---|---|---|
//! | broker ▸ shim | `attach` | [`Attach`] ▸ [`Attached`] | |
//! | | `invoke` | [`Invoke`] ▸ [`InvokeHead`] (answered when the agent's head is there) | 1: stream |
//! | | `resume` | [`Resume`] ▸ [`InvokeHead`] (as for `invoke`) | 1: stream |
//! | | `cancel` (notification) | [`Cancel`] | |
//! | | `ack` (notification) | [`Ack`] | |
//! | | `settle` (notification) | [`Settle`] | |
//! | | `exec` | [`Exec`] ▸ [`Execed`] | 3: stdin, stdout, stderr; or 1 with `tty`: a stream that the shim pumps |
//! | | `resize` (notification) | [`Resize`] | |
//! | | `signal` | [`Signal`] ▸ `{}` | |
//! | | `clock-gap` (notification, after a thaw) | [`ClockGap`] | |
//! | | `claim` (of a pool's member, once) | [`Claim`] ▸ `{}` | |
//! | | `shutdown` (notification) | [`Shutdown`] | |
//! | | `fork` | [`Fork`] ▸ `{}` | 1: an end of the channel |
//! | | `go` (notification) | [`Go`] | |
//! | both | `body.end` (notification) | [`BodyEnd`] | |
//! | shim ▸ broker | `ended` (notification) | [`Ended`] | |
//! | | `health` (notification, on change only) | [`Health`] | |
//! | | `log` (notification) | [`Log`] | |
//! | | `agent.exited` (notification) | [`AgentExited`] | |
//! | | `exec.exited` (notification) | [`ExecExited`] | |
//! | | `egress` (notification) | [`Egress`] | 1: an accepted TCP connection of the session's loopback |
//! | | `fault` (notification) | [`Fault`] | |
//! | | `template` (notification) | [`TemplateState`] | |
//! | | `forked` (notification) | [`Forked`] | 1: the agent's pidfd |
//!
//! Everything from a shim is attacker-influenced: typed, bounded, rate-limited; no descriptor but those above.

pub mod kept;
pub mod template;

pub use template::{Fork, Forked, Go, Origin, TemplateState};

pub use kept::{Ack, Ended, KEPT_WINDOW, Keep, Kept, MAX_KEEP_MS, MAX_KEPT, Resume, Settle};

use crate::ids::{ExecId, InvocationId, SessionId};
use crate::ports::Ports;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The protocol's generation. The newer side adapts; see `proto/VERSIONING.md`.
pub const GENERATION: u32 = 1;

/// Most bytes of one line of agent output that the shim passes on; the rest of the line is split off as lines of their own.
pub const MAX_LOG_LINE: usize = 16 * 1024;

/// Most bytes of an agent's response head (status line and headers).
pub const MAX_HEAD: usize = 32 * 1024;

/// Most headers of a request to, or a response of, an agent.
pub const MAX_HEADERS: usize = 100;

/// Most processes started by `exec` that a session may have at once, beside its agent.
pub const MAX_EXECS: usize = 16;

/// Descriptor numbers that a shim finds open when it starts (0, 1, 2 are `/dev/null`).
pub mod fd {
    /// Sealed memfd holding [`super::Boot`] as JSON.
    pub const BOOT: i32 = 3;
    /// The listening SEQPACKET socket.
    pub const LISTENER: i32 = 4;
    /// Named pipe whose modification time is the [`super::ExitRecord`], set once.
    pub const EXIT_RECORD: i32 = 5;
}

/// What a shim knows before anyone speaks to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Protocol generation of the daemon that launched it.
    pub generation: u32,
    /// Its own name, for its process title.
    pub session: SessionId,
    /// 64 hex digits; only who shows it may attach.
    pub token: String,
    /// Epoch of the launching daemon; only this or a newer one may attach.
    pub epoch: u64,
    /// What to run.
    pub agent: AgentStart,
    /// How to speak to it.
    pub wire: AgentWire,
    /// Durations and bounds.
    pub limits: ShimLimits,
    /// Whether to offer the egress proxy's loopback port (its address goes into the agent's proxy variables).
    pub egress: bool,
    /// Where the agent comes from; absent means that the shim starts it.
    #[serde(default, skip_serializing_if = "Origin::is_started")]
    pub origin: Origin,
}

/// How to start the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentStart {
    /// Program (absolute path in the session, or a name looked up in `PATH`) and arguments; at least one element.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: String,
    /// Uid and gid inside the session's user namespace.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
}

/// How the agent is spoken to on the session's loopback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentWire {
    /// TCP port on 127.0.0.1.
    pub port: u16,
    /// Path of the health check; `None` means: ready when the port accepts (MCP has no `/ping`).
    pub ping_path: Option<String>,
    /// More ports that an `invoke` may ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Ports>,
}

impl AgentWire {
    /// Whether an `invoke` may ask for this port.
    #[must_use]
    pub fn offers(&self, port: u16) -> bool {
        self.ports.iter().any(|ports| ports.hold(port))
    }
}

/// Durations in milliseconds and bounds of one shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShimLimits {
    /// Period of `/ping` once healthy.
    pub ping_interval_ms: u64,
    /// How long one `/ping` may take.
    pub ping_timeout_ms: u64,
    /// From TERM to KILL at shutdown.
    pub stop_grace_ms: u64,
    /// The shim ends the session by itself after this, daemon or no daemon.
    pub max_lifetime_ms: u64,
    /// Ends the session when no daemon has been attached for this long.
    pub orphan_timeout_ms: u64,
    /// Agent output passed on per second, in bytes; what exceeds it is dropped and counted.
    pub log_bytes_per_s: u64,
    /// Burst allowance of the above, in bytes; also the most kept while no daemon is attached.
    pub log_burst_bytes: u64,
    /// Most invocations in flight at once.
    pub max_invocations: u32,
    /// Most egress connections open at once waiting for the broker.
    pub max_egress_backlog: u32,
}

/// `attach`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// The token of [`Boot`], compared in constant time.
    pub token: String,
    /// The caller's epoch.
    pub epoch: u64,
    /// The caller's protocol generation.
    pub generation: u32,
}

/// Answer to `attach`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attached {
    /// The shim's protocol generation.
    pub generation: u32,
    /// Who this is.
    pub session: SessionId,
    /// The last health known, if the agent has been healthy or has failed a check.
    pub health: Option<Health>,
    /// Set if the agent has ended already.
    pub exited: Option<AgentExited>,
    /// Milliseconds since the shim started.
    pub uptime_ms: u64,
    /// Milliseconds since the last invocation or exec ended or the health changed; 0 while there is work.
    pub idle_ms: u64,
    /// Whether it ends already, by an earlier daemon's word or its own.
    pub ending: bool,
    /// What it keeps, at most [`MAX_KEPT`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Kept>,
}

/// `invoke`: one HTTP exchange with the agent, or with another server of its session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invoke {
    /// For `cancel` and `body.end`.
    pub id: InvocationId,
    /// Request method.
    pub method: String,
    /// Request target in origin form (path and query).
    pub target: String,
    /// Header names (lower case) and values; no hop-by-hop headers, no content-length: the shim frames.
    pub headers: Vec<(String, String)>,
    /// Length of the request body if known; otherwise the shim sends it chunked.
    pub content_length: Option<u64>,
    /// Which of [`AgentWire::ports`]; absent means the agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Keep it when the link is lost; absent means that it ends then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
}

/// Answer to `invoke`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvokeHead {
    /// The agent's status code.
    pub status: u16,
    /// The agent's headers, hop-by-hop ones and framing removed.
    pub headers: Vec<(String, String)>,
    /// The body's length where the agent said it.
    pub content_length: Option<u64>,
}

/// `body.end`: the direction that the sender writes is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodyEnd {
    /// Which invocation.
    pub id: InvocationId,
    /// How many bytes the body had.
    pub bytes: u64,
}

/// `cancel`: the caller is gone, or its time is over. The shim closes its connection to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    /// Which invocation.
    pub id: InvocationId,
}

/// `exec`: one more process beside the agent, with the agent's identity and isolation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// For `resize`, `signal` and `exec.exited`.
    pub id: ExecId,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to the agent's environment.
    pub env: BTreeMap<String, String>,
    /// Working directory; the agent's if absent.
    pub cwd: Option<String>,
    /// With a pseudo-terminal of this size.
    pub tty: Option<TtySize>,
}

/// Size of a terminal in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TtySize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// Answer to `exec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Execed {
    /// Process id in the session's pid namespace.
    pub pid: i32,
}

/// `resize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Which exec.
    pub id: ExecId,
    /// New size.
    pub size: TtySize,
}

/// `signal`: to an exec's process group, or to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signal {
    /// Which exec; `None` is the agent.
    pub id: Option<ExecId>,
    /// Signal number, 1–31.
    pub signal: i32,
}

/// `shutdown`: TERM to the agent and every other process ▸ grace ▸ KILL ▸ exit record ▸ exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// From TERM to KILL.
    pub grace_ms: u64,
}

/// `clock-gap`: every process of the session stood still for so long, until just now. Idle time and whatever waits for an
/// answer go on as if that time had not been; a lifetime does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockGap {
    /// Milliseconds.
    pub gap_ms: u64,
}

/// `health`: sent when the status, its detail or `time_of_last_update` changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// What `/ping` said.
    pub status: HealthStatus,
    /// The agent's own `time_of_last_update` (Unix seconds), if it sent one.
    pub time_of_last_update: Option<i64>,
}

/// `claim`: the session has waited in a pool and is somebody's from now on: its clocks begin anew. Refused if its agent has ended, if
/// there is work, and the second time: then it is nobody's to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// As in [`ShimLimits`], from now on.
    pub max_lifetime_ms: u64,
}

/// Outcome of a health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HealthStatus {
    /// Ready for work.
    Healthy,
    /// Background work in progress: do not reap.
    HealthyBusy,
    /// The check failed `failures` times in a row; the text says how (bounded, for people).
    Unhealthy {
        /// Failed checks in a row.
        failures: u32,
        /// How the last one failed.
        detail: String,
    },
}

/// `log`: lines of the agent's output. Lines are split at [`MAX_LOG_LINE`] and made valid UTF-8 by replacement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// In order.
    pub lines: Vec<LogLine>,
    /// Lines dropped since the last `log` because of the rate limit or a full buffer.
    pub dropped: u64,
}

/// One line of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLine {
    /// Where it came from.
    pub stream: LogStream,
    /// Milliseconds since the shim started.
    pub at_ms: u64,
    /// Without its newline.
    pub text: String,
}

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a process ended: an exit status, or the signal that killed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ExitStatus {
    /// Called exit with this code.
    Code(i32),
    /// Killed by this signal number.
    Signal(i32),
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// `agent.exited`: said on every link, after all output that came before it, also where [`Attached::exited`] has told of it
/// already. The session has nothing left to do: the shim waits for `shutdown` (at most `stop_grace_ms`), then exits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentExited {
    /// How; `Err` text if it could not be started at all (program not found, …).
    pub status: Result<ExitStatus, String>,
}

/// `exec.exited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecExited {
    /// Which exec.
    pub id: ExecId,
    /// How.
    pub status: ExitStatus,
}

/// `egress`: the agent connected to the session's proxy port; the connection itself rides along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// Counts up, for logs.
    pub connection: u64,
}

/// `fault`: something about the session is broken that has no request to fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What, for the log (bounded).
    pub detail: String,
}

/// Left by the shim on [`fd::EXIT_RECORD`] just before it exits: says *how*, where a pidfd only says *when*. It travels as two
/// numbers, of which the first is below 256 and the second below a thousand millions: the seconds and nanoseconds of the
/// pipe's modification time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitRecord {
    /// Why the shim ended the session.
    pub cause: ExitCause,
    /// How the agent ended, if it had. Why one could not be started is not kept.
    pub agent: Option<AgentExited>,
}

impl ExitRecord {
    const CAUSES: [ExitCause; 4] = [
        ExitCause::AgentExited,
        ExitCause::Shutdown,
        ExitCause::MaxLifetime,
        ExitCause::Orphaned,
    ];
    const NEVER_STARTED: i64 = 1;
    const CODES: i64 = 1000;
    const SIGNALS: i64 = 2000;

    /// As it travels.
    #[must_use]
    pub fn to_numbers(&self) -> (i64, i64) {
        // In the order of their declaration; 0 is what a careless hand leaves.
        let cause = match self.cause {
            ExitCause::AgentExited => 1,
            ExitCause::Shutdown => 2,
            ExitCause::MaxLifetime => 3,
            ExitCause::Orphaned => 4,
        };
        let agent = match self.agent.as_ref().map(|agent| &agent.status) {
            None => 0,
            Some(Err(_)) => Self::NEVER_STARTED,
            Some(Ok(ExitStatus::Code(code))) => Self::CODES + i64::from(code & 0xff),
            Some(Ok(ExitStatus::Signal(signal))) => Self::SIGNALS + i64::from(signal & 0xff),
        };
        (cause, agent)
    }

    /// From two numbers of anybody's; `None` if no shim writes such.
    #[must_use]
    pub fn from_numbers(cause: i64, agent: i64) -> Option<Self> {
        let at = usize::try_from(cause.checked_sub(1)?).ok()?;
        let byte = |first: i64| {
            let value = i32::try_from(agent - first).ok()?;
            (0..=0xff).contains(&value).then_some(value)
        };
        let status = match agent {
            0 => None,
            Self::NEVER_STARTED => Some(Err("could not be started".to_owned())),
            Self::CODES.. if agent < Self::SIGNALS => {
                Some(Ok(ExitStatus::Code(byte(Self::CODES)?)))
            }
            _ => Some(Ok(ExitStatus::Signal(byte(Self::SIGNALS)?))),
        };
        Some(Self {
            cause: *Self::CAUSES.get(at)?,
            agent: status.map(|status| AgentExited { status }),
        })
    }
}

/// Why a shim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// The agent ended.
    AgentExited,
    /// The daemon said `shutdown`.
    Shutdown,
    /// `max_lifetime_ms` was over.
    MaxLifetime,
    /// No daemon for `orphan_timeout_ms`.
    Orphaned,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_record_survives_its_numbers() {
        let statuses = [
            None,
            Some(Err("could not be started".to_owned())),
            Some(Ok(ExitStatus::Code(0))),
            Some(Ok(ExitStatus::Code(255))),
            Some(Ok(ExitStatus::Signal(9))),
        ];
        for cause in ExitRecord::CAUSES {
            for status in statuses.clone() {
                let agent = status.map(|status| AgentExited { status });
                let record = ExitRecord { cause, agent };
                let (first, second) = record.to_numbers();
                assert!((1..256).contains(&first) && (0..1_000_000_000).contains(&second));
                assert_eq!(ExitRecord::from_numbers(first, second), Some(record));
            }
        }
        for (first, second) in [
            (0, 0),
            (5, 0),
            (1, -1),
            (1, 2),
            (1, 1256),
            (1, 2256),
            (i64::MIN, i64::MAX),
        ] {
            assert_eq!(
                ExitRecord::from_numbers(first, second),
                None,
                "{first} {second}"
            );
        }
    }
}
