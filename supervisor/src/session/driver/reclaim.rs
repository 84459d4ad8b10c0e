//! After a freeze for idleness: the session's memory goes to the host's swap, where it has some, for as long as it stands still.

use crate::broker::Broker;
use crate::meminfo::Meminfo;
use crate::session::handle::SessionHandle;
use session_core::reclaim::{Progress, next, went_on};
use std::sync::Arc;
use std::time::Duration;

/// Between two pieces: the launcher has other things to do.
const PAUSE: Duration = Duration::from_millis(20);

/// Goes on until there is no more to be had, or it runs again (the launcher refuses then).
pub(super) async fn reclaim(broker: Arc<Broker>, handle: Arc<SessionHandle>) {
    let mut progress = Progress {
        held: handle.account.memory_bytes(),
        futile: 0,
    };
    let mut given = 0_u64;
    loop {
        // The launcher says so where there is no way.
        let host = Meminfo::now().for_reclaim(true);
        let Some(piece) = next(&host, progress) else {
            break;
        };
        let Ok(Some((before, after))) = broker.launcher.reclaim(handle.id.clone(), piece).await
        else {
            break;
        };
        let came = before.saturating_sub(after);
        broker.metrics.reclaimed(came);
        given += came;
        progress.held = before;
        progress = went_on(progress, after);
        tokio::time::sleep(PAUSE).await;
    }
    if given > 0 {
        tracing::debug!(session_id = %handle.id, bytes = given, "memory of a frozen session given back");
    }
}
