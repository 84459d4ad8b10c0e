//! An exchange that offers an upgrade: after the agent's 101 both directions are raw bytes.
//!
//! It is one more invocation over the one path: the request's body is what the caller sends after the switch, the answer's
//! body what the agent sends. Dropping either half early cancels it, which closes the agent's connection.

use super::exchange::{CancelOnDrop, ResponseBody, assemble, length};
use super::link::{CallError, Link};
use super::near_end;
use bytes::Bytes;
use proto::ids::InvocationId;
use proto::shim::{Invoke, InvokeHead};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;

/// The agent's answer to an offer: if its status is 101, the other halves are raw; if not, it is an answer like any other.
#[derive(Debug)]
pub struct Upgrade {
    /// The agent's head.
    pub head: InvokeHead,
    /// From the agent.
    pub from_agent: ResponseBody,
    /// To the agent.
    pub to_agent: ToAgent,
}

/// See [`Upgrade`]. Dropped without [`ToAgent::finish`] it is an abort.
#[derive(Debug)]
pub struct ToAgent {
    link: Arc<Link>,
    id: InvocationId,
    writer: OwnedWriteHalf,
    sent: u64,
}

/// Offers the upgrade that `request` has in its headers, and waits for the agent's head.
pub async fn upgrade(link: &Arc<Link>, mut request: Invoke) -> Result<Upgrade, CallError> {
    let id = InvocationId(link.next_id());
    request.id = id;
    request.content_length = None;
    let no_stream = |error: io::Error| CallError::NoStream(error.to_string());
    let (ours, theirs) = near_end::pair().map_err(no_stream)?;
    let (ours, writer) = ours.split().map_err(no_stream)?;
    let mut cancel = CancelOnDrop {
        link: Arc::clone(link),
        id,
        armed: true,
    };
    match link.invoke(&request, theirs.as_fd(), || {}).await {
        Ok((mut head, end)) => {
            // What follows a 101 has no length, whatever its head says.
            head.content_length = head.content_length.filter(|_| head.status != 101);
            Ok(Upgrade {
                from_agent: assemble(head.clone(), ours, end, cancel, None).body,
                head,
                to_agent: ToAgent {
                    link: Arc::clone(link),
                    id,
                    writer,
                    sent: 0,
                },
            })
        }
        Err(error) => {
            // The shim has already forgotten it.
            cancel.armed = matches!(error, CallError::Shape(_));
            Err(error)
        }
    }
}

impl ToAgent {
    /// Sends all of it; waits while the agent does not read. An error: it never will.
    pub async fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        self.sent += length(&bytes);
        self.writer.write_all(&bytes).await
    }

    /// The caller has said everything: the agent sees the end of its input.
    pub async fn finish(mut self) {
        self.link.body_end(self.id, self.sent).await;
        // A stream that is closed already has its end.
        let _ = self.writer.shutdown().await;
    }
}
