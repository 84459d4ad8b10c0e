//! Clients that go away. A plain call is cancelled at once; a call of an SDK that may try again
//! (`amz-sdk-invocation-id`) is given time for its next attempt before its agent is told.
//!
//! How: such a call runs in a task of its own, and the request only waits for it. When the request goes away, the task
//! lingers for [`LINGER`]; a new attempt of the same invocation in that time keeps it running.

use super::intake::Intake;
use super::invoke::{self, Answer, Call};
use super::reply::ApiError;
use crate::broker::Broker;
use crate::session::handle::{SessionHandle, SessionKey};
use axum::body::Body;
use proto::code::ErrorCode;
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// How long an abandoned invocation waits for the client's next attempt.
const LINGER: Duration = Duration::from_secs(10);

type AttemptKey = (SessionKey, String);

/// Invocations under way that another attempt may concern.
#[derive(Debug, Default)]
pub struct Attempts(Mutex<HashMap<AttemptKey, Arc<Notify>>>);

/// One attempt, for as long as its invocation goes on.
#[derive(Debug)]
pub struct Attempt {
    broker: Arc<Broker>,
    key: AttemptKey,
    /// Rung by the next attempt of the same invocation.
    bell: Arc<Notify>,
}

impl Attempt {
    /// Tells earlier attempts that one more has come.
    fn arrive(broker: &Arc<Broker>, key: AttemptKey) -> Self {
        let bell = Arc::new(Notify::new());
        let earlier = broker.attempts.map().insert(key.clone(), Arc::clone(&bell));
        if let Some(earlier) = earlier {
            earlier.notify_one();
        }
        Self {
            broker: Arc::clone(broker),
            key,
            bell,
        }
    }

    /// Goes on without a client: to the end if another attempt comes in time, else not at all.
    pub async fn linger<F: Future>(&self, running: F) -> Option<F::Output> {
        let mut running = pin!(running);
        tokio::select! {
            outcome = &mut running => return Some(outcome),
            () = self.bell.notified() => {}
            () = tokio::time::sleep(LINGER) => return None,
        }
        Some(running.await)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut map = self.broker.attempts.map();
        // A later attempt may have put its own bell there.
        if map
            .get(&self.key)
            .is_some_and(|found| Arc::ptr_eq(found, &self.bell))
        {
            map.remove(&self.key);
        }
    }
}

impl Attempts {
    fn map(&self) -> MutexGuard<'_, HashMap<AttemptKey, Arc<Notify>>> {
        // Nothing panics while it holds the lock; the map is whole in any case.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers a call; see the module for what happens when the client goes away meanwhile.
pub async fn answer(
    broker: &Arc<Broker>,
    call: Call,
    body: Body,
) -> Result<(Arc<SessionHandle>, Answer), ApiError> {
    let Some(id) = call.attempt.clone() else {
        return run(broker, &call, body).await;
    };
    let attempt = Attempt::arrive(broker, (call.key.clone(), id));
    let (mut answer, answered) = oneshot::channel();
    let broker = Arc::clone(broker);
    tokio::spawn(async move {
        let mut running = Box::pin(run(&broker, &call, body));
        let outcome = tokio::select! {
            outcome = &mut running => Some(outcome),
            () = answer.closed() => attempt.linger(&mut running).await,
        };
        match outcome {
            Some(Ok((handle, mut reply))) => {
                reply.body.linger_with(attempt);
                // A client that went away just now drops the answer, whose body then lingers.
                let _ = answer.send(Ok((handle, reply)));
            }
            Some(Err(error)) => {
                let _ = answer.send(Err(error));
            }
            None => {}
        }
    });
    answered.await.unwrap_or_else(|_| {
        Err(ApiError::new(
            ErrorCode::Internal,
            "the invocation was given up",
        ))
    })
}

async fn run(
    broker: &Arc<Broker>,
    call: &Call,
    body: Body,
) -> Result<(Arc<SessionHandle>, Answer), ApiError> {
    let patience = call.version.spec.timeouts.invocation;
    let intake = Intake::begin(body, broker.config().limits.max_body.0);
    // A caller that never begins its body must not wait here for ever.
    let intake = tokio::time::timeout(patience, intake)
        .await
        .map_err(|_| ApiError::field("body", "did not come within the invocation's time"))??;
    let (handle, work) = invoke::obtain(broker, &call.key, &call.version).await?;
    let answer = invoke::relay(broker, &handle, work, call, intake).await?;
    Ok((handle, answer))
}
