//! `agentcore session list|inspect|stop|freeze|thaw|limits`.

use super::Desk;
use crate::args::SessionVerb;
use crate::daemon::{DaemonError, empty};
use crate::failure::{Exit, Failure};
use crate::table::{Table, age, bytes};
use crate::target;
use hyper::Method;
use proto::api::{EndReason, Origin, Phase, Session};
use std::time::SystemTime;

mod freezer;
pub(super) mod limits;

/// Does what the verb says.
pub(super) async fn run(desk: &Desk, verb: &SessionVerb) -> Result<(), Failure> {
    match verb {
        SessionVerb::List { agent, all, pool } => list(desk, agent.as_deref(), *all, *pool).await,
        SessionVerb::Inspect { session, agent } => inspect(desk, session, agent.as_deref()).await,
        SessionVerb::Stop {
            sessions,
            all,
            agent,
        } => stop(desk, sessions, *all, agent.as_deref()).await,
        SessionVerb::Freeze {
            sessions,
            reason,
            agent,
        } => freezer::freeze(desk, sessions, reason.as_deref(), agent.as_deref()).await,
        SessionVerb::Limits {
            session,
            change,
            agent,
        } => limits::session(desk, session, change, agent.as_deref()).await,
        SessionVerb::Thaw { sessions, agent } => {
            freezer::thaw(desk, sessions, agent.as_deref()).await
        }
    }
}

fn live(session: &Session) -> bool {
    !matches!(session.phase, Phase::Ended | Phase::Failed)
}

async fn list(desk: &Desk, agent: Option<&str>, all: bool, pool: bool) -> Result<(), Failure> {
    let screen = &desk.screen;
    let mut sessions = match pool {
        true => target::sessions_and_pools(&desk.daemon, agent).await?,
        false => target::sessions(&desk.daemon, agent).await?,
    };
    sessions.retain(|session| all || live(session));
    if screen.json {
        return screen.document(&sessions);
    }
    if screen.quiet {
        return sessions
            .iter()
            .try_for_each(|each| screen.line(each.id.as_str()));
    }
    screen.line(table(&sessions))
}

/// Sessions as a table.
pub(super) fn table(sessions: &[Session]) -> String {
    let now = SystemTime::now();
    let mut table = Table::new([
        "ID", "SESSION", "RUNTIME", "VERSION", "PHASE", "ORIGIN", "AGE", "ACTIVE", "CPU", "MEMORY",
    ]);
    for each in sessions {
        let phase = match each.end_reason {
            Some(reason) => format!("{} ({})", phase_word(each.phase), reason_word(reason)),
            None => phase_word(each.phase).to_owned(),
        };
        table.row([
            each.id.to_string(),
            each.session_id.to_string(),
            each.runtime.to_string(),
            each.version.to_string(),
            phase,
            each.origin.map_or("-", origin_word).to_owned(),
            age(&each.created_at, now),
            age(&each.last_activity_at, now),
            format!("{:.1}s", each.usage.cpu_seconds),
            bytes(each.usage.memory_bytes),
        ]);
    }
    table.text()
}

async fn inspect(desk: &Desk, id: &str, agent: Option<&str>) -> Result<(), Failure> {
    let session: Session = desk
        .daemon
        .get(&target::session_path(id, "", agent))
        .await?;
    if desk.screen.quiet {
        return desk.screen.line(session.id.as_str());
    }
    desk.screen.document(&session)
}

async fn stop(
    desk: &Desk,
    named: &[String],
    all: bool,
    agent: Option<&str>,
) -> Result<(), Failure> {
    let screen = &desk.screen;
    let ids: Vec<String> = if all {
        let sessions = target::sessions(&desk.daemon, agent).await?;
        sessions
            .iter()
            .filter(|each| live(each))
            .map(|each| each.id.to_string())
            .collect()
    } else {
        named.to_vec()
    };
    let stage = screen.stage(match ids.len() {
        1 => "Stopping 1 session".to_owned(),
        several => format!("Stopping {several} sessions"),
    });
    // At once: each may take its whole grace period.
    let stops = ids.iter().map(|id| stop_one(desk, id, agent));
    let outcomes = futures_util::future::join_all(stops).await;
    drop(stage);
    let mut stopped = Vec::new();
    let mut worst: Option<Failure> = None;
    for (id, outcome) in ids.iter().zip(outcomes) {
        match outcome {
            Ok(session) => stopped.push(session),
            // It ended by itself between our list and our call: that is what was wanted.
            Err(DaemonError::Refused(refusal)) if all && refusal.status == 404 => {}
            Err(error) => {
                let mut failure = Failure::from(error);
                failure.what = format!("cannot stop {id}: {}", failure.what);
                if let Some(previous) = worst.replace(failure) {
                    screen.failure(&previous);
                }
            }
        }
    }
    show_stopped(desk, &stopped, all && worst.is_none())?;
    worst.map_or(Ok(()), Err)
}

async fn stop_one(desk: &Desk, id: &str, agent: Option<&str>) -> Result<Session, DaemonError> {
    let path = target::session_path(id, "", agent);
    let joint = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{joint}wait=true");
    let answer = desk
        .daemon
        .call(desk.daemon.request(Method::DELETE, &path, empty()))
        .await?;
    desk.daemon.document(Method::DELETE, &path, answer).await
}

fn show_stopped(desk: &Desk, stopped: &[Session], none_is_news: bool) -> Result<(), Failure> {
    let screen = &desk.screen;
    if screen.json {
        return screen.document(&stopped);
    }
    if stopped.is_empty() && none_is_news {
        screen.note("no session is running");
    }
    stopped.iter().try_for_each(|each| {
        if screen.quiet {
            return screen.line(each.id.as_str());
        }
        let how = match (each.phase, each.end_reason) {
            (Phase::Ended | Phase::Failed, Some(reason)) => reason_word(reason),
            (phase, _) => phase_word(phase),
        };
        screen.line(format!("{} of {}: {how}", each.session_id, each.runtime))
    })
}

pub(super) const fn phase_word(phase: Phase) -> &'static str {
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

const fn origin_word(origin: Origin) -> &'static str {
    match origin {
        Origin::Cold => "cold",
        Origin::Pool => "pool",
        Origin::Fork => "fork",
        Origin::Waiting => "waiting",
        Origin::Template => "template",
    }
}

const fn reason_word(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Stopped => "stopped",
        EndReason::Idle => "idle",
        EndReason::Evicted => "evicted",
        EndReason::MaxLifetime => "max lifetime",
        EndReason::Unhealthy => "unhealthy",
        EndReason::OutOfMemory => "out of memory",
        EndReason::AgentExited => "agent exited",
        EndReason::ShimDied => "shim died",
        EndReason::Protocol => "protocol fault",
        EndReason::LaunchFailed => "launch failed",
        EndReason::StartTimeout => "start timeout",
        EndReason::DaemonStopped => "daemon stopped",
        EndReason::DaemonLost => "daemon lost",
    }
}

/// The session that has this id, or a failure that says where to look.
pub(super) async fn find(desk: &Desk, id: &str, agent: Option<&str>) -> Result<Session, Failure> {
    let found: Option<Session> = desk
        .daemon
        .find(&target::session_path(id, "", agent))
        .await?;
    found.ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("there is no session {id}"))
            .advice("`agentcore session list` shows those that run")
    })
}
