//! Labels: each from a closed set, but for names of runtimes, whose number is bounded.

use prometheus_client::encoding::EncodeLabelSet;
use proto::api::{EndReason, FreezeCause, Phase};
use proto::ids::RuntimeName;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Build {
    version: &'static str,
}

impl Build {
    pub(super) const fn this() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Agent {
    pub(super) agent: String,
}

impl Agent {
    pub(super) fn named(name: &RuntimeName) -> Self {
        Self {
            agent: name.as_str().to_owned(),
        }
    }

    /// No name of a runtime is this one: they are checked to be at least as long as a letter and to hold no dash.
    pub(super) fn other() -> Self {
        Self {
            agent: "-other-".to_owned(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Request {
    pub(super) operation: &'static str,
    pub(super) code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Operation {
    pub(super) operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Invocation {
    pub(super) agent: String,
    pub(super) mode: &'static str,
    pub(super) code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct State {
    pub(super) state: &'static str,
    pub(super) agent: String,
}

pub(super) const fn state(phase: Phase) -> &'static str {
    match phase {
        Phase::Requested => "requested",
        Phase::Launching => "launching",
        Phase::Starting => "starting",
        Phase::Ready => "ready",
        Phase::Busy => "busy",
        Phase::Frozen => "frozen",
        Phase::Draining => "draining",
        Phase::Ended => "ended",
        Phase::Failed => "failed",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Start {
    pub(super) path: &'static str,
    pub(super) agent: String,
}

/// A part of a session's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Its name and uids are written down, its files are made.
    Reserve,
    /// The launcher makes it.
    Launch,
    /// Its shim answers.
    Attach,
    /// It is made of a fork, up to its agent's first answer.
    Fork,
    /// Its agent does.
    Ready,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StartStage {
    stage: &'static str,
}

impl StartStage {
    pub(super) const fn of(stage: Stage) -> Self {
        let stage = match stage {
            Stage::Reserve => "reserve",
            Stage::Launch => "launch",
            Stage::Attach => "attach",
            Stage::Fork => "fork",
            Stage::Ready => "ready",
        };
        Self { stage }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StreamKind {
    pub(super) kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Outcome {
    pub(super) result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TaskState {
    pub(super) state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Ended {
    reason: &'static str,
}

impl Ended {
    pub(super) const fn of(reason: EndReason) -> Self {
        let reason = match reason {
            EndReason::Stopped => "stopped",
            EndReason::Idle => "idle",
            EndReason::Evicted => "evicted",
            EndReason::MaxLifetime => "max_lifetime",
            EndReason::Unhealthy => "unhealthy",
            EndReason::OutOfMemory => "out_of_memory",
            EndReason::AgentExited => "agent_exited",
            EndReason::ShimDied => "shim_died",
            EndReason::Protocol => "protocol",
            EndReason::LaunchFailed => "launch_failed",
            EndReason::StartTimeout => "start_timeout",
            EndReason::DaemonStopped => "daemon_stopped",
            EndReason::DaemonLost => "daemon_lost",
        };
        Self { reason }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Cause {
    cause: &'static str,
}

impl Cause {
    pub(super) const fn of(cause: FreezeCause) -> Self {
        let cause = match cause {
            FreezeCause::Operator => "operator",
            FreezeCause::Budget => "budget",
            FreezeCause::Idle => "idle",
        };
        Self { cause }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Decision {
    decision: &'static str,
    reason: &'static str,
}

impl Decision {
    pub(super) fn of(missing: Option<&'static str>) -> Self {
        Self {
            decision: if missing.is_none() {
                "admitted"
            } else {
                "refused"
            },
            reason: missing.unwrap_or(""),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Adopted {
    result: &'static str,
}

impl Adopted {
    pub(super) const fn of(adopted: bool) -> Self {
        Self {
            result: if adopted { "adopted" } else { "ended" },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Resource {
    pub(super) resource: &'static str,
}
