//! One HTTP exchange with an agent: request body in, response head and body out, over one passed stream.
//!
//! Dropping an [`Exchange`] (or the [`ResponseBody`] made of it) before its end cancels the invocation; that is how a
//! client that goes away is felt by its agent. The response body is complete only if the shim said `body.end` with
//! exactly the bytes that were read; anything else is an error of the body, which breaks the client's connection.

use super::link::{CallError, Link};
use super::near_end::{self, NearEnd};
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use proto::ids::InvocationId;
use proto::shim::{Invoke, InvokeHead};
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

/// Bytes asked for at a time from the stream.
pub const CHUNK: usize = 64 * 1024;

/// A request body up to this size is written into the stream before anything waits: it fits the socket's buffer.
pub const SMALL_BODY: u64 = 64 * 1024;

/// Why a response body stopped early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The agent or its session went away mid-body.
    #[error("the agent's answer ended before it was complete")]
    Truncated,
    /// It took longer than it may; which bound that is.
    #[error("the agent's answer was cut off: it was not complete within its time ({0})")]
    TooLong(&'static str),
    /// More than a body may have.
    #[error("the agent's answer is over the limit of a body")]
    TooLarge,
    /// The stream failed.
    #[error("stream from the session")]
    Io(#[from] io::Error),
}

/// What the client sends.
#[derive(Debug)]
pub enum RequestBody<B> {
    /// All of it is here.
    Whole(Bytes),
    /// It comes.
    Stream(B),
}

/// An answer whose head is there.
#[derive(Debug)]
pub struct Exchange {
    /// The agent's head.
    pub head: InvokeHead,
    /// Its body.
    pub body: ResponseBody,
}

/// How somebody else than the body's reader ends an exchange: the shim closes the stream, and the body ends as truncated.
#[derive(Debug)]
pub struct CancelHandle {
    link: Arc<Link>,
    id: InvocationId,
}

impl CancelHandle {
    /// Tells the shim. Of an exchange that is over nobody knows there any more.
    pub fn cancel(&self) {
        self.link.cancel(self.id);
    }
}

/// Cancels the invocation unless it is told that the exchange is over.
#[derive(Debug)]
pub(super) struct CancelOnDrop {
    pub(super) link: Arc<Link>,
    pub(super) id: InvocationId,
    pub(super) armed: bool,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if self.armed {
            self.link.cancel(self.id);
        }
    }
}

/// Sends `request` and waits for the agent's head. Its id is the link's next one, unless it has one of the link's already.
pub async fn exchange<B>(
    link: &Arc<Link>,
    mut request: Invoke,
    body: RequestBody<B>,
) -> Result<Exchange, CallError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Send,
{
    if request.id == InvocationId(0) {
        request.id = InvocationId(link.next_id());
    }
    let id = request.id;
    let no_stream = |error: io::Error| CallError::NoStream(error.to_string());
    let (mut ours, theirs) = near_end::pair().map_err(no_stream)?;
    let mut cancel = CancelOnDrop {
        link: Arc::clone(link),
        id,
        armed: true,
    };

    match body {
        RequestBody::Whole(bytes) => {
            request.content_length = Some(length(&bytes));
            // Fits the socket's buffer, so this does not wait for a reader.
            if ours.write_all(&bytes).await.is_err() {
                return Err(CallError::LinkClosed);
            }
            // Its length is declared, which is its end: no `body.end` is needed.
            let (head, end) = link.invoke(&request, theirs.as_fd(), || {}).await?;
            drop(theirs);
            Ok(assemble(head, ours, end, cancel, None))
        }
        RequestBody::Stream(body) => {
            let (ours, writer) = ours.split().map_err(no_stream)?;
            // Ends with the exchange, however that ends: a client that stopped in the middle of its body has no other end. It
            // begins when the order has left: a shim does not know the `body.end` of an invocation that it has not heard of.
            let mut pump = None;
            let begin = || {
                let sending = send_body(Arc::clone(link), id, 0, body, writer);
                pump = Some(AbortOnDropHandle::new(tokio::spawn(sending)));
            };
            let answered = link.invoke(&request, theirs.as_fd(), begin).await;
            drop(theirs);
            match answered {
                Ok((head, end)) => Ok(assemble(head, ours, end, cancel, pump)),
                Err(error) => {
                    // The shim has already forgotten it.
                    cancel.armed = matches!(error, CallError::Shape(_));
                    Err(error)
                }
            }
        }
    }
}

/// Reads a body whole if it is known to be small, so that it costs no task.
pub async fn take_small<B>(mut body: B) -> Result<RequestBody<B>, B::Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let Some(size) = body.size_hint().exact().filter(|size| *size <= SMALL_BODY) else {
        return Ok(RequestBody::Stream(body));
    };
    if size == 0 {
        return Ok(RequestBody::Whole(Bytes::new()));
    }
    let mut whole: Option<BytesMut> = None;
    let mut first = Bytes::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        // The usual case is one frame: no copy.
        if first.is_empty() && whole.is_none() {
            first = data;
        } else {
            whole
                .get_or_insert_with(|| BytesMut::from(first.as_ref()))
                .extend_from_slice(&data);
        }
    }
    Ok(RequestBody::Whole(whole.map_or(first, BytesMut::freeze)))
}

pub(super) fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Sends a body from its byte `sent` on, which is where `body` begins. Whether it did not break itself: that the other end does not
/// want it is no fault of the body's.
pub(super) async fn send_body<B>(
    link: Arc<Link>,
    id: InvocationId,
    mut sent: u64,
    mut body: B,
    mut writer: OwnedWriteHalf,
) -> bool
where
    B: Body<Data = Bytes> + Unpin,
{
    while let Some(frame) = body.frame().await {
        // A broken request body (client gone, over the limit) is an abort: the stream closes without `body.end`.
        let Ok(frame) = frame else { return false };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if writer.write_all(&data).await.is_err() {
            // The agent answered without reading everything; that is its right.
            return true;
        }
        sent = sent.saturating_add(length(&data));
    }
    link.body_end(id, sent).await;
    let _ = writer.shutdown().await;
    true
}

pub(super) fn assemble(
    head: InvokeHead,
    stream: NearEnd,
    end: oneshot::Receiver<u64>,
    cancel: CancelOnDrop,
    pump: Option<AbortOnDropHandle<bool>>,
) -> Exchange {
    let expected = head.content_length;
    let mut body = ResponseBody {
        state: BodyState::Reading {
            stream,
            end,
            cancel,
        },
        buffer: BytesMut::new(),
        read: 0,
        expected,
        _pump: pump,
    };
    if expected == Some(0) {
        body.finish();
    }
    Exchange { head, body }
}

/// The agent's answer as it comes, unbuffered.
#[derive(Debug)]
pub struct ResponseBody {
    state: BodyState,
    buffer: BytesMut,
    read: u64,
    expected: Option<u64>,
    /// The request's body, while there is more of it.
    _pump: Option<AbortOnDropHandle<bool>>,
}

#[derive(Debug)]
enum BodyState {
    Reading {
        stream: NearEnd,
        end: oneshot::Receiver<u64>,
        cancel: CancelOnDrop,
    },
    /// End of file seen; waiting for `body.end`, or for the certainty that there was none.
    Ending {
        end: oneshot::Receiver<u64>,
        drained: oneshot::Receiver<()>,
        cancel: CancelOnDrop,
    },
    Over,
}

impl ResponseBody {
    /// Bytes read so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.read
    }

    /// To end it from elsewhere; `None` if it is over.
    #[must_use]
    pub fn cancel_handle(&self) -> Option<CancelHandle> {
        match &self.state {
            BodyState::Reading { cancel, .. } | BodyState::Ending { cancel, .. } => {
                Some(CancelHandle {
                    link: Arc::clone(&cancel.link),
                    id: cancel.id,
                })
            }
            BodyState::Over => None,
        }
    }

    /// What was read. A little is copied out: it may wait for a slow client, and all of the buffer with it.
    fn take(&mut self) -> Bytes {
        if self.buffer.len() > A_LITTLE {
            return self.buffer.split().freeze();
        }
        let data = Bytes::copy_from_slice(&self.buffer);
        self.buffer.clear();
        data
    }

    /// Complete: nothing to cancel any more.
    fn finish(&mut self) {
        if let BodyState::Reading { cancel, .. } = &mut self.state {
            cancel.armed = false;
        }
        self.state = BodyState::Over;
    }

    fn poll_ending(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let BodyState::Ending {
            end,
            drained,
            cancel,
        } = &mut self.state
        else {
            return Poll::Ready(None);
        };
        let said = match Pin::new(&mut *end).poll(cx) {
            Poll::Ready(said) => said.ok(),
            Poll::Pending => {
                let _ = ready!(Pin::new(drained).poll(cx));
                // It may have come between the two looks.
                end.try_recv().ok()
            }
        };
        let complete = said == Some(self.read);
        if complete {
            cancel.armed = false;
        }
        self.state = BodyState::Over;
        Poll::Ready(if complete {
            None
        } else {
            Some(Err(BodyError::Truncated))
        })
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let BodyState::Reading { stream, .. } = &mut this.state {
            let left = this
                .expected
                .map(|expected| expected.saturating_sub(this.read));
            let Poll::Ready(read) = stream.poll_read(cx, &mut this.buffer, read_size(left)) else {
                // A stream that waits for its agent holds no room for what may come: there can be thousands.
                if this.buffer.is_empty() {
                    this.buffer = BytesMut::new();
                }
                return Poll::Pending;
            };
            match read {
                Ok(0) => {}
                Ok(_) => {
                    let data = this.take();
                    this.read += length(&data);
                    match this.expected {
                        // With its length known, the last byte says that the body is complete; the client's side may
                        // never ask for more.
                        Some(expected) if expected == this.read => this.finish(),
                        Some(expected) if expected < this.read => {
                            this.state = BodyState::Over;
                            return Poll::Ready(Some(Err(BodyError::Truncated)));
                        }
                        Some(_) | None => {}
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Err(error) => {
                    this.state = BodyState::Over;
                    return Poll::Ready(Some(Err(BodyError::Io(error))));
                }
            }
            if let BodyState::Reading { end, cancel, .. } =
                std::mem::replace(&mut this.state, BodyState::Over)
            {
                this.state = BodyState::Ending {
                    end,
                    drained: cancel.link.drained(),
                    cancel,
                };
            }
        }
        this.poll_ending(cx)
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, BodyState::Over)
    }

    fn size_hint(&self) -> SizeHint {
        self.expected.map_or_else(SizeHint::default, |expected| {
            SizeHint::with_exact(expected.saturating_sub(self.read))
        })
    }
}

/// Most bytes that are copied rather than passed on where they were read.
const A_LITTLE: usize = 4096;

/// How much room to offer the next read: no more than what is known to come.
fn read_size(remaining: Option<u64>) -> usize {
    remaining
        .and_then(|left| usize::try_from(left).ok())
        .map_or(CHUNK, |left| left.clamp(1, CHUNK))
}
