//! A caller's body on its way to an agent: bounded, and begun before anything is started for it.
//!
//! A small body is read whole, of a larger one the first piece: a request that breaks off or is malformed there has cost no
//! session. What goes wrong later is noted, because the agent's side only sees that the body ended early, and the caller
//! is to be told the cause.

use super::attempts::Fingerprint;
use super::invoke::too_large;
use super::reply::ApiError;
use crate::broker::Broker;
use crate::relay::exchange::{RequestBody, SMALL_BODY, take_small};
use crate::room::{Holder, NoRoom, Room};
use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use proto::code::ErrorCode;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Refuses a body that says itself that it is too large, before anything is started for it.
pub fn check_length(broker: &Broker, headers: &HeaderMap) -> Result<(), ApiError> {
    let max = broker.config().limits.max_body.0;
    let length = headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok());
    match length {
        Some(size) if size > max => Err(too_large(Some(size), max)),
        Some(_) | None => Ok(()),
    }
}

/// Why a body cannot go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    /// More than a body may have.
    #[error("the body has more than {0} bytes")]
    TooLarge(u64),
    /// The caller broke it off, or sent what is no body.
    #[error("the body broke off: {0}")]
    Broken(String),
}

impl Fault {
    /// For the caller.
    fn told(&self) -> ApiError {
        match self {
            Self::TooLarge(max) => too_large(None, *max),
            Self::Broken(_) => ApiError::field("body", self.to_string()),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Intake {
    /// What goes to the agent.
    pub body: RequestBody<Bounded>,
    /// Its length, if the caller gave it.
    pub length: Option<u64>,
    /// What went wrong with it later.
    pub trouble: Trouble,
}

/// Where the fault of a body that is already on its way is found.
#[derive(Debug, Clone, Default)]
pub struct Trouble(Arc<OnceLock<Fault>>);

impl Trouble {
    /// The fault, for the caller.
    #[must_use]
    pub fn told(&self) -> Option<ApiError> {
        self.0.get().map(Fault::told)
    }
}

/// Memory for small bodies, and how much of it is whose.
#[derive(Debug, Clone)]
pub struct Memory {
    /// All of it.
    pub room: Arc<Room>,
    /// Whose body it is.
    pub holder: Holder,
    /// How long room is waited for.
    pub patience: Duration,
}

impl Intake {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            body: RequestBody::Whole(Bytes::new()),
            length: Some(0),
            trouble: Trouble::default(),
        }
    }

    /// Waits for the beginning of a body of at most `max` bytes; one that is small waits in `memory` for its agent.
    pub async fn begin(body: Body, max: u64, memory: &Memory) -> Result<Self, ApiError> {
        let length = body.size_hint().exact();
        if let Some(size) = length.filter(|size| *size > max) {
            return Err(too_large(Some(size), max));
        }
        // Before its first byte: a connection of HTTP/2 can bring a hundred of them.
        let taken = match length.filter(|size| (1..=SMALL_BODY).contains(size)) {
            Some(size) => {
                let taken = memory
                    .room
                    .take(&memory.holder, None, size, memory.patience);
                Some(taken.await.map_err(|NoRoom| no_room())?)
            }
            None => None,
        };
        let trouble = Trouble::default();
        let bounded = Bounded {
            first: None,
            body,
            left: max,
            max,
            trouble: trouble.clone(),
            print: None,
        };
        let body = match take_small(bounded).await.map_err(|fault| fault.told())? {
            RequestBody::Whole(bytes) => RequestBody::Whole(match taken {
                Some(taken) => taken.hold(bytes),
                None => bytes,
            }),
            RequestBody::Stream(mut body) => {
                body.first = match body.frame().await {
                    Some(frame) => Some(frame.map_err(|fault| fault.told())?),
                    None => None,
                };
                RequestBody::Stream(body)
            }
        };
        Ok(Self {
            body,
            length,
            trouble,
        })
    }
}

fn no_room() -> ApiError {
    ApiError::new(
        ErrorCode::Throttled,
        "too many bodies are on their way to their agents (limits.body_memory); try again later",
    )
}

/// A body that ends with a fault when it is over its bound.
#[derive(Debug)]
pub struct Bounded {
    first: Option<Frame<Bytes>>,
    body: Body,
    left: u64,
    max: u64,
    trouble: Trouble,
    /// Hashes what passes, for a call that may be tried again.
    print: Option<Fingerprint>,
}

impl Bounded {
    /// Hashes what passes from now on; nothing has been read of it yet.
    pub fn fingerprint(&mut self, print: Fingerprint) {
        self.print = Some(print);
    }

    fn passed(&mut self, frame: &Frame<Bytes>) {
        if let (Some(print), Some(data)) = (&mut self.print, frame.data_ref()) {
            print.update(data);
        }
        // An agent may have answered before anybody asks whether there is more. HTTP/2 may say that it ends in a frame of its own;
        // what has no length is whole only when somebody has asked.
        let all = self.body.is_end_stream() || self.body.size_hint().exact() == Some(0);
        if all && let Some(print) = self.print.take() {
            print.whole();
        }
    }

    fn fault(&mut self, fault: Fault) -> Fault {
        if let Some(print) = self.print.take() {
            print.broken();
        }
        // The first one is the cause.
        let _ = self.trouble.0.set(fault.clone());
        fault
    }
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if let Some(first) = self.first.take() {
            self.passed(&first);
            return Poll::Ready(Some(Ok(first)));
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            None => {
                if let Some(print) = self.print.take() {
                    print.whole();
                }
                return Poll::Ready(None);
            }
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                let fault = Fault::Broken(crate::fault::chain(&error));
                return Poll::Ready(Some(Err(self.fault(fault))));
            }
        };
        let size = frame.data_ref().map_or(0, Bytes::len);
        match self
            .left
            .checked_sub(u64::try_from(size).unwrap_or(u64::MAX))
        {
            Some(left) => {
                self.left = left;
                self.passed(&frame);
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                let fault = Fault::TooLarge(self.max);
                Poll::Ready(Some(Err(self.fault(fault))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.body.size_hint();
        let first = self
            .first
            .as_ref()
            .and_then(Frame::data_ref)
            .map_or(0, Bytes::len);
        let first = u64::try_from(first).unwrap_or(u64::MAX);
        match rest.exact() {
            Some(rest) => SizeHint::with_exact(rest.saturating_add(first)),
            None => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Principal;
    use futures_util::stream;
    use http_body_util::StreamBody;

    type Piece = Result<Frame<Bytes>, std::io::Error>;

    fn body(pieces: Vec<Piece>) -> Body {
        Body::new(StreamBody::new(stream::iter(pieces)))
    }

    fn piece(text: &'static str) -> Piece {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    fn broken() -> Piece {
        Err(std::io::Error::other("bad chunk"))
    }

    fn memory() -> Memory {
        Memory {
            room: Room::new(1 << 20),
            holder: Holder::Caller(Principal::user(1)),
            patience: Duration::from_secs(1),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn small_bodies_have_room_of_their_callers_until_they_are_gone() {
        let mut memory = memory();
        let small = || Body::from(vec![7; 65_536]);
        let mut held = Vec::new();
        let full = loop {
            match Intake::begin(small(), 1 << 20, &memory).await {
                Ok(taken) => held.push(taken),
                Err(error) => break error,
            }
        };
        assert_eq!((held.len(), full.code), (8, ErrorCode::Throttled));
        assert!(full.message.contains("limits.body_memory"), "{full:?}");
        // Larger ones pass piece by piece, and none needs none.
        for body in [Body::from(vec![7; 65_537]), Body::empty()] {
            Intake::begin(body, 1 << 20, &memory)
                .await
                .expect("no room needed");
        }
        memory.holder = Holder::Caller(Principal::user(2));
        Intake::begin(small(), 1 << 20, &memory)
            .await
            .expect("another caller's");
        drop(held);
        assert_eq!(memory.room.free(), 1 << 20);
    }

    #[tokio::test]
    async fn a_body_that_is_bad_from_the_start_is_refused() {
        let error = Intake::begin(body(vec![broken()]), 10, &memory())
            .await
            .expect_err("broken");
        assert_eq!(error.code, ErrorCode::Validation);
        let error = Intake::begin(body(vec![piece("12345678901")]), 10, &memory())
            .await
            .expect_err("large");
        assert_eq!(error.code, ErrorCode::PayloadTooLarge);
        let error = Intake::begin(Body::from("12345678901"), 10, &memory())
            .await
            .expect_err("announced");
        assert_eq!(error.code, ErrorCode::PayloadTooLarge);
    }

    #[tokio::test]
    async fn nothing_is_lost_and_later_faults_are_noted() {
        let taken = Intake::begin(body(vec![piece("first "), piece("second")]), 12, &memory())
            .await
            .expect("fits");
        let RequestBody::Stream(all) = taken.body else {
            panic!("a body without a length is a stream");
        };
        let all = all.collect().await.expect("whole").to_bytes();
        assert_eq!(all, "first second");
        assert!(taken.trouble.told().is_none());

        for (last, code) in [
            (broken(), ErrorCode::Validation),
            (piece("67"), ErrorCode::PayloadTooLarge),
        ] {
            let taken = Intake::begin(body(vec![piece("12345"), last]), 6, &memory())
                .await
                .expect("begins well");
            let RequestBody::Stream(all) = taken.body else {
                panic!("a body without a length is a stream");
            };
            all.collect().await.expect_err("bad end");
            assert_eq!(taken.trouble.told().map(|error| error.code), Some(code));
        }
    }
}
