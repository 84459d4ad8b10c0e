//! Memory of frozen sessions, given back piece by piece: each is an order of its own, so that nobody waits for long.

use super::Launcher;
use super::orders::cgroup_fault;
use crate::launcher::message::{OrderFault, Reply};
use crate::meminfo::Meminfo;
use proto::ids::SessionId;
use session_core::reclaim::{PIECE, Stays, possible};

impl Launcher {
    pub(super) fn reclaim(&self, id: &SessionId, bytes: u64) -> Result<Reply, OrderFault> {
        let session = self.sessions.get(id).ok_or(OrderFault::Unknown)?;
        let frozen = session.is_launched()
            && session.removal.is_none()
            && session.freezing.is_none()
            && session.cgroup.is_frozen().map_err(|e| cgroup_fault(&e))?;
        if !frozen || bytes > PIECE {
            let why = format!("{id} does not stand still, or the piece is too large");
            return Err(OrderFault::Refused(why));
        }
        let outcome = session.cgroup.reclaim(bytes);
        outcome.map(Reply::Reclaimed).map_err(|e| cgroup_fault(&e))
    }

    /// For `agentcore doctor`: state and detail.
    pub(super) fn reclaim_report(&self) -> (u8, String) {
        let by = self.ground.cgroups.reclaims_by();
        let host = Meminfo::now().for_reclaim(by.is_some());
        match possible(&host) {
            Ok(()) => (
                0,
                format!(
                    "{}, with {} MiB of swap",
                    by.unwrap_or_default(),
                    host.swap >> 20
                ),
            ),
            Err(Stays::NoSwap) => (1, "no swap: frozen sessions keep their memory".to_owned()),
            Err(Stays::NoReclaim) => (
                1,
                "a v1 kernel that does not count swap (swapaccount): frozen sessions keep their memory".to_owned(),
            ),
        }
    }
}
