//! The agent's answer on its way to the caller: while it goes on the work counts, and both size and time are bounded.

use super::attempts::Reading;
use crate::ledger::Charge;
use crate::metrics::{OfAgent, OpenStream};
use crate::relay::exchange::{BodyError, ResponseBody};
use crate::session::handle::{SessionHandle, Work};
use crate::session::log::SessionLog;
use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// The agent's body while the work counts: bounded in size and time.
#[derive(Debug)]
pub struct AnswerBody(Source);

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "most answers are live; a box for each of them would serve the others only"
)]
enum Source {
    /// There is no body.
    Nothing,
    /// As it comes. Dropping it cancels what is still to come.
    Live(Inner),
    /// As it comes to a call of which this may be one attempt of several.
    Shared(Reading),
}

/// How much and how long.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes; `None` for streams.
    pub limit: Option<u64>,
    /// When it must be complete.
    pub deadline: Instant,
    /// What the deadline comes from, for people.
    pub named: &'static str,
}

#[derive(Debug)]
struct Inner {
    body: ResponseBody,
    bounds: Bounds,
    /// The session's, for what its answer's status can no longer say.
    log: Arc<SessionLog>,
    /// Its runtime's figures.
    meters: Arc<OfAgent>,
    /// It is a stream of events.
    _open: Option<OpenStream>,
    /// What its bytes are charged to.
    charge: Option<Arc<Charge>>,
    /// The work, until somebody has to wait; then the watch has it.
    work: Option<Work>,
    /// Ends work and exchange at the deadline, or with this body.
    watch: Option<AbortOnDropHandle<()>>,
    /// Set at the deadline, before the exchange ends over it: what its end looks like must not be taken for the cause.
    late: Arc<AtomicBool>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.meters.given(self.body.bytes());
    }
}

impl Inner {
    /// Whether the answer's time is over; if it is not, the reader is woken when it is.
    ///
    /// The watch is a task of its own because the time is the caller's too: nobody asks a body for more while its last
    /// piece is not written, and a caller who takes no bytes must not keep a session busy. Most answers are complete at
    /// once and need none.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.late.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let Some(cancel) = self.body.cancel_handle() else {
            // Complete in time.
            return Poll::Pending;
        };
        if let Some(work) = self.work.take() {
            let deadline = self.bounds.deadline;
            let late = Arc::clone(&self.late);
            self.watch = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                tokio::time::sleep_until(deadline).await;
                late.store(true, Ordering::Release);
                cancel.cancel();
                drop(work);
            })));
        }
        match &mut self.watch {
            Some(watch) => Pin::new(watch).poll(cx).map(drop),
            None => Poll::Pending,
        }
    }
}

impl AnswerBody {
    /// The agent's body, which holds the work until it ends.
    pub fn new(body: ResponseBody, work: Work, bounds: Bounds, of: &SessionHandle) -> Self {
        Self(Source::Live(Inner {
            body,
            bounds,
            log: Arc::clone(&of.log),
            meters: Arc::clone(&of.meters),
            _open: bounds.limit.is_none().then(|| of.meters.stream()),
            charge: work.charge(),
            work: Some(work),
            watch: None,
            late: Arc::default(),
        }))
    }

    /// One attempt's view of a body.
    pub(super) fn shared(reading: Reading) -> Self {
        Self(Source::Shared(reading))
    }

    /// Nothing.
    #[must_use]
    pub fn none() -> Self {
        Self(Source::Nothing)
    }
}

impl HttpBody for Inner {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(charge)) = (&polled, &self.charge) {
            charge.went(frame.data_ref().map_or(0, Bytes::len));
        }
        // In the middle of an answer the connection breaks, so it cannot look complete.
        if self.poll_over(cx).is_ready() && !matches!(polled, Poll::Ready(None)) {
            let fault = BodyError::TooLong(self.bounds.named);
            self.log.note(&fault.to_string());
            return Poll::Ready(Some(Err(fault)));
        }
        if let Some(limit) = self.bounds.limit
            && self.body.bytes() > limit
        {
            self.log.note(&format!(
                "an answer was cut off: it has more than {limit} bytes (limits.max_body)"
            ));
            return Poll::Ready(Some(Err(BodyError::TooLarge)));
        }
        polled
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Source::Nothing => Poll::Ready(None),
            Source::Live(inner) => Pin::new(inner).poll_frame(cx),
            Source::Shared(reading) => Pin::new(reading).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Nothing => true,
            Source::Live(inner) => inner.body.is_end_stream(),
            Source::Shared(reading) => reading.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Nothing => SizeHint::with_exact(0),
            Source::Live(inner) => inner.body.size_hint(),
            Source::Shared(reading) => reading.size_hint(),
        }
    }
}

/// An answer as a connection takes it: why it breaks off is told one turn later than it was found. A connection that breaks
/// takes along what hyper holds back, and the head and all that came before are to be on their way by then.
struct OnTheWay {
    body: AnswerBody,
    fault: Option<BodyError>,
}

impl HttpBody for OnTheWay {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(fault) = self.fault.take() {
            return Poll::Ready(Some(Err(fault)));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Err(fault))) => {
                self.fault = Some(fault);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.fault.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl From<AnswerBody> for Body {
    fn from(body: AnswerBody) -> Self {
        Self::new(OnTheWay { body, fault: None })
    }
}
