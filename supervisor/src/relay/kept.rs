//! One HTTP exchange with an agent that outlives this daemon ([`proto::shim::kept`]): the head, then pieces of the answer, then
//! the outcome.
//!
//! ```text
//!  id = link.kept_id() ─▶ written down ─▶ begin(…) ─▶ next() … ack(…) ─▶ next() = End(outcome) ─▶ written down ─▶ settle()
//!       another daemon: SessionHandle::take_kept() ─▶ resume(…) ─┘
//! ```
//!
//! Dropping one, or the future of [`begin`] or [`resume`], cancels nothing: the invocation goes on in its session, and its
//! answer waits there. [`Link::cancel_kept`] ends it, and [`Link::settle`] makes the shim forget it. Settling is due for every
//! one that was begun, once what came of it is written down; where [`begin`], [`resume`] or [`KeptExchange::next`] came back
//! with an error, after a `cancel_kept`, because that may have been this end's error only.
//!
//! What the shim says is not believed: an answer is complete only if its bytes and its `ended` agree.

use super::exchange::{CHUNK, RequestBody, SMALL_BODY, length, send_body};
use super::link::{CallError, Link};
use super::near_end::{self, NearEnd};
use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::Full;
use proto::ids::InvocationId;
use proto::jsonrpc::ErrorObject;
use proto::shim::{Ended, Invoke, InvokeHead, KEPT_WINDOW, Keep, Kept, MAX_KEEP_MS, Resume};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio_util::task::AbortOnDropHandle;

#[cfg(test)]
mod tests;

/// How many bytes may be safe here without the shim knowing: it needs to hear of them only before its window is full.
const ACK_EVERY: u64 = KEPT_WINDOW / 4;

/// What comes next of a kept answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the answer, the ones after those before.
    Data(Bytes),
    /// It is over.
    End(Outcome),
}

/// How a kept answer ended. All its bytes have been given before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is whole.
    Complete,
    /// It is not; [`proto::code::ErrorCode::from_rpc`] tells the kind.
    Failed(ErrorObject),
}

/// Why an answer's bytes or its end cannot be read. The invocation may go on all the same.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The link is closed: the session has ended, or this daemon's time with it.
    #[error("the session's link closed in the middle of the answer")]
    LinkClosed,
    /// The shim closed the stream and did not say why.
    #[error("the answer's stream was closed without its end")]
    NoEnd,
    /// What the shim said and what it sent are not the same.
    #[error("the shim sent {read} bytes of the answer and says that it has {said}")]
    Disagrees {
        /// How many came, counted from the answer's beginning.
        read: u64,
        /// How many it should have.
        said: u64,
    },
}

/// A kept invocation whose answer's head is there.
#[derive(Debug)]
pub struct KeptExchange {
    /// The agent's head.
    pub head: InvokeHead,
    link: Arc<Link>,
    id: InvocationId,
    stream: Option<NearEnd>,
    end: End,
    /// Once the stream has ended: until what the shim said before that has been heard.
    drained: Option<oneshot::Receiver<()>>,
    buffer: BytesMut,
    /// Where the answer goes on.
    at: u64,
    acked: u64,
    /// The request's body, while there is more of it.
    _pump: Option<AbortOnDropHandle<()>>,
}

/// What the shim says of the end.
#[derive(Debug)]
enum End {
    Awaited(oneshot::Receiver<Ended>),
    Said(Ended),
    /// The link is closed.
    Never,
}

/// Begins an invocation that is kept until `deadline`, and waits for the agent's head. A body that breaks cancels it. `id` is from [`Link::kept_id`] of this
/// link. A request that is not whole here has its length in `request.content_length`, if that is known.
pub async fn begin<B>(
    link: &Arc<Link>,
    id: InvocationId,
    deadline: Duration,
    request: Invoke,
    body: RequestBody<B>,
) -> Result<KeptExchange, CallError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Send,
{
    let content_length = match &body {
        RequestBody::Whole(bytes) => Some(length(bytes)),
        RequestBody::Stream(_) => request.content_length,
    };
    let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
    let invoke = Invoke {
        id,
        content_length,
        keep: Some(Keep {
            deadline_ms: deadline_ms.clamp(1, MAX_KEEP_MS),
        }),
        ..request
    };
    let (near, theirs, mut upload) = open(link, id, body).await?;
    let answered = link
        .begin_kept(&invoke, theirs.as_fd(), || upload.start())
        .await;
    drop(theirs);
    let (head, end) = answered?;
    Ok(KeptExchange::new(link, id, 0, head, (near, end), upload))
}

/// Goes on with an invocation that a shim has kept, with the answer's byte `from`: all before it is safe here. `rest` is the
/// request from byte [`Kept::uploaded`] on.
pub async fn resume<B>(
    link: &Arc<Link>,
    kept: &Kept,
    from: u64,
    rest: RequestBody<B>,
) -> Result<KeptExchange, CallError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Send,
{
    let order = Resume {
        id: kept.id,
        from,
        request_from: kept.uploaded,
    };
    let (near, theirs) = near_end::pair().map_err(no_stream)?;
    let rest = match rest {
        RequestBody::Whole(bytes) => Rest::Whole(Full::new(bytes)),
        RequestBody::Stream(body) => Rest::Stream(body),
    };
    let mut upload = Upload::idle(link, kept.id, kept.uploaded);
    let near = upload.leave(near, rest)?;
    let answered = link
        .resume_kept(&order, theirs.as_fd(), || upload.start())
        .await;
    drop(theirs);
    let (head, end) = answered?;
    Ok(KeptExchange::new(
        link,
        kept.id,
        from,
        head,
        (near, end),
        upload,
    ))
}

fn no_stream(error: io::Error) -> CallError {
    CallError::NoStream(error.to_string())
}

/// A stream with as much of the request in it as fits.
async fn open<B>(
    link: &Arc<Link>,
    id: InvocationId,
    body: RequestBody<B>,
) -> Result<(NearEnd, OwnedFd, Upload<B>), CallError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Send,
{
    let (mut near, theirs) = near_end::pair().map_err(no_stream)?;
    let mut upload = Upload::idle(link, id, 0);
    let near = match body {
        // Its length is declared, which is its end.
        RequestBody::Whole(bytes) if length(&bytes) <= SMALL_BODY => {
            // Fits the socket's buffer, so this does not wait for a reader.
            near.write_all(&bytes).await.map_err(no_stream)?;
            near
        }
        RequestBody::Whole(bytes) => upload.leave(near, Rest::Whole(Full::new(bytes)))?,
        RequestBody::Stream(body) => upload.leave(near, Rest::Stream(body))?,
    };
    Ok((near, theirs, upload))
}

/// What of a request is not in the stream when the order is given. It is sent, with its end, once the order has left: the shim
/// must know the invocation before it hears of its end.
struct Upload<B> {
    link: Arc<Link>,
    id: InvocationId,
    from: u64,
    rest: Option<(Rest<B>, OwnedWriteHalf)>,
    pump: Option<AbortOnDropHandle<()>>,
}

enum Rest<B> {
    Whole(Full<Bytes>),
    Stream(B),
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Send,
{
    fn idle(link: &Arc<Link>, id: InvocationId, from: u64) -> Self {
        Self {
            link: Arc::clone(link),
            id,
            from,
            rest: None,
            pump: None,
        }
    }

    /// Takes the writing half for `rest`.
    fn leave(&mut self, near: NearEnd, rest: Rest<B>) -> Result<NearEnd, CallError> {
        let (reader, writer) = near.split().map_err(no_stream)?;
        self.rest = Some((rest, writer));
        Ok(reader)
    }

    fn start(&mut self) {
        let (link, id, from) = (Arc::clone(&self.link), self.id, self.from);
        let pump = match self.rest.take() {
            None => return,
            Some((Rest::Whole(body), writer)) => tokio::spawn(async move {
                send_body(link, id, from, body, writer).await;
            }),
            Some((Rest::Stream(body), writer)) => tokio::spawn(async move {
                // To the shim it looks like a broker that was killed, and the agent would wait for the rest up to its deadline.
                if !send_body(Arc::clone(&link), id, from, body, writer).await {
                    link.cancel_kept(id);
                }
            }),
        };
        self.pump = Some(AbortOnDropHandle::new(pump));
    }
}

impl KeptExchange {
    fn new<B>(
        link: &Arc<Link>,
        id: InvocationId,
        from: u64,
        head: InvokeHead,
        (stream, end): (NearEnd, oneshot::Receiver<Ended>),
        upload: Upload<B>,
    ) -> Self {
        Self {
            head,
            link: Arc::clone(link),
            id,
            stream: Some(stream),
            end: End::Awaited(end),
            drained: None,
            buffer: BytesMut::new(),
            at: from,
            acked: from,
            _pump: upload.pump,
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> InvocationId {
        self.id
    }

    /// How many bytes of the whole answer have been given by now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.at
    }

    /// What comes next. Giving up the wait loses nothing. After an end or an error there is nothing more.
    pub async fn next(&mut self) -> Result<Piece, KeptError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Says that the answer's first `bytes` bytes are safe: a daemon that is killed now does not lose them. The shim hears of it
    /// now and then, and needs to: without it the answer stops at [`KEPT_WINDOW`]. Waits while the shim does not read, so it
    /// wants a bound.
    pub async fn ack(&mut self, bytes: u64) {
        let bytes = bytes.min(self.at);
        if bytes.saturating_sub(self.acked) >= ACK_EVERY {
            self.link.ack(self.id, bytes).await;
            self.acked = bytes;
        }
    }

    /// Ends the invocation; the end is told by [`Self::next`].
    pub fn cancel(&self) {
        self.link.cancel_kept(self.id);
    }

    /// The outcome is safe here: the shim may forget it.
    pub fn settle(self) {
        self.link.settle(self.id);
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, KeptError>> {
        if let Some(stream) = &mut self.stream {
            match stream.poll_read(cx, &mut self.buffer, CHUNK) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    let data = self.buffer.split().freeze();
                    self.at = self.at.saturating_add(length(&data));
                    return Poll::Ready(Ok(Piece::Data(data)));
                }
                // Its end, or what the kernel makes of one where the shim had not taken all of the request.
                Poll::Ready(Ok(_) | Err(_)) => {
                    self.stream = None;
                    self.drained = Some(self.link.drained());
                }
                // There can be thousands that wait: none holds room for what may come.
                Poll::Pending => self.buffer = BytesMut::new(),
            }
        }
        self.poll_end(cx)
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, KeptError>> {
        if let End::Awaited(end) = &mut self.end {
            match Pin::new(&mut *end).poll(cx) {
                Poll::Ready(Ok(ended)) => self.end = End::Said(ended),
                Poll::Ready(Err(_closed)) => self.end = End::Never,
                Poll::Pending => {
                    let Some(drained) = &mut self.drained else {
                        return Poll::Pending;
                    };
                    let _ = ready!(Pin::new(drained).poll(cx));
                    self.drained = None;
                    // It may have come between the two looks.
                    match end.try_recv() {
                        Ok(ended) => self.end = End::Said(ended),
                        Err(TryRecvError::Closed) => self.end = End::Never,
                        Err(TryRecvError::Empty) => {}
                    }
                }
            }
        }
        Poll::Ready(match &self.end {
            // What is left in the stream is the answer's all the same. But a shim that says its end and leaves the stream
            // open is not waited for.
            End::Said(ended) if self.stream.is_some() && self.at < ended.bytes => {
                return Poll::Pending;
            }
            End::Never if self.stream.is_some() => return Poll::Pending,
            End::Said(ended) if self.at != ended.bytes => Err(KeptError::Disagrees {
                read: self.at,
                said: ended.bytes,
            }),
            End::Said(ended) => Ok(Piece::End(match &ended.failure {
                None => Outcome::Complete,
                Some(failure) => Outcome::Failed(failure.clone()),
            })),
            End::Never => Err(KeptError::LinkClosed),
            End::Awaited(_) => Err(KeptError::NoEnd),
        })
    }
}
