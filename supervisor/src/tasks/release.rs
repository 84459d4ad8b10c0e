//! The end of sessions that were made for a task: when it has its outcome nobody comes for its session, which would idle for
//! as long as its runtime lets sessions idle.
//!
//! Unless its agent goes on working by itself (`HealthyBusy`), or somebody has taken the session up (its id is the task's to
//! read). Then it is a session like any other, and ends like one.

use crate::broker::Broker;
use crate::fault::chain;
use crate::owner::Owner;
use crate::session::handle::{SessionHandle, SessionKey};
use crate::store::TaskRow;
use proto::api::{EndReason, FreezeCause, Phase};
use std::sync::Arc;
use std::time::Duration;

/// Phases of a session that is not there yet.
const BEGINS: &[Phase] = &[Phase::Requested, Phase::Launching, Phase::Starting];

/// Of a task that has its outcome. It may have no session yet, or none any more.
pub(super) fn session_of(broker: &Arc<Broker>, row: &TaskRow) {
    if !row.own_session {
        return;
    }
    // Its runtime may have let everybody share sessions.
    let handle = [row.owner.clone(), Owner::everybody()]
        .into_iter()
        .find_map(|owner| {
            broker.registry.find(&SessionKey {
                runtime: row.runtime_id.clone(),
                endpoint: row.endpoint.clone(),
                client: row.client_id.clone(),
                owner,
            })
        });
    if let Some(handle) = handle {
        tokio::spawn(release(Arc::clone(broker), handle));
    }
}

/// Those that an earlier daemon came no further with: it died between an outcome and the end of its session.
pub(super) async fn left_over(broker: &Arc<Broker>) {
    match broker.store.sessions_of_tasks_that_are_over().await {
        Ok(sessions) => {
            for handle in sessions.iter().filter_map(|id| broker.registry.get(id)) {
                tracing::info!(session_id = %handle.id, "its task was over: it is to end");
                tokio::spawn(release(Arc::clone(broker), handle));
            }
        }
        // They end when they have been idle for long enough.
        Err(error) => {
            tracing::warn!(error = %chain(&error), "sessions of tasks that are over were not looked for");
        }
    }
}

async fn release(broker: Arc<Broker>, handle: Arc<SessionHandle>) {
    // What the agent says of itself is heard at the next look at it.
    let ping = broker.config().ping;
    let quiet = ping.interval * 2;
    loop {
        let Some(found) = handle.activity().await else {
            return;
        };
        // One that was left over may have been quiet for long.
        let idle = match found.phase == Phase::Ready && found.in_flight == 0 {
            true => Duration::from_millis(found.idle_ms),
            false => Duration::ZERO,
        };
        tokio::select! {
            () = tokio::time::sleep(quiet.saturating_sub(idle)) => {}
            _ = handle.ending() => return,
        }
        let Some(activity) = handle.activity().await else {
            return;
        };
        match activity.phase {
            // The task was over before its session was there.
            Phase::Requested | Phase::Launching | Phase::Starting => handle.leaves(BEGINS).await,
            Phase::Ready if activity.in_flight == 0 && !activity.says_busy => {
                let idle = Duration::from_millis(activity.idle_ms);
                if idle + ping.interval / 2 >= quiet {
                    handle.stop(EndReason::Idle).await;
                }
                return;
            }
            // Whoever holds it frozen may look at it for as long as he likes.
            Phase::Frozen => {
                if idles(&handle) {
                    handle.stop(EndReason::Idle).await;
                    return;
                }
                handle.leaves(&[Phase::Frozen]).await;
            }
            Phase::Ready | Phase::Busy | Phase::Draining | Phase::Ended | Phase::Failed => return,
        }
    }
}

/// Whether it was frozen for idleness alone, and so is held by nobody.
fn idles(handle: &SessionHandle) -> bool {
    let frozen = handle.view().frozen;
    frozen.is_some_and(|frozen| {
        frozen
            .causes
            .iter()
            .all(|cause| *cause == FreezeCause::Idle)
    })
}
