//! A stream of events that breaks off is told to its client by a last event, where the protocol has one for it (MCP, AG-UI): a
//! client of such a stream waits for events, not for the end of a connection.

use crate::api::answer::AnswerBody;
use crate::relay::exchange::BodyError;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Ends an event.
const END_OF_EVENT: &[u8] = b"\n\n";

/// The last event of a stream that breaks off over this.
type Last = Box<dyn FnOnce(&BodyError) -> Bytes + Send>;

/// See the module.
pub(super) struct Closing {
    body: AnswerBody,
    /// What is said then; until the stream has broken off.
    last: Option<Last>,
    /// Whether what has passed is whole events.
    between: bool,
}

impl Closing {
    /// The stream, and what to say if it breaks off.
    pub(super) fn new(
        body: AnswerBody,
        last: impl FnOnce(&BodyError) -> Bytes + Send + 'static,
    ) -> Self {
        Self {
            body,
            last: Some(Box::new(last)),
            between: true,
        }
    }
}

impl Body for Closing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.last.is_none() {
            return Poll::Ready(None);
        }
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Err(broken)) => {
                let Some(last) = self.last.take() else {
                    return Poll::Ready(None);
                };
                // In the middle of an event nothing can be said that would not make a whole one of what has passed of it.
                Poll::Ready(Some(if self.between {
                    Ok(Frame::data(last(&broken)))
                } else {
                    Err(broken)
                }))
            }
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) {
                    self.between = data.ends_with(END_OF_EVENT) || data.ends_with(b"\r\n\r\n");
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // A declared length could not be kept.
        SizeHint::default()
    }
}
