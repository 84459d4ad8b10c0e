//! Shells by name: one of a name in a session, and so many in a runtime.

use super::ShellId;
use super::connection::Client;
use crate::api::reply::ApiError;
use proto::code::ErrorCode;
use proto::ids::{RuntimeId, SessionId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

type Name = (SessionId, ShellId);

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Shells(Arc<Mutex<HashMap<Name, Entry>>>);

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

    /// Refuses one more shell of a runtime that has `most`.
    pub(in crate::api) fn check(&self, runtime: &RuntimeId, most: u32) -> Result<(), ApiError> {
        Self::room(&self.map(), runtime, most)
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
        ))
    }

    fn map(&self) -> MutexGuard<'_, HashMap<Name, Entry>> {
        // Nothing panics while it holds the lock; the map is whole in any case.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_name_and_so_many_of_a_runtime() {
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
        drop(second);
        shells.check(&one, 2).expect("room again");
        drop(first);
        assert!(
            shells
                .find(&session(1), &id)
                .is_ok_and(|found| found.is_none())
        );
        assert!(shells.map().is_empty());
    }
}
