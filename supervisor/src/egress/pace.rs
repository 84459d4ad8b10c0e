//! How fast a session may open outbound connections. Each one costs the broker a task, a descriptor and system calls that
//! nobody charges to the session, whether it comes to anything or not (the agent may close it at once, ask for nonsense, or
//! for a server that is not there). Beyond its pace a session's connection waits, in the place that it holds already.

use proto::ids::SessionId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Connections that a session may open at once after a pause.
const BURST: u32 = 256;

/// Between two connections of a session, in the long run.
const INTERVAL: Duration = Duration::from_millis(10);

/// Sessions remembered before those are looked for that have their full burst again.
const REMEMBERED: usize = 64;

/// See the module. A session that has its full burst again is as good as unknown, so nobody needs to say that it is over.
#[derive(Debug, Default)]
pub(super) struct Paces(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// When a session's burst will be full again.
    full: HashMap<SessionId, Instant>,
    /// Size at which to forget next.
    forget_at: usize,
}

impl Paces {
    /// Waits until this session's next connection is due.
    pub(super) async fn turn(&self, session: &SessionId) {
        tokio::time::sleep_until(self.due(session)).await;
    }

    fn due(&self, session: &SessionId) -> Instant {
        let now = Instant::now();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = known.full.get(session).map_or(now, |full| now.max(*full)) + INTERVAL;
        if known.full.insert(session.clone(), full).is_none() && known.full.len() > known.forget_at
        {
            known.full.retain(|_, full| *full > now);
            // Twice what is left: the work of forgetting stays in proportion to the connections made.
            known.forget_at = known.full.len().max(REMEMBERED) * 2;
        }
        full.checked_sub(INTERVAL * BURST).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(number: u32) -> SessionId {
        SessionId::parse(format!("s{number:020}")).expect("an id")
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_free_and_what_follows_waits() {
        let paces = Paces::default();
        let (one, other) = (session(1), session(2));
        let start = Instant::now();
        for _ in 0..BURST {
            paces.turn(&one).await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..100 {
            paces.turn(&one).await;
        }
        let took = start.elapsed();
        assert!(
            (INTERVAL * 100..INTERVAL * 110).contains(&took),
            "{took:?} for 100 beyond the burst"
        );
        paces.turn(&other).await;
        assert!(start.elapsed() < took + INTERVAL, "another's pace");
        tokio::time::sleep(INTERVAL * BURST).await;
        let start = Instant::now();
        for _ in 0..BURST {
            paces.turn(&one).await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO, "full again");
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_that_are_quiet_are_forgotten() {
        let paces = Paces::default();
        for number in 0..10_000 {
            paces.turn(&session(number)).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let known = paces.0.lock().expect("lock").full.len();
        assert!(known <= REMEMBERED * 2 + 1, "{known} remembered");
    }
}
