//! Tells outcomes as they come due, for as long as this daemon runs.
//!
//! What is due is the store's to know, so that a daemon that was killed leaves nothing untold: that a callback is due is written
//! with the outcome itself, and that it was told when it was. Between the two it may be told again.
//!
//! A receiver that is slow, or many outcomes for one, hold up nobody else: of one host and port so many are told at once, and
//! what is due beyond that goes back to the end of the line for a moment.

use super::post::{Failed, Message};
use super::url::CallbackUrl;
use super::{Callbacks, pace};
use crate::broker::Broker;
use crate::fault::chain;
use crate::store::{StoreError, TaskRow, Timestamp};
use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};
use session_core::egress::Target;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Outcomes that are told at once: each holds a connection, and its receiver's name may hold a thread.
const PLACES: usize = 32;

/// Of those, to one host and port.
const OF_ONE: usize = 8;

/// Rows that are looked at in one go.
const BATCH: u32 = 128;

/// For how long what finds its receiver's places taken goes out of the way of others.
const ASIDE: Duration = Duration::from_secs(2);

/// Between two looks at what is due, if nobody says that something is: a clock may have jumped.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// After a look that failed, and between two attempts to write down what a receiver said.
const STORE_PAUSE: Duration = Duration::from_secs(2);

/// Who is being told.
#[derive(Debug, Default)]
struct UnderWay {
    tasks: JoinSet<i64>,
    receivers: HashMap<i64, Option<Target>>,
}

impl UnderWay {
    fn has_room(&self) -> bool {
        self.receivers.len() < PLACES
    }

    fn is_told(&self, seq: i64) -> bool {
        self.receivers.contains_key(&seq)
    }

    fn is_busy(&self, receiver: &Target) -> bool {
        let same = self.receivers.values().flatten();
        same.filter(|other| *other == receiver).count() >= OF_ONE
    }

    /// Waits for one to be over; for ever if there is none.
    async fn next(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(Ok((_, seq))) => {
                self.receivers.remove(&seq);
            }
            // A defect (it panicked): what it was telling is not known, so all that has no task any more is forgotten.
            Some(Err(_)) if self.tasks.is_empty() => self.receivers.clear(),
            Some(Err(_)) => {}
            None => std::future::pending().await,
        }
    }
}

/// Tells what is due until the daemon stops.
pub async fn keep_told(broker: Arc<Broker>) {
    let mut under_way = UnderWay::default();
    loop {
        let wait = match begin(&broker, &mut under_way).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::error!(error = %chain(&error), "callbacks that are due cannot be looked up");
                STORE_PAUSE
            }
        };
        tokio::select! {
            () = broker.stopping() => return,
            () = broker.tasks.callbacks_due.notified(), if under_way.has_room() => {}
            () = under_way.next() => {}
            () = tokio::time::sleep(wait), if under_way.has_room() => {}
        }
    }
}

/// Begins to tell what is due, as far as there are places; how long nothing else will be.
async fn begin(broker: &Arc<Broker>, under_way: &mut UnderWay) -> Result<Duration, StoreError> {
    while under_way.has_room() {
        let now = Timestamp::now();
        let due = broker.store.due_callbacks(now, BATCH).await?;
        let mut aside = Vec::new();
        let mut begun = false;
        for row in due {
            if under_way.is_told(row.seq) {
                continue;
            }
            if !under_way.has_room() {
                return Ok(LOOK_AGAIN);
            }
            let url = row.callback.as_deref().map(CallbackUrl::parse);
            let receiver = match &url {
                Some(Ok(url)) => Some(url.target().clone()),
                Some(Err(_)) | None => None,
            };
            if receiver
                .as_ref()
                .is_some_and(|receiver| under_way.is_busy(receiver))
            {
                aside.push(row.seq);
                continue;
            }
            begun = true;
            let seq = row.seq;
            under_way.receivers.insert(seq, receiver);
            let broker = Arc::clone(broker);
            under_way.tasks.spawn(async move {
                tell(&broker, row).await;
                seq
            });
        }
        if !aside.is_empty() {
            let later = now.after(ASIDE);
            broker.store.callbacks_later(aside, later).await?;
        } else if !begun {
            break;
        }
    }
    let next = broker.store.next_callback().await?;
    Ok(next.map_or(LOOK_AGAIN, |at| {
        // What is due and being told is the next one as well: its end is what is waited for then.
        let ahead = Duration::from_millis(u64::try_from(at.0 - Timestamp::now().0).unwrap_or(0));
        ahead.clamp(Duration::from_millis(100), LOOK_AGAIN)
    }))
}

/// Makes one attempt and writes down what came of it.
async fn tell(broker: &Broker, row: TaskRow) {
    let config = broker.config();
    let told = attempt(broker, &row, &config.callbacks).await;
    let attempts = row.callback_attempts.saturating_add(1);
    let next_at = match &told {
        Ok(()) => None,
        Err(failed) => next(&row, attempts, failed, config.callbacks.retry_for),
    };
    let receiver = row.callback.as_deref().unwrap_or_default();
    match &told {
        Ok(()) => tracing::debug!(task_id = %row.id, receiver, attempts, "outcome told"),
        Err(failed) if next_at.is_some() => {
            tracing::debug!(task_id = %row.id, receiver, attempts, %failed, "outcome not told yet");
        }
        Err(failed) => {
            tracing::warn!(task_id = %row.id, receiver, attempts, %failed, "outcome not told; given up");
        }
    }
    loop {
        let written = match &told {
            Ok(()) => broker.store.callback_done(row.seq).await,
            Err(failed) => {
                let error = failed.to_string();
                broker.store.callback_failed(row.seq, error, next_at).await
            }
        };
        // Not to be told again for want of a note of it, while there is hope for the note.
        match written {
            Ok(()) => return,
            Err(error) => {
                tracing::error!(task_id = %row.id, error = %chain(&error), "callback not recorded");
            }
        }
        if broker.draining() {
            return;
        }
        tokio::time::sleep(STORE_PAUSE).await;
    }
}

async fn attempt(broker: &Broker, row: &TaskRow, config: &Callbacks) -> Result<(), Failed> {
    let url = CallbackUrl::parse(row.callback.as_deref().unwrap_or_default())
        .map_err(|error| Failed::Unreachable(error.to_string()))?;
    let body = serde_json::to_vec(&row.to_api())
        .map_err(|error| Failed::Unreachable(format!("cannot be told: {error}")))?;
    let message = Message {
        id: row.id.as_str(),
        body: Bytes::from(body),
        secret: &broker.callbacks.secrets.of(&row.runtime_id),
    };
    let post = &broker.callbacks.post;
    post.tell(&url, &message, &config.policy, config.timeout)
        .await
}

/// When it is tried again, if it is.
fn next(row: &TaskRow, attempts: u32, failed: &Failed, retry_for: Duration) -> Option<Timestamp> {
    if failed.is_final() {
        return None;
    }
    let mut random = [0];
    // Without random bytes they are not spread.
    let _ = SystemRandom::new().fill(&mut random);
    let since = row.finished_at.unwrap_or(row.created_at).system_time();
    let now = Timestamp::now();
    let at = pace::next(attempts, since, now.system_time(), retry_for, random[0])?;
    let wait = at.duration_since(now.system_time()).unwrap_or_default();
    Some(now.after(wait))
}
