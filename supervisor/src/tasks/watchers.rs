//! Who wants to hear when something happens to a task. What happened they read in the store.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Watchers(Mutex<HashMap<i64, watch::Sender<()>>>);

impl Watchers {
    /// Hears of everything from now on.
    pub(super) fn watch(&self, seq: i64) -> watch::Receiver<()> {
        let mut all = self.all();
        // Those whom nobody listens to any more go when somebody comes: few come and go in a second.
        all.retain(|_, sender| sender.receiver_count() > 0);
        all.entry(seq)
            .or_insert_with(|| watch::Sender::new(()))
            .subscribe()
    }

    /// Something happened to it.
    pub(super) fn tell(&self, seq: i64) {
        if let Some(sender) = self.all().get(&seq) {
            sender.send_replace(());
        }
    }

    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<i64, watch::Sender<()>>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
