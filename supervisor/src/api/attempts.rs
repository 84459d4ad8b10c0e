//! Clients that go away. A plain call is cancelled at once; a call of an SDK that may try again
//! (`amz-sdk-invocation-id`) is given time for its next attempt before its agent is told.
//!
//! How: such a call runs in a task of its own, and the request only waits for it. When the request goes away, the task
//! lingers for [`LINGER`]; a new attempt of the same invocation in that time keeps it running.

use super::invoke::{self, Answer, Call};
use super::reply::ApiError;
use crate::broker::Broker;
use crate::session::handle::{SessionHandle, SessionKey};
use axum::body::Body;
use proto::code::ErrorCode;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// How long an abandoned invocation waits for the client's next attempt.
const LINGER: Duration = Duration::from_secs(10);

type AttemptKey = (SessionKey, String);

/// Invocations under way that another attempt may concern.
#[derive(Debug, Default)]
pub struct Attempts(Mutex<HashMap<AttemptKey, Arc<Notify>>>);

impl Attempts {
    /// Tells that an attempt has come, and gives what later attempts will ring.
    fn arrive(&self, key: &AttemptKey) -> Arc<Notify> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = map.get(key) {
            earlier.notify_one();
        }
        let bell = Arc::new(Notify::new());
        map.insert(key.clone(), Arc::clone(&bell));
        bell
    }

    fn leave(&self, key: &AttemptKey, bell: &Arc<Notify>) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A later attempt may have put its own bell there.
        if map.get(key).is_some_and(|found| Arc::ptr_eq(found, bell)) {
            map.remove(key);
        }
    }
}

/// Answers a call; see the module for what happens when the client goes away meanwhile.
pub async fn answer(
    broker: &Arc<Broker>,
    call: Call,
    body: Body,
) -> Result<(Arc<SessionHandle>, Answer), ApiError> {
    let Some(attempt) = call.attempt.clone() else {
        return run(broker, &call, body).await;
    };
    let key = (call.key.clone(), attempt);
    let bell = broker.attempts.arrive(&key);
    let (answer, answered) = oneshot::channel();
    let broker = Arc::clone(broker);
    tokio::spawn(async move {
        let mut answer = answer;
        let running = run(&broker, &call, body);
        tokio::pin!(running);
        let outcome = tokio::select! {
            outcome = &mut running => Some(outcome),
            () = answer.closed() => linger(running, &bell).await,
        };
        broker.attempts.leave(&key, &bell);
        if let Some(outcome) = outcome {
            // A client that is gone drops the answer, and with it the work.
            let _ = answer.send(outcome);
        }
    });
    answered.await.unwrap_or_else(|_| {
        Err(ApiError::new(
            ErrorCode::Internal,
            "the invocation was given up",
        ))
    })
}

/// Goes on without a client: to the end if another attempt comes in time, else not at all.
async fn linger<F: Future + Unpin>(mut running: F, bell: &Notify) -> Option<F::Output> {
    tokio::select! {
        outcome = &mut running => return Some(outcome),
        () = bell.notified() => {}
        () = tokio::time::sleep(LINGER) => return None,
    }
    Some(running.await)
}

async fn run(
    broker: &Arc<Broker>,
    call: &Call,
    body: Body,
) -> Result<(Arc<SessionHandle>, Answer), ApiError> {
    let (handle, work) = invoke::obtain(broker, call).await?;
    let answer = invoke::relay(broker, &handle, work, call, body).await?;
    Ok((handle, answer))
}
