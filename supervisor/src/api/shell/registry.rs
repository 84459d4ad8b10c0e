//! Shells by name: one of a name in a session, and so many in a runtime.

use super::ShellId;
use super::connection::Client;
use crate::api::reply::ApiError;
use proto::code::ErrorCode;
use proto::ids::{RuntimeId, SessionId};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout_at};

/// When a shell may have ended.
const SHELL_AGAIN: Duration = Duration::from_secs(5);

type Name = (SessionId, ShellId);

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Shells(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    map: Mutex<HashMap<Name, Entry>>,
    /// Told whenever one has ended.
    freed: Notify,
}

#[derive(Debug)]
struct Entry {
    runtime: RuntimeId,
    /// Where its task takes connections; absent while it is being started.
    clients: Option<mpsc::Sender<Client>>,
}

/// The right to a name, for as long as its shell lives.
#[derive(Debug)]
pub(in crate::api) struct Place {
    shells: Shells,
    name: Name,
}

impl Shells {
    /// The shell of a name, if it runs. One that is just being started by somebody else is a conflict.
    pub(in crate::api) fn find(
        &self,
        session: &SessionId,
        id: &ShellId,
    ) -> Result<Option<mpsc::Sender<Client>>, ApiError> {
        match self.map().get(&(session.clone(), id.clone())) {
            None => Ok(None),
            Some(Entry { clients: None, .. }) => Err(ApiError::new(
                ErrorCode::Conflict,
                format!("shell {id} is being started by another caller"),
            )),
            Some(Entry { clients, .. }) => Ok(clients.clone()),
        }
    }

    /// Waits until a runtime has fewer than `most` shells; refuses one more if that takes longer than `patience`.
    pub(in crate::api) async fn wait(
        &self,
        runtime: &RuntimeId,
        most: u32,
        patience: Duration,
    ) -> Result<(), ApiError> {
        let until = Instant::now() + patience;
        loop {
            let mut freed = pin!(self.0.freed.notified());
            // Before the look, or an end between the two would be missed.
            freed.as_mut().enable();
            let Err(full) = Self::room(&self.map(), runtime, most) else {
                return Ok(());
            };
            if timeout_at(until, freed).await.is_err() {
                return Err(full);
            }
        }
    }

    /// Takes a name that is free, in a runtime that has fewer than `most`.
    pub(in crate::api) fn reserve(
        &self,
        session: &SessionId,
        id: &ShellId,
        runtime: &RuntimeId,
        most: u32,
    ) -> Result<Place, ApiError> {
        let name = (session.clone(), id.clone());
        let mut map = self.map();
        if map.contains_key(&name) {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!("shell {id} was started by another caller just now"),
            ));
        }
        Self::room(&map, runtime, most)?;
        let entry = Entry {
            runtime: runtime.clone(),
            clients: None,
        };
        map.insert(name.clone(), entry);
        Ok(Place {
            shells: self.clone(),
            name,
        })
    }

    fn room(map: &HashMap<Name, Entry>, runtime: &RuntimeId, most: u32) -> Result<(), ApiError> {
        let running = map
            .values()
            .filter(|entry| entry.runtime == *runtime)
            .count();
        if u32::try_from(running).is_ok_and(|running| running < most) {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorCode::QuotaExceeded,
            format!("the runtime has {most} shells (limits.shells_per_runtime); end one first"),
        )
        .retry_after(SHELL_AGAIN))
    }

    fn map(&self) -> MutexGuard<'_, HashMap<Name, Entry>> {
        // Nothing panics while it holds the lock; the map is whole in any case.
        self.0.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The shell runs, and takes connections here.
    pub(in crate::api) fn runs(&self, clients: mpsc::Sender<Client>) {
        if let Some(entry) = self.shells.map().get_mut(&self.name) {
            entry.clients = Some(clients);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shells.map().remove(&self.name);
        self.shells.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn one_of_a_name_and_so_many_of_a_runtime() {
        let shells = Shells::default();
        let runtime = |text: &str| RuntimeId::parse(text).expect("id");
        let (one, other) = (runtime("one-0123456789"), runtime("two-0123456789"));
        let session = |n: u32| SessionId::parse(format!("s{n:020}")).expect("id");
        let id = ShellId::parse("a").expect("id");
        let code = |error: ApiError| error.code;

        let first = shells.reserve(&session(1), &id, &one, 2).expect("free");
        let found = shells.find(&session(1), &id).map_err(code);
        assert!(matches!(found, Err(ErrorCode::Conflict)));
        let again = shells.reserve(&session(1), &id, &one, 2).map_err(code);
        assert!(matches!(again, Err(ErrorCode::Conflict)));
        let (clients, _listens) = mpsc::channel(1);
        first.runs(clients);
        assert!(
            shells
                .find(&session(1), &id)
                .is_ok_and(|found| found.is_some())
        );

        let second = shells
            .reserve(&session(2), &id, &one, 2)
            .expect("another session");
        let third = shells.reserve(&session(3), &id, &one, 2).map_err(code);
        assert!(matches!(third, Err(ErrorCode::QuotaExceeded)));
        shells
            .reserve(&session(3), &id, &other, 2)
            .expect("another runtime");
        let full = shells.wait(&one, 2, Duration::ZERO).await.map_err(code);
        assert!(matches!(full, Err(ErrorCode::QuotaExceeded)));
        let mut waits = pin!(shells.wait(&one, 2, Duration::from_secs(60)));
        assert!((&mut waits).now_or_never().is_none());
        drop(second);
        waits.await.expect("room again");
        drop(first);
        assert!(
            shells
                .find(&session(1), &id)
                .is_ok_and(|found| found.is_none())
        );
        assert!(shells.map().is_empty());
    }
}
