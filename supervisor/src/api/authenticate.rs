//! From a connection's peer and what a request carries to a [`Caller`] — or a refusal, before any operation sees the request.
//!
//! A signed request is believed only when its whole body is here, because the signature covers it: what is handed on is
//! the body as it was verified. Tokens are the runtimes' business (`super::authorize`), as each has an issuer of its own.

use super::authorize::{self, Presented};
use super::aws::absent;
use super::identify::{self, Caller, Peer};
use super::reply::ApiError;
use super::s3;
use crate::broker::Broker;
use crate::config::TcpAuth;
use crate::keys::AccessKey;
use crate::owner::Principal;
use crate::room::Holder;
use crate::signature::{Claim, Payload, Place, Refused, Service};
use crate::spool::{SpoolError, Whose};
use crate::store::Timestamp;
use axum::body::Body;
use http::request::Parts;
use http_body::Body as _;
use proto::code::ErrorCode;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

/// SHA-256 of a request's body, on each request whose signature covers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadHash(pub [u8; 32]);

/// What a path is about, as far as who may go there is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// Whether the daemon is there: anybody.
    Health,
    /// The AWS wire: each operation asks for itself.
    Operations,
    /// Calls of the default runtime, which ask for themselves too.
    Local,
    /// The S3 subset, which asks for itself.
    Objects,
    /// Everything else of ours: operators.
    Operators,
}

impl Area {
    /// Of a path.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let below = |prefix: &str| {
            path.strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match path {
            "/healthz" | "/livez" | "/readyz" => Self::Health,
            "/invocations" | "/ping" | "/ws" => Self::Local,
            "/version" | "/metrics" | "/openapi.json" => Self::Operators,
            _ if below("/runtimes") || below("/tags") => Self::Operations,
            _ if absent::at(path).is_some() => Self::Operations,
            _ if below("/v1") => Self::Operators,
            _ => Self::Objects,
        }
    }

    const fn service(self) -> Service {
        match self {
            Self::Objects => Service::S3,
            Self::Health | Self::Operations | Self::Local | Self::Operators => Service::AgentCore,
        }
    }
}

/// Identifies a request's caller; gives its body back, verified if it is signed.
pub async fn authenticate(
    broker: &Broker,
    head: &mut Parts,
    body: Body,
) -> Result<(Caller, Body), ApiError> {
    let caller = identify::caller(broker, head).await?;
    let TcpAuth::Checked(methods) = broker.config().auth else {
        return Ok((caller, body));
    };
    if caller != Caller::Stranger {
        return Ok((caller, body));
    }
    let claim =
        Claim::of(head.uri.query(), &head.headers).map_err(|refused| told(None, &refused))?;
    let Some(claim) = claim else {
        return Ok((caller, body));
    };
    if !methods.sigv4 {
        return Err(ApiError::refused(
            ErrorCode::AccessDenied,
            "this listener takes no signed requests, only bearer tokens",
            format!(
                "signed by access key {}, and auth has no sigv4",
                claim.key_id
            ),
        ));
    }
    let (key, body) = signed(broker, head, &claim, body).await?;
    Ok((Caller::Key(key), body))
}

async fn signed(
    broker: &Broker,
    head: &mut Parts,
    claim: &Claim,
    body: Body,
) -> Result<(Arc<AccessKey>, Body), ApiError> {
    let refuse = |refused: Refused| told(Some(&claim.key_id), &refused);
    let config = broker.config();
    let now = Timestamp::now();
    let area = Area::of(head.uri.path());
    let service = area.service();
    let place = Place {
        region: &config.region,
        service,
    };
    claim.check(head, place, now).map_err(refuse)?;
    let gate = &broker.gate;
    let usable = || {
        let key = gate.keys.find(&claim.key_id);
        let key = key.ok_or_else(|| refuse(Refused::UnknownKey(claim.key_id.clone())))?;
        if key.expired(Timestamp::now()) {
            return Err(refuse(Refused::ExpiredKey(key.id.clone())));
        }
        Ok(key)
    };
    let key = usable()?;
    let max = match (area, head.uri.path()) {
        (Area::Objects, _) | (_, "/v1/artifacts") => broker.artifacts.largest(),
        _ => config.limits.max_body.0,
    };
    let whose = Whose {
        peer: holder(head),
        caller: Holder::Caller(Principal::key(&key.id)),
    };
    let verify = |head: &Parts, hash| {
        let verified = gate.verifier.verify(claim, head, service, &key, hash);
        verified.map_err(refuse)
    };
    // Whoever may not go there is not worth the room for a body.
    let (method, empty) = (head.method.clone(), body.is_end_stream());
    let admitted = || {
        if empty {
            return Ok(());
        }
        let caller = Caller::Key(Arc::clone(&key));
        match area {
            Area::Operators => authorize::operator(&caller),
            Area::Objects => s3::admitted(&Presented(caller), &method),
            // Whom it concerns, the operation knows.
            Area::Health | Area::Operations | Area::Local => Ok(()),
        }
    };
    let body = match claim.payload(&head.headers).map_err(refuse)? {
        Payload::Unsigned => {
            verify(head, None)?;
            body
        }
        Payload::Declared(hash) => {
            // Before a byte of the body is read.
            verify(head, Some(hash))?;
            admitted()?;
            let spooled = gate.spool.take(body, max, &whose).await;
            let spooled = spooled.map_err(not_taken)?;
            if spooled.hash != hash {
                return Err(refuse(Refused::Payload));
            }
            usable()?;
            head.extensions.insert(PayloadHash(hash));
            spooled.verified().await.map_err(not_taken)?
        }
        Payload::Covered => {
            // Nothing is believed of this request yet, but that it names a key which opens nothing there.
            admitted()?;
            let spooled = gate.spool.take(body, max, &whose).await;
            let spooled = spooled.map_err(not_taken)?;
            verify(head, Some(spooled.hash))?;
            // A body may take its time, and its key end meanwhile.
            usable()?;
            head.extensions.insert(PayloadHash(spooled.hash));
            spooled.verified().await.map_err(not_taken)?
        }
    };
    Ok((key, body))
}

/// Whose room a body takes before anybody knows whose it is.
fn holder(head: &Parts) -> Holder {
    match head.extensions.get::<Peer>() {
        Some(Peer::Tcp { remote, .. }) => Holder::at(remote.ip()),
        Some(Peer::Unix { uid, .. }) => Holder::Caller(Principal::user(*uid)),
        None => Holder::Caller(Principal::daemon()),
    }
}

/// The answer to a signature that is not believed. Only what helps a clock is told; the rest is for the audit.
fn told(key: Option<&str>, refused: &Refused) -> ApiError {
    let message = match refused {
        Refused::Skewed { .. } => {
            "the request was signed too far from this daemon's time, which is in the Date header of this answer"
        }
        Refused::Expired { .. } => "the presigned request has expired",
        Refused::Malformed(_)
        | Refused::Elsewhere(_)
        | Refused::NotCovered(_)
        | Refused::Mismatch
        | Refused::Payload
        | Refused::UnknownKey(_)
        | Refused::ExpiredKey(_) => {
            "the signature was not accepted; check access key, secret, region and signing method (the daemon's operator finds the reason under this request id: `GET /v1/audit`)"
        }
    };
    let reason = match key {
        Some(key) => format!("access key {key}: {refused}"),
        None => refused.to_string(),
    };
    ApiError::refused(ErrorCode::InvalidSignature, message, reason)
}

fn not_taken(error: SpoolError) -> ApiError {
    match &error {
        SpoolError::TooLarge(max) => super::invoke::too_large(None, *max),
        SpoolError::Broken(how) => ApiError::field("body", how.clone()),
        SpoolError::Full => ApiError::new(ErrorCode::Throttled, error.to_string())
            .retry_after(Duration::from_secs(2)),
        SpoolError::File { source, .. }
            if matches!(
                source.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded
            ) =>
        {
            tracing::error!(error = crate::fault::chain(&error), "body not spooled");
            ApiError::new(ErrorCode::StorageFull, "the daemon's disk is full")
        }
        SpoolError::File { .. } => ApiError::internal(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_thought_of_is_not_open() {
        for (path, area) in [
            ("/healthz", Area::Health),
            ("/healthz/", Area::Objects),
            ("/runtimes/a/invocations", Area::Operations),
            ("/runtimes/", Area::Operations),
            ("/memories/m/events", Area::Operations),
            ("/runtimesx", Area::Objects),
            ("/v1/keys", Area::Operators),
            ("/v1", Area::Operators),
            ("/metrics", Area::Operators),
            ("/bucket/key", Area::Objects),
            ("/invocations", Area::Local),
        ] {
            assert_eq!(Area::of(path), area, "{path}");
        }
    }
}
