//! `agentcore task logs`: what the session of a task's newest attempt wrote between the task's beginning and its end.

use super::super::Desk;
use super::super::logs::{Label, Records, show};
use super::follow::Follower;
use super::task;
use crate::daemon::DaemonError;
use crate::failure::{Exit, Failure};
use crate::target;
use proto::api::{LogRecord, Session, Task};
use proto::ids::TaskId;
use std::time::{Duration, SystemTime};

/// Between two looks for the session of a task that waits for one.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long nothing more must come after the outcome: a shim tells of output a little later than of an answer.
const SILENCE: Duration = Duration::from_millis(500);

/// A line's time counts from its session's request, a task's from when it was sent: the launch lies between.
const SLACK: Duration = Duration::from_secs(1);

/// Shows the lines.
pub(super) async fn run(desk: &Desk, id: &TaskId, follow: bool) -> Result<(), Failure> {
    let mut found = task(desk, id).await?;
    while follow && found.session.is_none() && !found.status.is_final() {
        tokio::time::sleep(LOOK_EVERY).await;
        found = task(desk, id).await?;
    }
    let Some(session) = &found.session else {
        if !found.status.is_final() {
            desk.screen.note(format!("task {id} has no session yet"));
        }
        return Ok(());
    };
    let session = session_of(desk, session.as_str()).await?;
    let from = time(beginning(&found, &session)).and_then(|at| at.checked_sub(SLACK));
    let to = found.finished_at.as_deref().and_then(time);
    let mut records = Records::open(desk, &session, None, follow).await?;
    let label = Label::none();
    if !follow {
        while let Some(record) = records.next().await? {
            if within(&record, from, to) {
                show(&desk.screen, &session, &label, &record)?;
            }
        }
        return Ok(());
    }
    let mut outcome = std::pin::pin!(Follower::new(desk, id).outcome(|_| {}));
    loop {
        tokio::select! {
            record = records.next() => match record? {
                Some(record) if within(&record, from, None) => show(&desk.screen, &session, &label, &record)?,
                Some(_) => {}
                // The session is over, and with it all that there will be.
                None => return Ok(()),
            },
            task = &mut outcome => {
                let to = task?.finished_at.as_deref().and_then(time);
                while let Ok(Ok(Some(record))) = tokio::time::timeout(SILENCE, records.next()).await {
                    if within(&record, from, to) {
                        show(&desk.screen, &session, &label, &record)?;
                    }
                }
                return Ok(());
            }
        }
    }
}

async fn session_of(desk: &Desk, id: &str) -> Result<Session, Failure> {
    match desk.daemon.get(&target::session_path(id, "", None)).await {
        Ok(session) => Ok(session),
        Err(DaemonError::Refused(refusal)) if refusal.status == 404 => Err(Failure::new(
            Exit::NotFound,
            format!("session {id} of the task is not known any more, and nor is its log"),
        )),
        Err(error) => Err(error.into()),
    }
}

/// A session that was begun for the task says with its first lines why it did not start; what another one wrote before is
/// not the task's.
fn beginning<'a>(task: &'a Task, session: &Session) -> &'a str {
    if session.created_at >= task.created_at {
        &task.created_at
    } else {
        task.started_at.as_deref().unwrap_or(&task.created_at)
    }
}

fn time(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339_weak(text).ok()
}

fn within(record: &LogRecord, from: Option<SystemTime>, to: Option<SystemTime>) -> bool {
    let Some(at) = time(&record.at) else {
        return true;
    };
    from.is_none_or(|from| at >= from) && to.is_none_or(|to| at <= to)
}
