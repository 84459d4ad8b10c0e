//! The session that requests without a session header share, and its log on standard error.

use super::super::Desk;
use crate::daemon::{DaemonError, empty};
use crate::target;
use hyper::Method;
use proto::api::Session;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a session may take to be known to the daemon after its first request was sent.
const KNOWN_WITHIN: Duration = Duration::from_secs(150);

/// The current session of `dev`.
#[derive(Debug)]
pub(super) struct Sticky {
    pub(super) desk: Desk,
    /// The runtime `<name>_dev`.
    pub(super) runtime: String,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    id: String,
    /// It has had a request, so its log is being followed, and it is to be stopped.
    used: bool,
}

impl Current {
    fn fresh() -> Self {
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            used: false,
        }
    }
}

impl Sticky {
    /// No session yet; the first request begins it.
    pub(super) fn new(desk: Desk, runtime: String) -> Self {
        Self {
            desk,
            runtime,
            current: Mutex::new(Current::fresh()),
        }
    }

    /// The id for a request that brings none.
    pub(super) fn id(&self) -> String {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut current.used, true) {
            tokio::spawn(follow(
                self.desk.clone(),
                self.runtime.clone(),
                current.id.clone(),
            ));
        }
        current.id.clone()
    }

    /// The session, if it has begun.
    pub(super) async fn session(&self) -> Result<Option<Session>, DaemonError> {
        let id = {
            let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            current.used.then(|| current.id.clone())
        };
        match id {
            Some(id) => {
                let path = target::session_path(&id, "", Some(&self.runtime));
                self.desk.daemon.find(&path).await
            }
            None => Ok(None),
        }
    }

    /// The next request begins another session; the one so far is stopped.
    pub(super) fn renew(&self) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, Current::fresh());
        if old.used {
            let (desk, runtime) = (self.desk.clone(), self.runtime.clone());
            tokio::spawn(async move {
                let path = target::session_path(&old.id, "", Some(&runtime));
                let request = desk.daemon.request(Method::DELETE, &path, empty());
                // Ended by itself already: just as well. Anything else ends with the runtime at the latest.
                let _ = desk.daemon.call(request).await;
            });
        }
    }
}

/// Shows the session's log from its first line, which may come before its first answer.
async fn follow(desk: Desk, runtime: String, id: String) {
    let path = target::session_path(&id, "", Some(&runtime));
    let known = async {
        loop {
            if let Ok(Some(session)) = desk.daemon.find::<Session>(&path).await {
                return session;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    if let Ok(session) = tokio::time::timeout(KNOWN_WITHIN, known).await {
        super::super::logs::follow_session(&desk, &session).await;
    }
}
