//! The body of a request that is answered before anybody has read it to its end. What is left of a small one is read and
//! thrown away, so that nothing happens to the connection.
//!
//! Over HTTP/2 such a stream ends with the answer and a reset that says "no error". A client may not take that for the loss of
//! the answer ([RFC 9113 §8.1](https://www.rfc-editor.org/rfc/rfc9113#section-8.1)), yet some do when it meets them while they
//! are still sending (curl 7.88 of Debian 12: one early answer in ten). Over HTTP/1.1 hyper throws away what it has at that
//! moment, else it closes the connection without a word; botocore sends a body in a packet of its own, a moment after the head,
//! and its next call then met a closed connection (one refusal in a hundred).

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Most bytes that are thrown away. Whoever sends more is told to stop: by the reset, or by the connection's end.
const MOST: usize = 64 * 1024;

/// How long they may take to come.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Lingering(Option<Incoming>);

impl Lingering {
    pub(super) fn new(body: Incoming) -> Self {
        Self(Some(body))
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(mut body) = self.0.take().filter(|body| !body.is_end_stream()) else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        // One for each open stream or connection at most, and those are bounded.
        runtime.spawn(tokio::time::timeout(PATIENCE, async move {
            let mut left = MOST;
            while left > 0
                && let Some(Ok(frame)) = body.frame().await
            {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            }
        }));
    }
}

impl Body for Lingering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .as_ref()
            .map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
