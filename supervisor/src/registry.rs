//! Live sessions, by the caller's key and by our name, and those to be that wait in pools: the only map.

use crate::session::handle::{SessionHandle, SessionKey};
use crate::session::origin::Path;
use proto::ids::{RuntimeId, SessionId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub struct Registry {
    maps: Mutex<Maps>,
    /// Rung with each session that is new.
    more: Notify,
}

#[derive(Debug, Default)]
struct Maps {
    by_key: HashMap<SessionKey, Arc<SessionHandle>>,
    by_id: HashMap<SessionId, Arc<SessionHandle>>,
    /// Those that wait in a pool: nobody's sessions.
    waiting: HashMap<SessionId, Arc<SessionHandle>>,
}

impl Registry {
    /// The session of this key, if it is there.
    #[must_use]
    pub fn find(&self, key: &SessionKey) -> Option<Arc<SessionHandle>> {
        self.maps().by_key.get(key).cloned()
    }

    /// The session of this key, made by `make` if it is not there.
    pub fn find_or_insert(
        &self,
        key: &SessionKey,
        make: impl FnOnce() -> Arc<SessionHandle>,
    ) -> Arc<SessionHandle> {
        let mut maps = self.maps();
        if let Some(handle) = maps.by_key.get(key) {
            return Arc::clone(handle);
        }
        let handle = make();
        maps.waiting.remove(&handle.id);
        maps.by_key.insert(key.clone(), Arc::clone(&handle));
        maps.by_id.insert(handle.id.clone(), Arc::clone(&handle));
        self.more.notify_waiters();
        handle
    }

    /// Resolves when there is a session of this key.
    pub async fn appears(&self, key: &SessionKey) -> Arc<SessionHandle> {
        loop {
            let more = self.more.notified();
            if let Some(handle) = self.find(key) {
                return handle;
            }
            more.await;
        }
    }

    /// Takes one that waits for whoever comes.
    pub fn wait(&self, handle: &Arc<SessionHandle>) {
        let mut maps = self.maps();
        maps.waiting.insert(handle.id.clone(), Arc::clone(handle));
    }

    /// Those that wait in a pool, in no order.
    #[must_use]
    pub fn waiting(&self) -> Vec<Arc<SessionHandle>> {
        self.maps().waiting.values().cloned().collect()
    }

    /// Forgets a session that is over.
    pub fn remove(&self, handle: &SessionHandle) {
        let mut maps = self.maps();
        if handle.path == Path::Waiting {
            maps.waiting.remove(&handle.id);
            return;
        }
        maps.by_id.remove(&handle.id);
        // The key may already belong to the next session of the same id.
        if maps
            .by_key
            .get(&handle.key)
            .is_some_and(|found| found.id == handle.id)
        {
            maps.by_key.remove(&handle.key);
        }
    }

    /// By our name, also one that waits in a pool.
    #[must_use]
    pub fn get(&self, id: &SessionId) -> Option<Arc<SessionHandle>> {
        let maps = self.maps();
        let found = maps.by_id.get(id).or_else(|| maps.waiting.get(id));
        found.cloned()
    }

    /// All, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<SessionHandle>> {
        self.maps().by_id.values().cloned().collect()
    }

    /// Those of one runtime.
    #[must_use]
    pub fn of_runtime(&self, runtime: &RuntimeId) -> Vec<Arc<SessionHandle>> {
        self.maps()
            .by_id
            .values()
            .filter(|handle| handle.key.runtime == *runtime)
            .cloned()
            .collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.maps().by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        // Nothing panics while it holds the lock; the maps are whole in any case.
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
