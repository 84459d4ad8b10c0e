//! A kept invocation that has ended: what is left of its answer, and its outcome, until a broker has both.
//!
//! It has no connection to the agent any more. Its stream is closed once all of the answer is in it and `ended` has left.

use super::spool::Spool;
use super::{Failure, Io};
use crate::link::{Link, Ticket};
use crate::poller::Token;
use crate::socket::Socket;
use proto::ids::InvocationId;
use proto::jsonrpc::ErrorObject;
use proto::shim::{Ended, Kept, Resume};
use std::os::fd::OwnedFd;
use std::time::Instant;

/// See the module.
pub(super) struct Settling {
    pub(super) id: InvocationId,
    serial: u64,
    pub(super) spool: Box<Spool>,
    stream: Option<Socket>,
    /// Of the request.
    uploaded: u64,
    failure: Option<Failure>,
    /// `ended`, on its way to who hears this stream.
    said: Option<Ticket>,
}

impl Settling {
    pub(super) fn new(
        id: InvocationId,
        serial: u64,
        (spool, stream): (Box<Spool>, Option<Socket>),
        uploaded: u64,
        failure: Option<Failure>,
    ) -> Self {
        let mut settling = Self {
            id,
            serial,
            spool,
            stream,
            uploaded,
            failure,
            said: None,
        };
        // The error of the call has said everything.
        if settling.spool.head.is_none() {
            settling.lose_stream();
        }
        settling
    }

    pub(super) fn stream(&mut self) -> Option<&mut Socket> {
        self.stream.as_mut()
    }

    pub(super) fn lose_stream(&mut self) {
        self.spool.unheard();
        self.stream = None;
        self.said = None;
    }

    pub(super) fn kept(&self, now: Instant) -> Kept {
        Kept {
            ended: true,
            ..self.spool.kept(self.id, self.uploaded, now)
        }
    }

    /// A broker wants what is left of it.
    pub(super) fn resume(&mut self, rpc: u64, order: &Resume, stream: OwnedFd, link: &mut Link) {
        let Some(head) = self.spool.head.clone() else {
            let failure = self.failure.clone().unwrap_or_else(Failure::unknown);
            return link.refuse(rpc, failure.code, failure.text);
        };
        if let Err(text) = self.spool.resume(order, self.uploaded) {
            return link.refuse(rpc, proto::code::ErrorCode::BadOrder, text);
        }
        self.stream = Some(Socket::new(stream));
        self.said = None;
        link.answer(rpc, &head);
    }

    /// Moves what can be moved.
    pub(super) fn turn(&mut self, io: &mut Io<'_>) {
        if let Some(stream) = &mut self.stream {
            self.spool.send(stream);
            if self.spool.is_waiting() {
                let token = Token::Stream(self.serial);
                if stream.watch(io.poller, token).is_err() {
                    self.lose_stream();
                }
                return;
            }
        }
        if !self.spool.is_heard() {
            return self.lose_stream();
        }
        let said = match self.said {
            Some(said) => said,
            None => io.link.notify("ended", &self.ended()),
        };
        self.said = Some(said);
        if io.link.is_sent(said) {
            self.lose_stream();
        }
    }

    fn ended(&self) -> Ended {
        Ended {
            id: self.id,
            bytes: self.spool.produced(),
            failure: self.failure.as_ref().map(|failure| ErrorObject {
                code: failure.code.row().rpc,
                message: failure.text.clone(),
            }),
        }
    }
}
