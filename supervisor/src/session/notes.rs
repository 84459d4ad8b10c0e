//! What is learnt of a session on its way, worth telling when it ends: in a sentence for people, and for the record.

use super::handle::Limited;
use crate::launcher::message::Counters;
use proto::api::EndReason;
use proto::code::ErrorCode;
use proto::shim::{AgentExited, ExitCause, ExitRecord};
use proto::units::MemoryBytes;
use session_core::spec::RuntimeSpec;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Why the launch or the link failed.
    pub(super) fault: Option<String>,
    /// What a failed launch is for the caller, if it is not this daemon's fault.
    pub(super) code: Option<ErrorCode>,
    /// How the agent ended.
    pub(super) exited: Option<AgentExited>,
    /// How the last health check failed.
    pub(super) unhealthy: Option<String>,
    /// Final counters.
    pub(super) usage: Option<Counters>,
    /// What the shim wrote when it went.
    pub(super) record: Option<ExitRecord>,
}

impl Notes {
    /// The end in a sentence.
    /// `limits`: what it had when it ended; `all`: the memory of all sessions together, if that is bounded.
    pub(super) fn describe(
        &self,
        reason: EndReason,
        was_live: bool,
        spec: &RuntimeSpec,
        limits: Limited,
        all: Option<MemoryBytes>,
    ) -> String {
        let fault = || self.fault.as_deref().unwrap_or("no more is known");
        match reason {
            EndReason::Stopped => "it was stopped".to_owned(),
            EndReason::Idle => "it was idle for its idle timeout".to_owned(),
            EndReason::Evicted => {
                "it was idle, and new sessions needed its place or its memory".to_owned()
            }
            EndReason::MaxLifetime => "it reached its max lifetime".to_owned(),
            EndReason::Unhealthy => format!(
                "its /ping kept failing: {}",
                self.unhealthy.as_deref().unwrap_or("no answer")
            ),
            EndReason::OutOfMemory => match all {
                // Which of the two it was nobody tells.
                Some(all) => format!(
                    "it ran out of memory (limit {}; all sessions together may have {all}, limits.sessions_memory)",
                    limits.memory
                ),
                None => format!("it ran out of memory (limit {})", limits.memory),
            },
            EndReason::AgentExited => {
                let how = match self.exited.as_ref().map(|exited| &exited.status) {
                    Some(Ok(status)) => format!("the agent process ended with {status}"),
                    Some(Err(why)) => format!("the agent process could not be started: {why}"),
                    None => "the agent process ended".to_owned(),
                };
                if was_live {
                    how
                } else {
                    format!("{how} before it was ready")
                }
            }
            EndReason::ShimDied => format!("its supervising process died: {}", fault()),
            EndReason::Protocol => format!("it broke the session protocol: {}", fault()),
            EndReason::LaunchFailed => format!("it could not be launched: {}", fault()),
            EndReason::StartTimeout => format!(
                "the agent was not ready within {} s: {}",
                spec.timeouts.start.as_secs(),
                self.unhealthy.as_deref().map_or_else(
                    || "its port never accepted a connection".to_owned(),
                    |detail| format!("its /ping failed: {detail}"),
                )
            ),
            EndReason::DaemonStopped => "the daemon was stopped".to_owned(),
            EndReason::DaemonLost => "the daemon that owned it is gone".to_owned(),
        }
    }

    /// The reason that goes on record: a shim that ended the session by itself has said why.
    pub(super) fn recorded(&self, reason: EndReason) -> EndReason {
        match self.record.as_ref().map(|record| record.cause) {
            Some(ExitCause::MaxLifetime) if reason == EndReason::ShimDied => EndReason::MaxLifetime,
            Some(ExitCause::Orphaned) if reason == EndReason::ShimDied => EndReason::DaemonLost,
            // Shortly before it was adopted.
            Some(ExitCause::AgentExited) if reason == EndReason::ShimDied => EndReason::AgentExited,
            // By the daemon that it was adopted from.
            Some(ExitCause::Shutdown) if reason == EndReason::ShimDied => EndReason::Stopped,
            Some(_) | None => reason,
        }
    }
}
