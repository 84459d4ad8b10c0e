//! What tells one body from another. A small one is here before its call begins, and its hash is part of the call's key. A
//! larger one is hashed on its way to the agent, and a later attempt's is compared when both are whole.

use crate::api::intake::Intake;
use crate::api::reply::ApiError;
use crate::relay::exchange::RequestBody;
use http_body_util::BodyExt;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

/// SHA-256.
pub(super) type Digest = [u8; 32];

/// How far the hash of a body on its way has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Print {
    /// All of it has passed.
    Whole(Digest),
    /// It broke off at its caller.
    Broken,
    /// Nobody reads the rest of it.
    Unread,
}

/// Hashes a body that passes. Dropping it says that the rest is not read.
#[derive(Debug)]
pub struct Fingerprint {
    hash: Sha256,
    told: watch::Sender<Option<Print>>,
}

impl Fingerprint {
    /// One that tells there.
    pub(super) fn new(told: watch::Sender<Option<Print>>) -> Self {
        Self {
            hash: Sha256::new(),
            told,
        }
    }

    /// The next piece.
    pub fn update(&mut self, data: &[u8]) {
        self.hash.update(data);
    }

    /// That was all.
    pub fn whole(self) {
        let digest = self.hash.clone().finalize().into();
        self.told.send_replace(Some(Print::Whole(digest)));
    }

    /// There will not be more, though there should.
    pub fn broken(self) {
        self.told.send_replace(Some(Print::Broken));
    }
}

impl Drop for Fingerprint {
    fn drop(&mut self) {
        self.told.send_if_modified(|told| {
            let unknown = told.is_none();
            told.get_or_insert(Print::Unread);
            unknown
        });
    }
}

/// Of a body that is here.
pub(super) fn digest(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// Of a body that is read for nothing else.
pub(super) async fn of(intake: Intake) -> Result<Digest, ApiError> {
    let Intake { body, trouble, .. } = intake;
    let mut body = match body {
        RequestBody::Whole(bytes) => return Ok(digest(&bytes)),
        RequestBody::Stream(body) => body,
    };
    let mut hash = Sha256::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|fault| {
            trouble
                .told()
                .unwrap_or_else(|| ApiError::field("body", fault.to_string()))
        })?;
        if let Ok(data) = frame.into_data() {
            hash.update(&data);
        }
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::intake::Memory;
    use crate::owner::Principal;
    use crate::room::{Holder, Room};
    use axum::body::Body;
    use std::time::Duration;

    #[tokio::test]
    async fn a_body_is_known_with_its_last_byte_whoever_asks_for_more() {
        let memory = Memory {
            room: Room::new(1 << 20),
            holder: Holder::Caller(Principal::user(1)),
            patience: Duration::from_secs(1),
        };
        let bytes = vec![7; 200_000];
        let intake = Intake::begin(Body::from(bytes.clone()), 1 << 20, &memory);
        let RequestBody::Stream(mut body) = intake.await.expect("begins").body else {
            panic!("a large body is a stream");
        };
        let told = watch::Sender::new(None);
        body.fingerprint(Fingerprint::new(told.clone()));
        body.frame().await.expect("a piece").expect("whole");
        drop(body);
        assert_eq!(*told.borrow(), Some(Print::Whole(digest(&bytes))));
    }
}
