//! Every refusal is a record: in the log under target `audit`, and in the store for `GET /v1/audit`. The reason is there and
//! not in the answer, which would tell a stranger how far he has come.
//!
//! Records wait in a bounded queue, so that a flood of bad requests costs neither memory nor disk syncs; those that find
//! it full are counted, and the count becomes a record of its own.

use crate::fault::chain;
use crate::store::{Refusal, Store};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Records that may wait, each of some hundred bytes.
const QUEUE: usize = 1024;

/// Most records written at once.
const BATCH: usize = 128;

/// Longest text of a record, in bytes.
const MAX_TEXT: usize = 512;

/// See the module.
#[derive(Debug, Clone)]
pub struct Audit {
    queue: mpsc::Sender<Refusal>,
    lost: Arc<AtomicU64>,
}

impl Audit {
    /// Begins to write records to the store, until the last handle is dropped.
    #[must_use]
    pub fn start(store: Store) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        tokio::spawn(write(store, waiting, Arc::clone(&lost)));
        Self { queue, lost }
    }

    /// Notes a refusal. Its texts are strangers': cut, and without control characters.
    pub fn record(&self, mut refusal: Refusal) {
        for text in [
            &mut refusal.reason,
            &mut refusal.peer,
            &mut refusal.method,
            &mut refusal.path,
        ] {
            tame(text);
        }
        refusal.caller.iter_mut().for_each(tame);
        tracing::warn!(
            target: "audit",
            request_id = refusal.request_id,
            status = refusal.status,
            code = refusal.code,
            reason = refusal.reason,
            caller = refusal.caller,
            peer = refusal.peer,
            method = refusal.method,
            path = refusal.path,
            "refused"
        );
        if self.queue.try_send(refusal).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn tame(text: &mut String) {
    if text.len() > MAX_TEXT {
        let cut = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(cut.unwrap_or(0));
    }
    if text.contains(char::is_control) {
        *text = text.replace(char::is_control, "\u{fffd}");
    }
}

async fn write(store: Store, mut waiting: mpsc::Receiver<Refusal>, lost: Arc<AtomicU64>) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let count = lost.swap(0, Ordering::Relaxed);
        if count > 0 {
            batch.push(Refusal {
                request_id: String::new(),
                status: 0,
                code: "RecordsLost".to_owned(),
                reason: format!("{count} refusals came faster than they could be written down"),
                caller: None,
                peer: String::new(),
                method: String::new(),
                path: String::new(),
            });
        }
        if let Err(error) = store.record_refusals(std::mem::take(&mut batch)).await {
            // They are in the log all the same.
            tracing::error!(error = %chain(&error), "refusals not recorded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Names, PageRequest};

    fn refusal(number: usize) -> Refusal {
        Refusal {
            request_id: number.to_string(),
            status: 403,
            code: "AccessDeniedException".to_owned(),
            reason: format!("because\n{}", "ü".repeat(600)),
            caller: Some("key:AKAC".to_owned()),
            peer: "127.0.0.1:9".to_owned(),
            method: "POST".to_owned(),
            path: "/runtimes/a/invocations".to_owned(),
        }
    }

    #[tokio::test]
    async fn refusals_are_kept_bounded_and_the_newest_are_listed_first() {
        let ground = tempfile::tempdir().expect("directory");
        let names = Names {
            region: "us-local-1".to_owned(),
            account: "000000000000".to_owned(),
        };
        let store = Store::open(&ground.path().join("agentcore.db"), names).expect("store");
        let audit = Audit::start(store.clone());
        audit.record(refusal(7));
        let first = loop {
            let page = store.refusals(PageRequest::default()).await.expect("list");
            if let Some(row) = page.items.into_iter().next() {
                break row.refusal;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(first.request_id, "7");
        assert!(first.reason.starts_with("because\u{fffd}ü") && first.reason.len() <= MAX_TEXT + 3);

        let many: Vec<_> = (0..10_300).map(refusal).collect();
        store.record_refusals(many).await.expect("recorded");
        let page = PageRequest::parse(Some(1000), None).expect("page");
        let page = store.refusals(page).await.expect("list");
        assert_eq!(page.items[0].refusal.request_id, "10299");
        let (mut seen, mut token) = (page.items.len(), page.next_token);
        while let Some(next) = token {
            let page = PageRequest::parse(Some(1000), Some(&next)).expect("page");
            let page = store.refusals(page).await.expect("list");
            (seen, token) = (seen + page.items.len(), page.next_token);
        }
        assert!((10_000..10_128).contains(&seen), "{seen}");
    }
}
