//! What the next daemon is to know of a live session beyond how it is found: whether it was ever ready, which session its MCP
//! server has made, and what has been counted. Written down together once a second, for those of which something has
//! changed; so what was counted within a second before a daemon is killed is lost, and nobody waits for a disk.

use crate::broker::Broker;
use crate::fault::chain;
use crate::session::handle::SessionHandle;
use crate::store::Memo;
use proto::api::Phase;
use proto::ids::SessionId;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Most that are written in one transaction: a few milliseconds' work.
const AT_ONCE: usize = 256;

/// Writes down what has changed, until the runtime ends.
pub async fn keep_written(broker: Arc<Broker>) {
    let mut written: HashMap<SessionId, Memo> = HashMap::new();
    loop {
        tokio::time::sleep(PAUSE).await;
        let now: HashMap<SessionId, Memo> = broker
            .registry
            .all()
            .iter()
            .map(|session| (session.id.clone(), of(session)))
            .collect();
        written.retain(|id, _| now.contains_key(id));
        let changed: Vec<(SessionId, Memo)> = now
            .into_iter()
            .filter(|(id, memo)| written.get(id).unwrap_or(&Memo::default()) != memo)
            .take(AT_ONCE)
            .collect();
        if changed.is_empty() {
            continue;
        }
        match broker.store.remember(changed.clone()).await {
            Ok(()) => written.extend(changed),
            Err(error) => {
                tracing::debug!(error = %chain(&error), "what is counted of sessions was not written down; tried again");
            }
        }
    }
}

fn of(session: &SessionHandle) -> Memo {
    if matches!(
        session.view().phase,
        Phase::Ready | Phase::Busy | Phase::Frozen
    ) {
        session.was_ready.store(true, Ordering::Relaxed);
    }
    Memo {
        was_ready: session.was_ready.load(Ordering::Relaxed),
        mcp: session.mcp_session(),
        egress_refused: session.egress_refused.load(Ordering::Relaxed),
        log_lines_dropped: session.log.dropped(),
    }
}
