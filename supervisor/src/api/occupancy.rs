//! Whether a connection is used: a place is for those who ask, not for those who only hold it.
//!
//! hyper bounds the time in which a head arrives, but not the time before it knows which HTTP is spoken, nor the idle time
//! of HTTP/2. Here every connection is looked at once per patience: one that has no request in flight and none that began or
//! ended since the last look is given up, whatever it speaks. A request counts until its answer's body is dropped, so a stream is use.

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Notify;

/// The requests of one connection.
#[derive(Debug, Clone, Default)]
pub struct Occupancy(Arc<Requests>);

#[derive(Debug, Default)]
struct Requests {
    /// Begins and ends: a connection is not closed in the moment when a long answer is over, in which its next request may come.
    changes: AtomicU64,
    in_flight: AtomicU32,
    first: Notify,
}

/// A request in flight; dropping it ends it.
#[derive(Debug)]
pub struct InFlight(Arc<Requests>);

impl Occupancy {
    /// A request has come.
    pub fn enter(&self) -> InFlight {
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        if self.0.changes.fetch_add(1, Ordering::Relaxed) == 0 {
            self.0.first.notify_waiters();
        }
        InFlight(Arc::clone(&self.0))
    }

    /// Resolves when a request has come, now or before.
    pub async fn used(&self) {
        let first = self.0.first.notified();
        if self.0.changes.load(Ordering::Relaxed) == 0 {
            first.await;
        }
    }

    /// Resolves when there was no use for at least `patience`, at most twice that.
    pub async fn unused(&self, patience: Duration) {
        loop {
            let before = self.0.changes.load(Ordering::Relaxed);
            tokio::time::sleep(patience).await;
            // In this order: what was counted off by now has been counted as a change.
            let idle = self.0.in_flight.load(Ordering::Acquire) == 0;
            if idle && self.0.changes.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.changes.fetch_add(1, Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::Release);
    }
}

/// An answer's body that keeps its request in flight.
#[derive(Debug)]
pub struct Held {
    body: Body,
    _request: InFlight,
}

impl Held {
    /// Holds the request until the body is dropped.
    #[must_use]
    pub fn new(body: Body, request: InFlight) -> Self {
        Self {
            body,
            _request: request,
        }
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, timeout};

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_is_given_up_in_time() {
        let began = Instant::now();
        Occupancy::default().unused(PATIENCE).await;
        assert_eq!(began.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_the_bodies_of_their_answers_are_use() {
        let occupancy = Occupancy::default();
        let body = Held::new(Body::empty(), occupancy.enter());
        let unused = occupancy.unused(PATIENCE);
        tokio::pin!(unused);
        assert!(timeout(10 * PATIENCE, &mut unused).await.is_err());
        // One that ends right before a look: its connection is unused from then on, and not since it began.
        tokio::time::sleep(PATIENCE - Duration::from_millis(1)).await;
        drop(body);
        assert!(timeout(PATIENCE, &mut unused).await.is_err());
        // Short ones, which no look ever meets in flight.
        for _ in 0..10 {
            drop(occupancy.enter());
            assert!(timeout(PATIENCE * 9 / 10, &mut unused).await.is_err());
        }
        timeout(2 * PATIENCE, unused).await.expect("given up");
    }
}
