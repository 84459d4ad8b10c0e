//! From a call's key to a session that works for it: the one that is there, or a new one (architecture §4, stages 4–6).
//! Waiting comes before refusing, and a refusal says when to try again and which limit it was.

use super::evidence::AgentEvidence;
use super::reply::ApiError;
use crate::admission::Refused;
use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::session::driver;
use crate::session::handle::{End, NoTurn, Purpose, SessionHandle, SessionKey, Unusable, Work};
use crate::session::origin::{self, Path};
use proto::api::EndReason;
use proto::code::ErrorCode;
use proto::ids::RuntimeName;
use session_core::admission::Limit;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long, beyond its grace period, a caller waits for the end of a session whose id it wants to use anew.
const ENDING_PATIENCE: Duration = Duration::from_secs(15);

/// Obtains a session, making it of `version` if need be, and begins work on it.
pub async fn obtain(
    broker: &Arc<Broker>,
    key: &SessionKey,
    version: &Arc<RuntimeVersion>,
    purpose: Purpose,
) -> Result<(Arc<SessionHandle>, Work), ApiError> {
    loop {
        let handle = match broker.registry.find(key) {
            Some(handle) => handle,
            None => create(broker, key, version).await?,
        };
        match handle.begin(purpose, &broker.config().limits).await {
            Ok(work) => return Ok((handle, work)),
            // The caller's id is about to be free again: waiting comes before refusing.
            Err(NoTurn::Unusable(Unusable::Ending)) => {
                let grace = handle.version.spec.timeouts.stop_grace;
                if tokio::time::timeout(grace + ENDING_PATIENCE, handle.over())
                    .await
                    .is_err()
                {
                    return Err(ApiError::new(
                        ErrorCode::RetryableConflict,
                        "the session of this id is ending, and its processes do not die; try again later or use another id",
                    )
                    .retry_after(ENDING_PATIENCE));
                }
                broker.registry.remove(&handle);
            }
            // What waited was not there any more; nobody has used it, and nothing has begun.
            Err(NoTurn::Unusable(Unusable::Failed(end))) if died_waiting(&handle, &end) => {
                handle.over().await;
                broker.registry.remove(&handle);
            }
            Err(NoTurn::Unusable(Unusable::Failed(end))) => return Err(start_failure(&end)),
            Err(other) => return Err(not_begun(&other)),
        }
    }
}

/// Whether a session was claimed from a pool and ended of itself before it was its caller's.
fn died_waiting(handle: &SessionHandle, end: &End) -> bool {
    let of_itself = !matches!(
        end.reason,
        EndReason::Stopped | EndReason::DaemonStopped | EndReason::DaemonLost
    );
    handle.path == Path::Pool && of_itself && end.code.is_none()
}

/// How it is told that a session takes no more work now.
pub fn not_begun(why: &NoTurn) -> ApiError {
    let code = match why {
        NoTurn::Unusable(Unusable::Frozen(hold)) => {
            // Not by waiting: somebody has to thaw it.
            let code = match hold.by_budget {
                true => ErrorCode::QuotaExceeded,
                false => ErrorCode::Conflict,
            };
            return ApiError::new(code, why.to_string());
        }
        NoTurn::Busy => ErrorCode::Conflict,
        NoTurn::Unusable(Unusable::Full(_)) => ErrorCode::Throttled,
        NoTurn::Unusable(Unusable::Ending) => ErrorCode::RetryableConflict,
        NoTurn::Unusable(Unusable::Failed(_)) => ErrorCode::AgentFailed,
    };
    ApiError::new(code, why.to_string()).retry_after(Duration::from_secs(1))
}

async fn create(
    broker: &Arc<Broker>,
    key: &SessionKey,
    version: &Arc<RuntimeVersion>,
) -> Result<Arc<SessionHandle>, ApiError> {
    not_while_stopping(broker)?;
    // Its end could not be written down.
    broker.store.room()?;
    let began = Instant::now();
    let admitted = tokio::select! {
        // Another call of the same id has what this one waits for.
        handle = broker.registry.appears(key) => return Ok(handle),
        admitted = broker.admission.admit(broker, key, version.spec.limits.memory) => admitted,
    };
    broker.metrics.admitted(missing(&admitted), began.elapsed());
    let permit = admitted.map_err(|refused| not_admitted(refused, &version.name))?;
    // It may have been told to while this call waited.
    not_while_stopping(broker)?;
    // Until its driver says so itself.
    let _underway = broker.slots.underway();
    let origin = origin::choose(broker, key, version).await;
    Ok(broker.registry.find_or_insert(key, || {
        driver::spawn(broker, origin, key.clone(), Arc::clone(version), permit)
    }))
}

/// What a session that is not admitted did not get.
fn missing<T>(admitted: &Result<T, Refused>) -> Option<&'static str> {
    match admitted {
        Ok(_) => None,
        Err(Refused::Caller) => Some("caller"),
        Err(Refused::Runtime) => Some("runtime"),
        Err(Refused::Room(Limit::Places, _)) => Some("daemon"),
        Err(Refused::Room(Limit::Commitment | Limit::Available, _)) => Some("memory"),
        Err(Refused::Room(Limit::MemoryPressure | Limit::CpuPressure | Limit::IoPressure, _)) => {
            Some("pressure")
        }
        Err(Refused::Pace(_)) => Some("pace"),
        Err(Refused::Start) => Some("starts"),
    }
}

fn not_while_stopping(broker: &Broker) -> Result<(), ApiError> {
    if !broker.draining() {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::Unavailable,
        "the daemon is stopping and starts no new sessions; try again in a moment",
    )
    .retry_after(Duration::from_secs(1)))
}

/// When a place may be free again: sessions end at any time.
const PLACE_AGAIN: Duration = Duration::from_secs(5);

/// When a start may be over: they end all the time.
const START_AGAIN: Duration = Duration::from_secs(2);

fn not_admitted(refused: Refused, runtime: &RuntimeName) -> ApiError {
    let (code, text, again) = match refused {
        Refused::Caller => (
            ErrorCode::QuotaExceeded,
            "you have your highest number of live sessions (limits.max_sessions_per_caller); stop some or try again later".to_owned(),
            PLACE_AGAIN,
        ),
        Refused::Runtime => (
            ErrorCode::QuotaExceeded,
            format!("runtime {runtime} has its highest number of live sessions (limits.max_sessions_per_runtime); stop some or try again later"),
            PLACE_AGAIN,
        ),
        Refused::Room(limit, again) => (ErrorCode::Throttled, no_room(limit).to_owned(), again),
        Refused::Pace(again) => (
            ErrorCode::Throttled,
            "new sessions come faster than this daemon begins them (limits.new_session_rate); try again later".to_owned(),
            again,
        ),
        Refused::Start => (
            ErrorCode::Throttled,
            "too many new sessions are starting (limits.max_starting_sessions); try again later".to_owned(),
            START_AGAIN,
        ),
    };
    ApiError::new(code, text).retry_after(again)
}

fn no_room(limit: Limit) -> &'static str {
    match limit {
        Limit::Places => {
            "this daemon has its highest number of live sessions (limits.max_sessions); stop some or try again later"
        }
        Limit::Commitment => {
            "this daemon's sessions may use as much memory as it promises (admission.memory_ratio); stop some or try again later"
        }
        Limit::Available => {
            "the host has too little memory left for one more session (admission.memory_reserve); try again later"
        }
        Limit::MemoryPressure => {
            "the host's sessions wait for memory (admission.memory_pressure); try again later"
        }
        Limit::CpuPressure => {
            "the host's sessions wait for processors (admission.cpu_pressure); try again later"
        }
        Limit::IoPressure => {
            "the host's sessions wait for its disks (admission.io_pressure); try again later"
        }
    }
}

fn start_failure(end: &End) -> ApiError {
    let code = match end.reason {
        EndReason::Stopped | EndReason::DaemonStopped | EndReason::DaemonLost => {
            ErrorCode::RetryableConflict
        }
        EndReason::Idle
        | EndReason::Evicted
        | EndReason::MaxLifetime
        | EndReason::Unhealthy
        | EndReason::OutOfMemory
        | EndReason::AgentExited
        | EndReason::ShimDied
        | EndReason::Protocol
        | EndReason::StartTimeout => ErrorCode::AgentFailed,
        EndReason::LaunchFailed => end.code.unwrap_or(ErrorCode::Internal),
    };
    let error = ApiError::new(
        code,
        format!("the session could not be started: {}", end.detail),
    )
    .evidence(AgentEvidence::logged(end.log_tail.clone()));
    match code {
        ErrorCode::RetryableConflict | ErrorCode::Throttled | ErrorCode::Unavailable => {
            error.retry_after(Duration::from_secs(1))
        }
        _ => error,
    }
}
