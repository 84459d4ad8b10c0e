//! What an earlier launcher of this instance left and nobody claims: sessions that no row of the store knows, and files of
//! sessions that are no more. Where it lies proves whose it is: below the instance's own cgroup, in its own directory, by a
//! name that only sessions have. Whatever else is found there is left alone and told.

use super::Launcher;
use crate::launcher::endpoint::Endpoint;
use crate::launcher::message::{OrderFault, Orphans, Reply};
use crate::launcher::session::{Phase, Uids};
use proto::ids::SessionId;
use sandbox::sys::errno_of;
use std::collections::BTreeSet;
use std::fs;

/// Most names of each kind in an answer, so that it fits a packet.
const MOST: usize = 64;

/// Most bytes of a stranger's name.
const NAME: usize = 80;

impl Launcher {
    /// Ends what was not adopted by now and is not being removed, and removes files that belong to nothing.
    pub(super) fn clear_orphans(&mut self) -> Result<Reply, OrderFault> {
        let orphans: Vec<SessionId> = self
            .sessions
            .iter()
            // Of whose processes nothing can be told is not proven to be a session: see `foreign`.
            .filter(|(_, session)| {
                matches!(session.phase, Phase::Foreign)
                    && session.removal.is_none()
                    && session.uids != Uids::Unknown
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in &orphans {
            self.give_up(id);
        }
        let mut strangers = BTreeSet::new();
        let unknown = self
            .sessions
            .iter()
            .filter(|(_, session)| session.uids == Uids::Unknown);
        strangers
            .extend(unknown.map(|(id, _)| format!("session {id}, whose processes cannot be told")));
        let cgroups = self.ground.cgroups.list().unwrap_or_default();
        let others = cgroups
            .into_iter()
            .filter(|name| SessionId::parse(name.clone()).is_err());
        strangers.extend(others.map(|name| told("cgroup", &name)));
        let files = self.clear_files(&mut strangers)?;
        Ok(Reply::Orphans(Orphans {
            ended: orphans.into_iter().take(MOST).collect(),
            files,
            strangers: strangers.into_iter().take(MOST).collect(),
        }))
    }

    /// Removes sockets and exit records of sessions that are not there; how many.
    fn clear_files(&self, strangers: &mut BTreeSet<String>) -> Result<u32, OrderFault> {
        let failed = |verb: &str, error: &std::io::Error| super::host_fault(verb, errno_of(error));
        let directory = &self.ground.sessions;
        let entries = fs::read_dir(directory)
            .map_err(|error| failed("list the directory of sessions", &error))?;
        let mut removed = 0;
        for entry in entries {
            let entry = entry.map_err(|error| failed("list the directory of sessions", &error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let of_session = ["sock", "exit", "last"].into_iter().find_map(|kind| {
                let name = name.strip_suffix(kind)?.strip_suffix('.')?;
                SessionId::parse(name).ok()
            });
            match of_session {
                Some(id) if self.sessions.contains_key(&id) => {}
                Some(id) => {
                    let endpoint = Endpoint::of(directory, id.as_str());
                    endpoint
                        .remove()
                        .and_then(|()| endpoint.forget())
                        .map_err(|error| failed("remove files of a session", &error))?;
                    removed += 1;
                }
                None => {
                    strangers.insert(told("file", &name));
                }
            }
        }
        Ok(removed)
    }
}

/// Somebody else's name, bounded and without what a terminal would act on.
fn told(kind: &str, name: &str) -> String {
    let name: String = name
        .chars()
        .filter(|c| !c.is_control())
        .take(NAME)
        .collect();
    format!("{kind} {name:?}")
}
