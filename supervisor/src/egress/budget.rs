//! How many outbound connections all sessions may have together. The bound of one session cannot keep the daemon from
//! running out of descriptors when there are many sessions, and a daemon without descriptors serves nobody.

use nix::sys::resource::{Resource, getrlimit};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Part of the daemon's descriptors that outbound connections may take.
const PART: u64 = 4;

/// Descriptors of a connection: the agent's, and the server's.
const DESCRIPTORS: u64 = 2;

/// Connections beyond the budget that are told so at the same time; those beyond are closed without a word.
const FAREWELLS: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Budget {
    places: Arc<Semaphore>,
    farewells: Arc<Semaphore>,
}

impl Budget {
    /// A part of the descriptors that this process may open.
    pub(super) fn of_this_process() -> Self {
        // Cannot fail for a resource that exists; the smallest limit that Linux distributions set.
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        Self::of(soft)
    }

    fn of(descriptors: u64) -> Self {
        let connections = usize::try_from(descriptors / PART / DESCRIPTORS).unwrap_or(usize::MAX);
        Self {
            places: Arc::new(Semaphore::new(connections.clamp(1, Semaphore::MAX_PERMITS))),
            farewells: Arc::new(Semaphore::new(FAREWELLS)),
        }
    }

    /// A place for one connection, held as long as it is open.
    pub(super) fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Leave to keep a connection for the moment that it takes to turn it away.
    pub(super) fn farewell(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.farewells).try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_descriptors_at_two_a_connection() {
        for (descriptors, connections) in [(0, 1), (1024, 128), (65_536, 8192)] {
            assert_eq!(
                Budget::of(descriptors).places.available_permits(),
                connections
            );
        }
        // RLIM_INFINITY
        assert!(Budget::of(u64::MAX).place().is_some());
    }
}
