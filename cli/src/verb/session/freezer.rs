//! `agentcore session freeze|thaw`.

use super::{Desk, phase_word};
use crate::daemon::{Daemon, DaemonError, empty, encode};
use crate::failure::Failure;
use crate::target;
use hyper::Method;
use proto::api::{FreezeCause, Frozen, Phase, Session};

/// Freezes each; the last that cannot be is the failure, the others are frozen all the same.
pub(super) async fn freeze(
    desk: &Desk,
    sessions: &[String],
    reason: Option<&str>,
    agent: Option<&str>,
) -> Result<(), Failure> {
    let query = reason.map(|reason| format!("reason={}", encode(reason)));
    each(desk, sessions, "freeze", query.as_deref(), agent).await
}

/// The same for thawing.
pub(super) async fn thaw(
    desk: &Desk,
    sessions: &[String],
    agent: Option<&str>,
) -> Result<(), Failure> {
    each(desk, sessions, "thaw", None, agent).await
}

async fn each(
    desk: &Desk,
    sessions: &[String],
    verb: &str,
    query: Option<&str>,
    agent: Option<&str>,
) -> Result<(), Failure> {
    let screen = &desk.screen;
    let mut done = Vec::new();
    let mut worst: Option<Failure> = None;
    for id in sessions {
        match switch(&desk.daemon, id, verb, query, agent).await {
            Ok(session) => done.push(session),
            Err(error) => {
                let mut failure = Failure::from(error);
                failure.what = format!("cannot {verb} {id}: {}", failure.what);
                if let Some(previous) = worst.replace(failure) {
                    screen.failure(&previous);
                }
            }
        }
    }
    if screen.json {
        screen.document(&done)?;
    } else {
        for session in &done {
            screen.line(told(session, screen.quiet))?;
        }
    }
    worst.map_or(Ok(()), Err)
}

/// Freezes or thaws one.
async fn switch(
    daemon: &Daemon,
    id: &str,
    verb: &str,
    query: Option<&str>,
    agent: Option<&str>,
) -> Result<Session, DaemonError> {
    let mut path = target::session_path(id, &format!("/{verb}"), agent);
    if let Some(query) = query {
        path.push(if path.contains('?') { '&' } else { '?' });
        path.push_str(query);
    }
    let answer = daemon
        .call(daemon.request(Method::POST, &path, empty()))
        .await?;
    daemon.document(Method::POST, &path, answer).await
}

fn told(session: &Session, quiet: bool) -> String {
    if quiet {
        return session.id.to_string();
    }
    let how = match (session.phase, &session.frozen) {
        (Phase::Frozen, Some(frozen)) => format!("frozen ({})", causes(frozen)),
        (phase, _) => phase_word(phase).to_owned(),
    };
    format!("{} of {}: {how}", session.session_id, session.runtime)
}

/// Who holds it.
fn causes(frozen: &Frozen) -> String {
    let words = frozen.causes.iter().map(|cause| match cause {
        FreezeCause::Operator => "by an operator",
        FreezeCause::Budget => "its budget is used up",
        FreezeCause::Idle => "idle",
    });
    words.collect::<Vec<_>>().join(", ")
}
