//! The part of a link that kept invocations have ([`proto::shim::kept`]): their ids, their orders, and what a shim may say of
//! them.

use super::{CallError, Link};
use proto::ids::InvocationId;
use proto::jsonrpc;
use proto::shim::{
    Ack, Cancel, Ended, Invoke, InvokeHead, KEPT_WINDOW, Kept, MAX_KEEP_MS, MAX_KEPT, Resume,
    Settle,
};
use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Marks the ids of kept invocations: ordinary ones count from 1 on each link and never come so far.
const KEPT: u64 = 1 << 62;

/// The head of a kept invocation, and where the end of its answer will be told.
pub(in super::super) type Answered = (InvokeHead, oneshot::Receiver<Ended>);

impl Link {
    /// An id for an invocation that is to be kept: no other daemon on this state gives it to one of this session, so it can
    /// be written down before the order is given.
    pub fn kept_id(&self) -> InvocationId {
        let epoch = (self.epoch & 0x3fff_ffff) << 32;
        InvocationId(KEPT | epoch | (self.next_id() & 0xffff_ffff))
    }

    /// Orders an invocation that is to be kept. `sent` runs when the order has left.
    pub(in super::super) async fn begin_kept(
        &self,
        invoke: &Invoke,
        stream: BorrowedFd<'_>,
        sent: impl FnOnce(),
    ) -> Result<Answered, CallError> {
        let end = self.reads(invoke.id);
        let head = self.call_noting("invoke", invoke, &[stream], sent).await?;
        Ok((head, end))
    }

    /// Orders that one goes on. `sent` runs when the order has left.
    pub(in super::super) async fn resume_kept(
        &self,
        resume: &Resume,
        stream: BorrowedFd<'_>,
        sent: impl FnOnce(),
    ) -> Result<Answered, CallError> {
        let end = self.reads(resume.id);
        let head = self.call_noting("resume", resume, &[stream], sent).await?;
        Ok((head, end))
    }

    /// Says that so many bytes of a kept answer are safe here. Waits while the shim does not read.
    pub(in super::super) async fn ack(&self, id: InvocationId, bytes: u64) {
        self.tell("ack", &Ack { id, bytes }).await;
    }

    /// Says that the outcome of a kept invocation is safe here; never waits. Of one that is not known (it was refused when it
    /// began, say) nobody minds.
    pub fn settle(self: &Arc<Self>, id: InvocationId) {
        self.waiting().kept.remove(&id);
        self.send_soon(jsonrpc::notification("settle", &Settle { id }));
    }

    /// Ends a kept invocation; never waits. Its outcome is told as every other, and is to be settled.
    pub fn cancel_kept(self: &Arc<Self>, id: InvocationId) {
        self.send_soon(jsonrpc::notification("cancel", &Cancel { id }));
    }

    /// Enters who reads an answer, in place of whoever did before.
    fn reads(&self, id: InvocationId) -> oneshot::Receiver<Ended> {
        let (end, receiver) = oneshot::channel();
        let mut waiting = self.waiting();
        // A reader that is gone needs no place: there are as many as there are readers.
        waiting.kept.retain(|_, reader| !reader.is_closed());
        if !waiting.closed {
            waiting.kept.insert(id, end);
        }
        receiver
    }
}

/// Whether a shim can keep that; the sentence says why not.
pub(super) fn check(kept: &[Kept]) -> Result<(), &'static str> {
    if kept.len() > MAX_KEPT {
        return Err("there are more than may be");
    }
    let mut ids = HashSet::new();
    for one in kept {
        if one.id.0 & KEPT == 0 || !ids.insert(one.id) {
            return Err("an id is no kept one's, or there twice");
        }
        match one.produced.checked_sub(one.acked) {
            Some(waiting) if waiting <= KEPT_WINDOW => {}
            Some(_) | None => return Err("an answer's counts do not fit each other"),
        }
        if one.left_ms > MAX_KEEP_MS {
            return Err("a deadline is further away than may be");
        }
    }
    Ok(())
}
