//! A broker for tests: the other end of the link, blocking, and of the body streams.

use crate::harness::{PATIENCE, wait_for};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proto::code::ErrorCode;
use proto::ids::InvocationId;
use proto::jsonrpc::{self, ErrorObject, MAX_PACKET, Message};
use proto::shim::{
    Attach, Attached, BodyEnd, GENERATION, Health, HealthStatus, Invoke, InvokeHead, Log, Shutdown,
};
use sandbox::seqpacket::Seqpacket;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

/// A notification and what came with it.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) method: String,
    pub(crate) params: Value,
    pub(crate) fds: Vec<OwnedFd>,
}

pub(crate) struct Broker {
    pub(crate) socket: Seqpacket,
    next_rpc: u64,
    next_invocation: u64,
    notifications: VecDeque<Heard>,
    answers: Vec<(u64, Result<Value, ErrorObject>)>,
    buffer: Vec<u8>,
    closed: bool,
}

/// An invocation under way.
pub(crate) struct Call {
    pub(crate) id: InvocationId,
    pub(crate) rpc: u64,
    pub(crate) stream: UnixStream,
}

/// What came of one.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: InvokeHead,
    pub(crate) body: Vec<u8>,
    /// What `body.end` said, if it was said.
    pub(crate) end: Option<u64>,
}

impl Answer {
    pub(crate) fn is_complete(&self) -> bool {
        self.end == Some(self.body.len() as u64)
    }

    pub(crate) fn text(&self) -> &str {
        assert!(self.is_complete(), "{self:?}");
        std::str::from_utf8(&self.body).expect("text")
    }
}

pub(crate) fn post(content_length: Option<u64>) -> Invoke {
    Invoke {
        id: InvocationId(0),
        method: "POST".to_owned(),
        target: "/invocations".to_owned(),
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        content_length,
        port: None,
        keep: None,
    }
}

impl Broker {
    /// Waits where a queue is full.
    pub(crate) fn connect(path: &Path) -> Self {
        let socket = wait_for("a place in the queue", || match Seqpacket::connect(path) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            connected => Some(connected.expect("connect")),
        });
        Self {
            socket,
            next_rpc: 1,
            next_invocation: 1,
            notifications: VecDeque::new(),
            answers: Vec::new(),
            buffer: vec![0; MAX_PACKET],
            closed: false,
        }
    }

    pub(crate) fn attach(&mut self, token: &str, epoch: u64) -> Result<Attached, ErrorCode> {
        let attach = Attach {
            token: token.to_owned(),
            epoch,
            generation: GENERATION,
        };
        let attached: Attached = self.call("attach", &attach)?;
        if let Some(health) = &attached.health {
            // What was told before anyone was there counts as told now.
            self.notifications.push_front(Heard {
                method: "health".to_owned(),
                params: serde_json::to_value(health).expect("json"),
                fds: Vec::new(),
            });
        }
        Ok(attached)
    }

    pub(crate) fn request<P: Serialize>(
        &mut self,
        method: &str,
        params: &P,
        fds: &[BorrowedFd<'_>],
    ) -> u64 {
        let rpc = self.next_rpc;
        self.next_rpc += 1;
        let packet = jsonrpc::request(rpc, method, params);
        self.socket.send(&packet, fds).expect("send");
        rpc
    }

    pub(crate) fn notify<P: Serialize>(&mut self, method: &str, params: &P) {
        let packet = jsonrpc::notification(method, params);
        self.socket.send(&packet, &[]).expect("send");
    }

    pub(crate) fn call<P: Serialize, R: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &P,
    ) -> Result<R, ErrorCode> {
        let rpc = self.request(method, params, &[]);
        self.answer(rpc)
    }

    pub(crate) fn answer<R: DeserializeOwned>(&mut self, rpc: u64) -> Result<R, ErrorCode> {
        self.answer_or_error(rpc)
            .map_err(|error| ErrorCode::from_rpc(error.code))
    }

    /// Waits for the answer to a request.
    pub(crate) fn answer_or_error<R: DeserializeOwned>(
        &mut self,
        rpc: u64,
    ) -> Result<R, ErrorObject> {
        loop {
            if let Some(at) = self.answers.iter().position(|(id, _)| *id == rpc) {
                return self
                    .answers
                    .remove(at)
                    .1
                    .map(|value| serde_json::from_value(value).expect("typed answer"));
            }
            assert!(self.hear(), "link closed before the answer to {rpc}");
        }
    }

    /// Waits for a notification; others stay queued.
    pub(crate) fn notification(&mut self, method: &str) -> Heard {
        self.try_notification(method)
            .unwrap_or_else(|| panic!("link closed before {method}: {:?}", self.notifications))
    }

    /// As above; `None` if the link is closed instead.
    pub(crate) fn try_notification(&mut self, method: &str) -> Option<Heard> {
        loop {
            let found = self.notifications.iter().position(|n| n.method == method);
            if let Some(heard) = found.and_then(|at| self.notifications.remove(at)) {
                return Some(heard);
            }
            if !self.hear() {
                return None;
            }
        }
    }

    /// Waits until the agent is healthy.
    pub(crate) fn healthy(&mut self) -> Health {
        loop {
            let heard = self.notification("health");
            let health: Health = serde_json::from_value(heard.params).expect("health");
            if health.status == HealthStatus::Healthy || health.status == HealthStatus::HealthyBusy
            {
                return health;
            }
        }
    }

    pub(crate) fn health(&mut self) -> Health {
        let heard = self.notification("health");
        serde_json::from_value(heard.params).expect("health")
    }

    pub(crate) fn log(&mut self) -> Log {
        let heard = self.notification("log");
        serde_json::from_value(heard.params).expect("log")
    }

    /// How many notifications of this kind have arrived and were not taken.
    pub(crate) fn queued(&mut self, method: &str) -> usize {
        while !self.closed && self.is_readable(PollTimeout::ZERO) && self.hear() {}
        self.notifications
            .iter()
            .filter(|heard| heard.method == method)
            .count()
    }

    /// The next `log` that has been heard already.
    pub(crate) fn queued_log(&mut self) -> Option<Log> {
        let at = self.notifications.iter().position(|n| n.method == "log")?;
        let heard = self.notifications.remove(at)?;
        Some(serde_json::from_value(heard.params).expect("log"))
    }

    pub(crate) fn shutdown(&mut self, grace_ms: u64) {
        self.notify("shutdown", &Shutdown { grace_ms });
    }

    /// Lets the ids of invocations go on from there, for those that outlive their broker.
    pub(crate) fn skip_invocations(&mut self, to: u64) {
        self.next_invocation = to;
    }

    /// Starts an invocation; the stream is the broker's end.
    pub(crate) fn begin(&mut self, invoke: Invoke) -> Call {
        self.begin_with(invoke, &[])
    }

    /// As above, with the first of the body in the stream already.
    pub(crate) fn begin_with(&mut self, mut invoke: Invoke, body: &[u8]) -> Call {
        let id = InvocationId(self.next_invocation);
        self.next_invocation += 1;
        invoke.id = id;
        let (mut stream, theirs) = UnixStream::pair().expect("pair");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
        stream.write_all(body).expect("body");
        let rpc = self.request("invoke", &invoke, &[theirs.as_fd()]);
        Call { id, rpc, stream }
    }

    /// Ends the request's body.
    pub(crate) fn end(&mut self, call: &Call, bytes: u64) {
        self.notify("body.end", &BodyEnd { id: call.id, bytes });
        call.stream
            .shutdown(std::net::Shutdown::Write)
            .expect("shutdown");
    }

    /// Reads the answer of a call to its end.
    pub(crate) fn finish(&mut self, mut call: Call) -> Result<Answer, ErrorObject> {
        let head: InvokeHead = self.answer_or_error(call.rpc)?;
        let mut body = Vec::new();
        if let Err(error) = call.stream.read_to_end(&mut body) {
            assert_ne!(
                error.kind(),
                std::io::ErrorKind::WouldBlock,
                "answer stalled"
            );
        }
        let end = self.body_end(call.id);
        Ok(Answer { head, body, end })
    }

    /// What `body.end` said of an invocation whose stream has ended: what is queued counts, nothing later.
    pub(crate) fn body_end(&mut self, id: InvocationId) -> Option<u64> {
        while self.is_readable(PollTimeout::ZERO) && self.hear() {}
        let end = |heard: &Heard| serde_json::from_value::<BodyEnd>(heard.params.clone()).ok();
        let at = self.notifications.iter().position(|heard| {
            heard.method == "body.end" && end(heard).is_some_and(|end| end.id == id)
        })?;
        let heard = self.notifications.remove(at)?;
        Some(end(&heard)?.bytes)
    }

    /// A whole invocation with a small body.
    pub(crate) fn invoke(&mut self, body: &[u8]) -> Result<Answer, ErrorObject> {
        let call = self.begin_with(post(Some(body.len() as u64)), body);
        self.finish(call)
    }

    /// Whether the shim closes the link (or has).
    pub(crate) fn is_closed_by_peer(&mut self) -> bool {
        while self.hear() {}
        self.closed
    }

    fn is_readable(&self, timeout: PollTimeout) -> bool {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, timeout).expect("poll") > 0
    }

    /// Takes one packet; false if the link is closed.
    pub(crate) fn hear(&mut self) -> bool {
        if self.closed {
            return false;
        }
        let patience = PollTimeout::try_from(PATIENCE).expect("timeout");
        let before = Instant::now();
        assert!(
            self.is_readable(patience),
            "nothing on the link for {:?}; queued: {:?}",
            before.elapsed(),
            self.notifications
        );
        let received = match self.socket.recv(&mut self.buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                self.closed = true;
                return false;
            }
            Err(error) => panic!("recv: {error}"),
        };
        assert!(!received.truncated, "packets fit");
        if received.len == 0 {
            self.closed = true;
            return false;
        }
        match jsonrpc::parse(&self.buffer[..received.len]).expect("a message") {
            Message::Request { method, .. } => panic!("a shim requests nothing: {method}"),
            Message::Notification { method, params } => self.notifications.push_back(Heard {
                method: method.into_owned(),
                params: serde_json::from_str(params.get()).expect("json"),
                fds: received.fds,
            }),
            Message::Response { id, outcome } => {
                assert!(received.fds.is_empty(), "no descriptors on answers");
                let outcome = outcome.map(|raw| serde_json::from_str(raw.get()).expect("json"));
                self.answers.push((id, outcome));
            }
        }
        true
    }
}
