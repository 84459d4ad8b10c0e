//! Between a task's row and the machine that decides.

use crate::store::{TaskRow, Timestamp};
use proto::api::TaskStatus;
use session_core::moment::Moment;
use session_core::task::{Outcome, State, Task, Terms};

/// The task of a row.
pub(in crate::tasks) fn of(row: &TaskRow) -> Task {
    let terms = Terms {
        retries: row.retries,
        backoff: row.backoff,
        deadline: moment(row.deadline_at),
    };
    let state = match row.status {
        TaskStatus::Queued => State::Queued {
            not_before: moment(row.not_before),
        },
        TaskStatus::Starting => State::Starting,
        TaskStatus::Running => State::Running,
        TaskStatus::Succeeded => State::Ended(Outcome::Succeeded),
        TaskStatus::Failed => State::Ended(Outcome::Failed),
        TaskStatus::Cancelled => State::Ended(Outcome::Cancelled),
        TaskStatus::TimedOut => State::Ended(Outcome::TimedOut),
        TaskStatus::Lost => State::Ended(Outcome::Lost),
    };
    Task::read(terms, state, row.attempts, row.retried)
}

/// The status of a state.
pub(in crate::tasks) const fn status(state: State) -> TaskStatus {
    match state {
        State::Queued { .. } => TaskStatus::Queued,
        State::Starting => TaskStatus::Starting,
        State::Running => TaskStatus::Running,
        State::Ended(Outcome::Succeeded) => TaskStatus::Succeeded,
        State::Ended(Outcome::Failed) => TaskStatus::Failed,
        State::Ended(Outcome::Cancelled) => TaskStatus::Cancelled,
        State::Ended(Outcome::TimedOut) => TaskStatus::TimedOut,
        State::Ended(Outcome::Lost) => TaskStatus::Lost,
    }
}

/// Now, as the machine counts.
pub(in crate::tasks) fn now() -> Moment {
    moment(Timestamp::now())
}

fn moment(at: Timestamp) -> Moment {
    Moment(u64::try_from(at.0).unwrap_or(0))
}

/// A moment of the machine's, for the store.
pub(in crate::tasks) fn civil(moment: Moment) -> Timestamp {
    Timestamp(i64::try_from(moment.0).unwrap_or(i64::MAX))
}
