//! Flags of asynchronous tasks: `invoke --async` and `task …`.

use super::{Target, lifetime, seconds};
use clap::{Args, Subcommand};
use proto::api::TaskStatus;
use proto::ids::TaskId;
use std::time::Duration;

/// What `invoke --async` says about its task.
#[derive(Debug, Args)]
pub(crate) struct Submission {
    /// Submit a task, print its id, and do not wait for the answer
    #[arg(long = "async", conflicts_with_all = ["stream", "timeout"])]
    pub(crate) background: bool,
    /// End the task after so many seconds, or 30m, 2h, 1d, done or not [default: 8h]
    #[arg(long, value_name = "TIME", value_parser = lifetime, requires = "background")]
    pub(crate) deadline: Option<u64>,
    /// Tell this URL of the task's outcome, in a signed POST
    #[arg(long, value_name = "URL", requires = "background")]
    pub(crate) callback: Option<String>,
    /// Repeat the task up to so many times if it does not succeed: it is safe to repeat [default: 0]
    #[arg(long, value_name = "NUMBER", requires = "background")]
    pub(crate) retries: Option<u32>,
    /// Wait so long before the first repetition, twice as long before the next one, and so on
    #[arg(long, value_name = "TIME", value_parser = lifetime, requires = "retries")]
    pub(crate) backoff: Option<u64>,
    /// Submit the task only once, however often this is run with the same key
    #[arg(long, value_name = "KEY", requires = "background")]
    pub(crate) idempotency_key: Option<String>,
}

/// `task …`.
#[derive(Debug, Subcommand)]
pub(crate) enum TaskVerb {
    /// List tasks, the newest first
    List {
        /// Only of this runtime
        #[arg(short = 'a', long = "agent", value_name = "NAME")]
        agent: Option<String>,
        /// Only those that are queued, starting, running, succeeded, failed, cancelled, timed_out or lost
        #[arg(long, value_name = "STATUS", value_parser = status)]
        status: Option<TaskStatus>,
        /// Only those of this session
        #[arg(short, long, value_name = "SESSION")]
        session: Option<String>,
        /// At most so many; 0 is all
        #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 100)]
        limit: usize,
    },
    /// Show everything about a task
    Get {
        /// Its id
        #[arg(value_parser = task_id)]
        task: TaskId,
    },
    /// Wait for a task's outcome, show its progress, and print its answer
    Wait {
        /// Its id
        #[arg(value_parser = task_id)]
        task: TaskId,
        /// Give up waiting after so many seconds; the task goes on
        #[arg(long, value_name = "SECONDS", value_parser = seconds)]
        timeout: Option<Duration>,
    },
    /// Print a task's answer
    Result {
        /// Its id
        #[arg(value_parser = task_id)]
        task: TaskId,
        /// Also of a task that still runs, as it comes
        #[arg(short, long)]
        follow: bool,
    },
    /// Cancel tasks; those that run are told
    Cancel {
        /// Their ids
        #[arg(required = true, value_parser = task_id, value_name = "TASK")]
        tasks: Vec<TaskId>,
    },
    /// Show what a task's session wrote while the task ran
    Logs {
        /// Its id
        #[arg(value_parser = task_id)]
        task: TaskId,
        /// Go on until the task has its outcome
        #[arg(short, long)]
        follow: bool,
    },
    /// Print the secret that a runtime's callbacks are signed with
    Secret {
        /// Which runtime.
        #[command(flatten)]
        target: Target,
    },
}

fn task_id(text: &str) -> Result<TaskId, String> {
    TaskId::parse(text).map_err(|error| format!("{error}; `agentcore task list` shows ids"))
}

fn status(text: &str) -> Result<TaskStatus, String> {
    let named = TaskStatus::ALL.into_iter().find(|status| {
        let name = status.as_str();
        name.eq_ignore_ascii_case(text) || name.replace('_', "-").eq_ignore_ascii_case(text)
    });
    named.ok_or_else(|| {
        let all: Vec<String> = TaskStatus::ALL
            .iter()
            .map(|status| status.as_str().to_ascii_lowercase())
            .collect();
        format!("write one of {}", all.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_as_they_are_written() {
        assert_eq!(status("TIMED_OUT"), Ok(TaskStatus::TimedOut));
        assert_eq!(status("timed-out"), Ok(TaskStatus::TimedOut));
        assert_eq!(status("running"), Ok(TaskStatus::Running));
        assert!(status("done").is_err());
    }
}
