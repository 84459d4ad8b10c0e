//! The launcher's exit notices, each to the driver of its session.

use crate::launcher::message::Exited;
use crate::session::driver::Completion;
use proto::ids::SessionId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::mpsc;

/// See the module.
#[derive(Debug, Default)]
pub struct Exits(Mutex<HashMap<SessionId, mpsc::Sender<Completion>>>);

impl Exits {
    /// The driver of `session` wants its notice.
    pub fn register(&self, session: SessionId, driver: mpsc::Sender<Completion>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(session, driver);
    }

    /// No more.
    pub fn forget(&self, session: &SessionId) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(session);
    }

    /// Passes notices on until the launcher is gone.
    pub async fn route(&self, mut notices: mpsc::Receiver<Exited>) {
        while let Some(exited) = notices.recv().await {
            let driver = self
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&exited.session)
                .cloned();
            if let Some(driver) = driver {
                // A driver that is gone has no use for it.
                let _ = driver.send(Completion::Exited(exited)).await;
            }
        }
    }
}
