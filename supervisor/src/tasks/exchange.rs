//! One attempt's exchange with the agent: the only place that knows how a task's request gets there and how its answer comes
//! back. Dropping it cancels the invocation.

use crate::relay::exchange::{self, BodyError, RequestBody};
use crate::relay::link::CallError;
use crate::session::handle::Work;
use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use proto::ids::InvocationId;
use proto::shim::{Invoke, InvokeHead};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

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

/// See the module.
#[derive(Debug)]
pub(super) struct Exchange {
    /// The answer's head.
    pub(super) head: InvokeHead,
    body: exchange::ResponseBody,
    _work: Work,
}

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
    /// Sends a request as the invocation of this id, and waits for the head of its answer.
    pub(super) async fn send(
        work: Work,
        id: InvocationId,
        mut request: Invoke,
        payload: Payload,
    ) -> Result<Self, SendError> {
        request.id = id;
        let body = match payload {
            Payload::Here(bytes) => RequestBody::Whole(bytes),
            Payload::Filed(path, bytes) => {
                request.content_length = Some(bytes);
                let open = tokio::task::spawn_blocking(move || File::open(path)).await;
                let file = open
                    .unwrap_or_else(|error| Err(io::Error::other(error)))
                    .map_err(SendError::Payload)?;
                RequestBody::Stream(Box::pin(StreamBody::new(frames(Arc::new(file), bytes))))
            }
        };
        let exchange = exchange::exchange(&work.link, request, body).await?;
        Ok(Self {
            head: exchange.head,
            body: exchange.body,
            _work: work,
        })
    }

    /// The next bytes of the answer; `None` is its end.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        loop {
            match self.body.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// A payload's file as a body; one that is shorter than it should be ends with an error.
fn frames(
    file: Arc<File>,
    bytes: u64,
) -> impl futures_util::Stream<Item = io::Result<http_body::Frame<Bytes>>> + Send {
    futures_util::stream::try_unfold((file, 0_u64, bytes), async |(file, at, bytes)| {
        if at >= bytes {
            return Ok(None);
        }
        let read = Arc::clone(&file);
        let piece = tokio::task::spawn_blocking(move || {
            let wanted = usize::try_from(bytes - at).unwrap_or(CHUNK).min(CHUNK);
            let mut buffer = vec![0; wanted];
            read.read_exact_at(&mut buffer, at)?;
            Ok(Bytes::from(buffer))
        });
        let piece = piece
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))?;
        let at = at + u64::try_from(piece.len()).unwrap_or(u64::MAX);
        Ok(Some((http_body::Frame::data(piece), (file, at, bytes))))
    })
}
