//! Asynchronous tasks: an invocation whose caller does not wait for its answer.
//!
//! A task has exactly one outcome, its last status. [`Task`] is what all routes show of it; its answer is a thing of its own
//! (`…/result`), because it can be large and can still be coming.

use super::Page;
use crate::ids::{ClientSessionId, EndpointName, RuntimeName, SessionId, TaskId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A page of tasks.
pub type TaskPage = Page<Task>;

/// Header of a submission: the same key again, from the same caller to the same runtime, is the same task (1 to 255 visible
/// ASCII characters).
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// On every request of a task to its agent, and on the answer of a resumable stream: which task.
pub const TASK_ID_HEADER: &str = "x-agentcore-task-id";

/// To the agent: the attempt, 1 at first.
pub const TASK_ATTEMPT_HEADER: &str = "x-agentcore-task-attempt";

/// To the agent, on later attempts: the last progress record that an earlier one reported, as JSON (ASCII; other characters
/// are escaped). Absent if there was none, or if it has more than [`MAX_CHECKPOINT`] bytes.
pub const TASK_CHECKPOINT_HEADER: &str = "x-agentcore-task-checkpoint";

/// Longest value of [`TASK_CHECKPOINT_HEADER`]; a progress record itself may have [`MAX_PROGRESS`].
pub const MAX_CHECKPOINT: usize = 8 * 1024;

/// Largest progress record, in bytes of JSON.
pub const MAX_PROGRESS: usize = 16 * 1024;

/// How a line of a session's output begins that is a progress record: this, then a JSON object on the same line. Its `task`,
/// a task's id, says which task it is of; it can be missing while one task alone runs in the session.
pub const PROGRESS_LINE: &str = "::agentcore-progress::";

/// Where a task is. The last five are final: a task has exactly one of them, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TaskStatus {
    /// On disk; waits for its turn, or for its next attempt.
    Queued,
    /// A session is being obtained. Nothing has been sent to an agent.
    Starting,
    /// The agent has it, or may have.
    Running,
    /// The agent answered, with a status below 400, and the whole answer is kept.
    Succeeded,
    /// The agent failed: it answered with an error, crashed, was out of memory, or could not be started.
    Failed,
    /// Somebody cancelled it, stopped its session, or deleted its runtime.
    Cancelled,
    /// It was not done at its deadline.
    TimedOut,
    /// The daemon or the host was interrupted while the agent had it; what came of it is not known. It is not repeated.
    Lost,
}

impl TaskStatus {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Starting,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
        Self::Lost,
    ];

    /// Whether it is an outcome.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Starting | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::TimedOut | Self::Lost => true,
        }
    }

    /// As on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Starting => "STARTING",
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::TimedOut => "TIMED_OUT",
            Self::Lost => "LOST",
        }
    }
}

/// A task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// Its id.
    pub task_id: TaskId,
    /// Whom it was given to.
    pub runtime: RuntimeName,
    /// Through which endpoint.
    pub qualifier: EndpointName,
    /// Where it is.
    pub status: TaskStatus,
    /// Why it ended, or waits again, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The session that it runs in: the caller's, or one of its own.
    pub session_id: ClientSessionId,
    /// The same as the daemon knows it, of the newest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Whose it is, as with sessions.
    pub owner: String,
    /// The caller's own user that it was submitted for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// Attempts that have begun.
    pub attempts: u32,
    /// Attempts that may follow one that did not succeed. Above 0 the task is safe to repeat.
    pub retries: u32,
    /// When the next attempt begins, while it waits for that (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<String>,
    /// The last progress record: an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Value>,
    /// When it came (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_at: Option<String>,
    /// When it was submitted (RFC 3339).
    pub created_at: String,
    /// When its first attempt had its session (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it had its outcome (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// When it is over, done or not (RFC 3339).
    pub deadline_at: String,
    /// When it, its result and its events are forgotten, once it has its outcome (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// What it took.
    pub usage: TaskUsage,
    /// Its answer, as soon as that has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<TaskResult>,
    /// Who is told of its outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<TaskCallback>,
}

/// What a task took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct TaskUsage {
    /// Milliseconds with an agent, of all attempts.
    pub run_ms: u64,
    /// Bytes of its payload.
    pub bytes_in: u64,
    /// Bytes of its answer so far.
    pub bytes_out: u64,
}

/// A task's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct TaskResult {
    /// The agent's status.
    pub status: u16,
    /// The agent's `Content-Type`, if it said one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Bytes so far; all of them once the task has its outcome.
    pub bytes: u64,
    /// Whether it is the agent's whole answer.
    pub complete: bool,
}

/// A call to somebody with a task's outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct TaskCallback {
    /// Whom.
    pub url: String,
    /// How far it is.
    pub state: CallbackState,
    /// Calls made.
    pub attempts: u32,
    /// Why the last one failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How far a callback is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CallbackState {
    /// The task has no outcome yet.
    Waiting,
    /// It has, and is being told.
    Due,
    /// It was told, and that was acknowledged.
    Delivered,
    /// It could not be told.
    GivenUp,
}

/// `GET /v1/runtimes/{name}/callback-secret`: what the runtime's callbacks are signed with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct CallbackSecret {
    /// As libraries of Standard Webhooks take it: `whsec_` and base64.
    pub secret: String,
}

/// What happened to a task. In a stream of events (`…/events`) the event's `id` is [`TaskEvent::id`], its name that of
/// [`TaskEventKind`], its data this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct TaskEvent {
    /// 1, 2, 3, … within the task; some can be missing (of several progress records in a short time the newest is kept).
    pub id: u64,
    /// RFC 3339.
    pub at: String,
    /// The attempt that it belongs to; 0 before the first.
    pub attempt: u32,
    /// What.
    #[serde(flatten)]
    pub kind: TaskEventKind,
}

/// See [`TaskEvent`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum TaskEventKind {
    /// It has another status. After one that is final no event follows.
    Status {
        /// The new one.
        status: TaskStatus,
        /// Why, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The agent reported progress.
    Progress {
        /// What it said: an object.
        progress: Value,
    },
}

impl TaskEventKind {
    /// The event's name in a stream of events.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Status { .. } => "status",
            Self::Progress { .. } => "progress",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn statuses_are_named_as_they_are_written() {
        for status in TaskStatus::ALL {
            assert_eq!(json!(status), json!(status.as_str()));
        }
    }

    #[test]
    fn an_event_is_one_flat_object() {
        let event = TaskEvent {
            id: 2,
            at: "2026-01-01T00:00:00.000Z".to_owned(),
            attempt: 1,
            kind: TaskEventKind::Progress {
                progress: json!({ "percent": 50 }),
            },
        };
        let text = json!(event);
        assert_eq!(text["type"], event.kind.name());
        assert_eq!(text["progress"]["percent"], 50);
        assert_eq!(serde_json::from_value::<TaskEvent>(text).ok(), Some(event));
    }
}
