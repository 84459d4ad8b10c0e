//! What live sessions use, for whoever lists them. A reading is an order to the launcher, whose one thread launches and
//! ends sessions too: so callers share readings for [`KEPT`], and of all readings only one is under way. However many
//! callers list however many sessions, a launch waits for one reading at most.

use crate::launcher::message::{Counters, OrderFault};
use proto::ids::SessionId;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long a reading serves everyone.
const KEPT: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub struct Readings(Mutex<HashMap<SessionId, (Instant, Counters)>>);

impl Readings {
    /// A session's counters, not older than [`KEPT`]: a shared reading, or what `read` finds.
    pub async fn of(
        &self,
        session: &SessionId,
        read: impl Future<Output = Result<Counters, OrderFault>>,
    ) -> Result<Counters, OrderFault> {
        let mut kept = self.0.lock().await;
        if let Some((at, counters)) = kept.get(session)
            && at.elapsed() < KEPT
        {
            return Ok(*counters);
        }
        let counters = read.await?;
        // Sessions that are over are forgotten with their readings.
        kept.retain(|_, (at, _)| at.elapsed() < KEPT);
        kept.insert(session.clone(), (Instant::now(), counters));
        Ok(counters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn session(number: u32) -> SessionId {
        SessionId::parse(format!("s{number:020}")).expect("an id")
    }

    /// A launcher that takes its time; each reading finds one microsecond more than the last.
    #[derive(Default)]
    struct Launcher {
        orders: AtomicU64,
        under_way: AtomicU64,
    }

    impl Launcher {
        async fn read(&self) -> Result<Counters, OrderFault> {
            assert_eq!(self.under_way.fetch_add(1, Ordering::Relaxed), 0);
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            let cpu_us = self.orders.fetch_add(1, Ordering::Relaxed) + 1;
            Ok(Counters {
                cpu_us,
                ..Counters::default()
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn callers_share_a_reading_for_a_second() {
        let (launcher, readings) = (Launcher::default(), Readings::default());
        let read = || async {
            let counters = readings.of(&session(1), launcher.read()).await;
            counters.expect("counters").cpu_us
        };
        let (one, other) = tokio::join!(read(), read());
        assert_eq!((one, other), (1, 1));
        tokio::time::sleep(KEPT / 2).await;
        assert_eq!(read().await, 1);
        tokio::time::sleep(KEPT / 2).await;
        assert_eq!(read().await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_reading_is_under_way_and_old_ones_are_forgotten() {
        let (launcher, readings) = (Launcher::default(), Readings::default());
        let all = (0..100).map(|number| {
            let (launcher, readings) = (&launcher, &readings);
            async move { readings.of(&session(number), launcher.read()).await }
        });
        futures_util::future::join_all(all).await;
        assert_eq!(launcher.orders.load(Ordering::Relaxed), 100);
        tokio::time::sleep(KEPT).await;
        let read = readings.of(&session(1000), launcher.read()).await;
        read.expect("counters");
        assert_eq!(readings.0.lock().await.len(), 1);
    }
}
