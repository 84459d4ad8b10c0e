//! Attempts of one call: an SDK that gets no answer in time tries again, with the same `amz-sdk-invocation-id` and the same
//! body (contract §7.3). The agent is run once all the same: later attempts join its run, or get the answer that it gave.
//!
//! ```text
//!  attempt ▸ body begun ▸ key ──no such run──▶ [`Run`]: obtain ▸ relay ▸ head ─▶ body, onto a [`tape`]
//!                          └──there is one──▶ waits for the same head ─────────▶ the tape from its start
//! ```
//!
//! - **Who drives.** The first attempt's own request drives its run, as long as its client is there: no task, no detour.
//!   When the client goes away, a task takes over. With nobody waiting for `limits.retry_linger` the run is given up,
//!   which cancels the invocation at its agent.
//! - **What is kept.** The beginning of every answer, to `limits.retry_answer` bytes; a finished one that fits for
//!   `limits.retry_window`. All of them together hold at most `limits.retry_memory`: the oldest go first, and an
//!   answer for which there is no room is simply not kept. An attempt that comes for an answer which has passed and is not
//!   kept is refused (409, not to be retried): the agent is not run again behind its caller's back.
//! - **What is not kept.** Refusals that ask to try again (load, draining, a session on its way) and faults of ours: their next
//!   attempt is meant to run. A caller's broken upload: its agent never had the whole request.
//! - **Which attempts are one call** says [`Key`]; the body's part in it [`fingerprint`].

mod fingerprint;
mod run;
mod table;
mod tape;

pub use fingerprint::Fingerprint;
pub use tape::Reading;

use super::intake::{Intake, Memory};
use super::invoke::{self, AgentErrors, Answer, Attempt, Call};
use super::reply::ApiError;
use crate::broker::Broker;
use crate::owner::Principal;
use crate::relay::exchange::RequestBody;
use crate::room::Holder;
use crate::session::handle::{Purpose, SessionKey};
use axum::body::Body;
use fingerprint::{Digest, Print, digest};
use proto::code::ErrorCode;
use run::{Attendance, Run};
use std::sync::Arc;
use std::time::Duration;
use table::{Found, Table};

/// Calls under way, and answers that another attempt may want.
#[derive(Debug, Default)]
pub struct Attempts(Arc<Table>);

/// Which attempts are one call: the same caller's, for the same session, under one invocation id, with one body.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    session: SessionKey,
    attempt: Attempt,
    body: BodyKey,
}

/// What is known of a body before any of it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum BodyKey {
    /// All of it.
    Whole(Digest),
    /// Its length, if it has one; the rest is compared when it is there.
    Stream(Option<u64>),
}

/// Waits for the beginning of a call's body, for as long as the call may take.
pub async fn begin(
    broker: &Broker,
    caller: Principal,
    patience: Duration,
    body: Body,
) -> Result<Intake, ApiError> {
    let config = broker.config();
    let memory = Memory {
        room: Arc::clone(&broker.bodies),
        holder: Holder::Caller(caller),
        patience: config.limits.admission_wait,
    };
    let intake = Intake::begin(body, config.limits.max_body.0, &memory);
    // A caller that never begins its body must not wait here for ever.
    tokio::time::timeout(patience, intake)
        .await
        .map_err(|_| ApiError::field("body", "did not come within the invocation's time"))?
}

/// Answers a call; see the module.
pub async fn answer(broker: &Arc<Broker>, call: Call, body: Body) -> Result<Answer, ApiError> {
    let patience = call.version.spec.timeouts.invocation;
    let caller = call.key.owner.principal.clone();
    let intake = begin(broker, caller, patience, body).await?;
    answer_to(broker, call, intake).await
}

/// As [`answer`], for a call whose body has begun.
pub async fn answer_to(
    broker: &Arc<Broker>,
    call: Call,
    mut intake: Intake,
) -> Result<Answer, ApiError> {
    let Some(attempt) = call.attempt.clone() else {
        return relay(Arc::clone(broker), call, intake).await;
    };
    let body = match &intake.body {
        RequestBody::Whole(bytes) => BodyKey::Whole(digest(bytes)),
        RequestBody::Stream(_) => BodyKey::Stream(intake.length),
    };
    let key = Key {
        session: call.key.clone(),
        attempt,
        body,
    };
    loop {
        let (run, attendance) = match broker.attempts.0.find_or_insert(&key, &broker.config()) {
            Found::New(run, attendance) => {
                if let RequestBody::Stream(body) = &mut intake.body {
                    body.fingerprint(run.fingerprint());
                }
                let work = Box::pin(relay(Arc::clone(broker), call, intake));
                run::drive(&run, work).await;
                return run.answer(attendance).await;
            }
            Found::Old(run, attendance) => (run, attendance),
        };
        tracing::debug!(
            invocation_id = key.attempt.invocation,
            attempt = attendance.ordinal(),
            "an attempt joins its call"
        );
        match same_body(&run, intake).await? {
            Same::Yes => return run.answer(attendance).await,
            // The earlier attempt's upload broke, and its run ends over that; this one has the body.
            Same::NeverCame(mine) => intake = *mine,
        }
        ended(&run, attendance).await;
    }
}

/// Waits until a run that cannot succeed is out of the way.
async fn ended(run: &Arc<Run>, attendance: Attendance) {
    let _ = run.answer(attendance).await;
    run.forget();
}

enum Same {
    Yes,
    NeverCame(Box<Intake>),
}

/// Compares the body of a later attempt with that of its run. A small one is part of the key already.
async fn same_body(run: &Run, intake: Intake) -> Result<Same, ApiError> {
    let RequestBody::Stream(_) = &intake.body else {
        return Ok(Same::Yes);
    };
    match run.print().await {
        Print::Broken => Ok(Same::NeverCame(Box::new(intake))),
        // The agent answered without reading it all, so there is nothing to compare: the id has to do.
        Print::Unread => Ok(Same::Yes),
        Print::Whole(first) => {
            if fingerprint::of(intake).await? == first {
                return Ok(Same::Yes);
            }
            Err(ApiError::new(
                ErrorCode::Conflict,
                "this amz-sdk-invocation-id was used for another body of the same length; a new call has a new id",
            ))
        }
    }
}

/// Obtains the session and relays the call: one run of the agent.
async fn relay(broker: Arc<Broker>, call: Call, intake: Intake) -> Result<Answer, ApiError> {
    // What only reads (an agent's card) takes no turn.
    let purpose = match call.method.as_str() {
        "GET" => Purpose::Exchange,
        _ => Purpose::Invocation,
    };
    let (handle, work) = invoke::obtain(&broker, &call.key, &call.version, purpose).await?;
    let answer = invoke::relay(&broker, &handle, work, &call, intake).await?;
    match call.agent_errors {
        AgentErrors::Explained if !(200..300).contains(&answer.status) => {
            Err(invoke::agent_error(&handle, answer).await)
        }
        AgentErrors::Explained | AgentErrors::Passed => Ok(answer),
    }
}
