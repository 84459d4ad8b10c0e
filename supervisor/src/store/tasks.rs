//! Asynchronous tasks. Every change of status is one guarded statement: it names the status that it starts from, so that of two
//! who want to end the same task one does, and the other finds that out ([`Store`]'s answer is then `None`).

mod callbacks;
mod changes;
mod events;
mod kept;
mod list;
mod row;
mod submit;

pub use changes::{Begun, Head, Over, Waits};
pub use kept::{Expired, Known, Unfinished};
pub use list::TaskFilter;
pub use row::{Inline, TaskKind, TaskRow};
pub use submit::{NewTask, Submitted};

use proto::api::TaskStatus;

/// The number that the table has for a status.
const fn number(status: TaskStatus) -> i64 {
    status as i64
}

/// The status of a number.
fn status(number: i64) -> Option<TaskStatus> {
    let number = usize::try_from(number).ok()?;
    TaskStatus::ALL.get(number).copied()
}
