//! One attempt's exchange with the agent: the only place that knows how a task's request gets there and how its answer comes
//! back. It is a kept one ([`crate::relay::kept`]): it goes on in its session whatever becomes of this daemon, until its
//! outcome is written down here.

use crate::relay::exchange::RequestBody;
use crate::relay::kept::{self, KeptError, KeptExchange, Piece};
use crate::relay::link::{CallError, Link};
use bytes::Bytes;
use http_body_util::StreamBody;
use proto::ids::InvocationId;
use proto::shim::{Invoke, InvokeHead, Kept};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What goes to the agent.
#[derive(Debug, Clone)]
pub(super) enum Payload {
    /// Here.
    Here(Bytes),
    /// In a file.
    Filed(PathBuf, u64),
}

/// Bytes read at a time from a payload's file.
const CHUNK: usize = 64 * 1024;

/// How long a shim may take to read that bytes are safe. One that does not is in trouble of its own.
const ACK_PATIENCE: Duration = Duration::from_secs(10);

/// An invocation on a session's link. Whatever came of it, it is [`settled`](Self::settled) once that is written down.
#[derive(Debug, Clone)]
pub(super) struct Invocation {
    pub link: Arc<Link>,
    pub id: InvocationId,
}

impl Invocation {
    /// What came of it is written down: the shim may forget it. One that may go on is ended.
    pub(super) fn settled(&self, over: bool) {
        if !over {
            self.link.cancel_kept(self.id);
        }
        self.link.settle(self.id);
    }

    /// Sends a request, and waits for the head of its answer.
    pub(super) async fn begin(
        &self,
        deadline: Duration,
        mut request: Invoke,
        payload: Payload,
    ) -> Result<Exchange, SendError> {
        let body = match payload {
            Payload::Here(bytes) => RequestBody::Whole(bytes),
            Payload::Filed(path, bytes) => {
                request.content_length = Some(bytes);
                file_from(path, 0, bytes).await?
            }
        };
        let exchange = kept::begin(&self.link, self.id, deadline, request, body).await?;
        Ok(Exchange(exchange))
    }

    /// Goes on with one that was kept, from a byte of its answer on.
    pub(super) async fn resume(
        &self,
        kept: &Kept,
        from: u64,
        payload: Payload,
    ) -> Result<Exchange, SendError> {
        let rest = match payload {
            Payload::Here(bytes) => {
                let at = usize::try_from(kept.uploaded).unwrap_or(usize::MAX);
                RequestBody::Whole(bytes.slice(at.min(bytes.len())..))
            }
            Payload::Filed(path, bytes) => file_from(path, kept.uploaded.min(bytes), bytes).await?,
        };
        let exchange = kept::resume(&self.link, kept, from, rest).await?;
        Ok(Exchange(exchange))
    }
}

/// An answer whose head is there.
#[derive(Debug)]
pub(super) struct Exchange(KeptExchange);

/// Why a request could not be sent, or was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// Its payload cannot be read.
    #[error("its payload cannot be read")]
    Payload(#[source] io::Error),
    /// The session.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl Exchange {
    /// The agent's head.
    pub(super) fn head(&self) -> &InvokeHead {
        &self.0.head
    }

    /// What comes next.
    pub(super) async fn next(&mut self) -> Result<Piece, KeptError> {
        self.0.next().await
    }

    /// The answer's first `bytes` bytes are in its file.
    pub(super) async fn ack(&mut self, bytes: u64) {
        // A shim that does not listen has its answer stop by itself.
        let _late = tokio::time::timeout(ACK_PATIENCE, self.0.ack(bytes)).await;
    }
}

type FileBody = StreamBody<
    std::pin::Pin<
        Box<dyn futures_util::Stream<Item = io::Result<http_body::Frame<Bytes>>> + Send + 'static>,
    >,
>;

/// A payload's file as a body, from a place on; one that is shorter than it should be ends with an error.
async fn file_from(
    path: PathBuf,
    from: u64,
    bytes: u64,
) -> Result<RequestBody<FileBody>, SendError> {
    let file = super::answer::blocking(move || File::open(path)).await;
    let file = Arc::new(file.map_err(SendError::Payload)?);
    let frames =
        futures_util::stream::try_unfold((file, from, bytes), async |(file, at, bytes)| {
            if at >= bytes {
                return Ok(None);
            }
            let read = Arc::clone(&file);
            let piece = super::answer::blocking(move || {
                let wanted = usize::try_from(bytes - at).unwrap_or(CHUNK).min(CHUNK);
                let mut buffer = vec![0; wanted];
                read.read_exact_at(&mut buffer, at)?;
                Ok(Bytes::from(buffer))
            });
            let piece = piece.await?;
            let at = at + u64::try_from(piece.len()).unwrap_or(u64::MAX);
            Ok(Some((http_body::Frame::data(piece), (file, at, bytes))))
        });
    Ok(RequestBody::Stream(StreamBody::new(Box::pin(frames))))
}
