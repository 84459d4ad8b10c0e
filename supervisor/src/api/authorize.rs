//! May this caller do this, here? The one place that every operation asks.
//!
//! A runtime without an authorizer takes signed requests, one with it takes bearer tokens, never both. Peers of the Unix socket
//! are operators. Who may not know whether a runtime exists gets the same answer for one that does not.

use super::identify::Caller;
use super::reply::ApiError;
use crate::broker::Broker;
use crate::catalogue::RuntimeVersion;
use crate::owner::USER_ID;
use crate::permit::Action;
use http::request::Parts;
use proto::code::ErrorCode;

/// What the AWS wire says when credentials are of the other kind.
const MISMATCH: &str = "Authorization method mismatch. The agent is configured for a different authorization method than what was used in your request.";

/// A caller on the AWS wire, of whom it is not known yet what it may do: [`on_runtime`] and [`without_runtime`] say.
#[derive(Debug, Clone)]
pub struct Presented(pub Caller);

/// Who may go to what is ours: operators.
pub fn operator(caller: &Caller) -> Result<(), ApiError> {
    let what = "this needs an operator: a peer of the Unix socket, or an access key without limits";
    match caller {
        Caller::User(_) | Caller::Loopback => Ok(()),
        Caller::Key(key) if key.grant.is_unlimited() => Ok(()),
        Caller::Key(key) => Err(ApiError::refused(
            ErrorCode::AccessDenied,
            what,
            format!("access key {} is limited", key.id),
        )),
        Caller::Stranger => Err(ApiError::refused(
            ErrorCode::AccessDenied,
            what,
            "no credentials, or a token where none is taken",
        )),
    }
}

/// The caller of an action that concerns no runtime in particular (list, create, upload).
pub fn without_runtime(presented: &Presented, action: Action) -> Result<Caller, ApiError> {
    let Presented(caller) = presented;
    match caller {
        Caller::User(_) | Caller::Loopback => Ok(caller.clone()),
        Caller::Key(key) if key.grant.covers(action, None) => Ok(caller.clone()),
        Caller::Key(_) => Err(not_permitted(caller, action)),
        Caller::Stranger => Err(unsigned(action)),
    }
}

/// The caller of an action on the runtime that was `found`, whatever error that ended in otherwise.
pub async fn on_runtime(
    broker: &Broker,
    presented: &Presented,
    action: Action,
    found: Result<&RuntimeVersion, &ApiError>,
    head: &Parts,
) -> Result<Caller, ApiError> {
    let Presented(caller) = presented;
    let version = match found {
        Ok(version) => version,
        Err(fault) => {
            return Err(match caller {
                // Unlimited callers may know.
                Caller::User(_) | Caller::Loopback => fault.clone(),
                Caller::Key(key)
                    if key.grant.runtimes.is_none() && key.grant.covers(action, None) =>
                {
                    fault.clone()
                }
                // What breaks a rule would break it anywhere.
                Caller::Key(_) | Caller::Stranger if fault.code == ErrorCode::Validation => {
                    fault.clone()
                }
                Caller::Key(_) => not_permitted(caller, action),
                Caller::Stranger => unsigned(action),
            });
        }
    };
    let _ = broker;
    let needed = [
        Some(action),
        head.headers
            .contains_key(USER_ID)
            .then_some(Action::INVOKE_FOR_USER),
    ];
    match (caller, &version.config.authorizer) {
        (Caller::User(_) | Caller::Loopback, _) => Ok(caller.clone()),
        (Caller::Key(key), None) => {
            for action in needed.into_iter().flatten() {
                if !key.grant.covers(action, Some(&version.name)) {
                    return Err(not_permitted(caller, action));
                }
            }
            Ok(caller.clone())
        }
        (Caller::Key(key), Some(_)) => {
            // A key that may not act here learns nothing about how others may.
            if !key.grant.covers(action, Some(&version.name)) {
                return Err(not_permitted(caller, action));
            }
            Err(ApiError::refused(
                ErrorCode::AccessDenied,
                MISMATCH,
                format!("runtime {} takes bearer tokens only", version.name),
            ))
        }
        (Caller::Stranger, _) => Err(unsigned(action)),
    }
}

fn not_permitted(caller: &Caller, action: Action) -> ApiError {
    let who = match caller {
        Caller::Key(key) => format!("access key {}", key.id),
        Caller::User(_) | Caller::Loopback | Caller::Stranger => "this caller".to_owned(),
    };
    ApiError::refused(
        ErrorCode::AccessDenied,
        format!("{who} is not permitted to do {action} on this resource"),
        format!("the grant of {who} does not cover {action} there"),
    )
}

fn unsigned(action: Action) -> ApiError {
    ApiError::refused(
        ErrorCode::AccessDenied,
        "Missing Authentication Token: sign the request with an access key (SigV4)",
        format!("{action} without credentials"),
    )
}
