//! One `invoke`: a request from the broker's stream to the agent, its answer from the agent to the stream.
//!
//! ```text
//!  broker's stream ──recv──▶ Upload ──frame──▶ agent's connection
//!  broker's stream ◀──send── Download ◀─decode─ agent's connection
//! ```
//!
//! The two directions run side by side and end on their own. Each moves one piece at a time through the shim's one
//! scratch buffer; what the far side does not take waits in this exchange (at most one piece), and until it is gone
//! nothing more is read. So the kernel's buffers do the backpressure and memory does not depend on a body's size.
//!
//! - **Upload** ends when the declared length has gone, or when `body.end` and the bytes agree. A stream that ends
//!   otherwise is an abort: the agent's connection is closed, its request stays visibly incomplete.
//! - **Download** ends where the answer's framing says so; then `body.end` goes out on the link, and only when that packet
//!   has left is the stream closed. Anything else closes the stream without it.
//! - An answer that comes before its request was taken in full is complete all the same; the rest of the request is read
//!   and thrown away for [`LINGER`], so that the broker's writes do not fail under it.
//!
//! One that is **kept** ([`proto::shim::kept`]) does not end with its stream, and gives its answer to a [`Spool`], from which the
//! stream that is there has it. What of the request is in a stream whose broker is gone is taken all the same; then the
//! upload is cut, until another stream goes on. When it ends, its connection to the agent is let go and the rest of it waits
//! to be settled ([`settling`]).

pub mod body;
mod download;
pub mod head;
pub(crate) mod port;
pub(crate) mod request;
mod settling;
mod spool;
mod table;
mod upload;

pub(crate) use table::Invocations;

use crate::link::{Link, Ticket};
use crate::poller::{Poller, Token};
use crate::socket::{Read, Socket};
use body::Decoder;
use head::Asked;
use nix::errno::Errno;
use port::{AgentPorts, Connection};
use proto::code::ErrorCode;
use proto::ids::InvocationId;
use proto::shim::{Kept, Resume};
use request::{Request, RequestFraming};
use spool::Spool;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long the rest of a request is thrown away after its answer is complete.
const LINGER: Duration = Duration::from_secs(2);

/// How long the end of an answer that ends with its connection is held back (its bytes are not). If the agent's process
/// died, that is what closed the connection, and the answer is cut short; but the SIGCHLD comes after the end of file, on a
/// busy machine by some time slices. HTTP/1.1 servers frame their answers, so hardly anyone waits for this.
const DOUBT: Duration = Duration::from_millis(50);

/// Largest piece moved at once. Larger ones gain nothing: it is what a socket buffer has room for.
const PIECE: usize = 64 * 1024;

/// Pieces of one direction moved in one turn; then the others have theirs.
const PIECES_PER_TURN: usize = 8;

/// When a waiting exchange begins to watch the broker's stream for a hang-up. A caller that goes away is told by `cancel`;
/// the quick answers, which are many, need not pay for this second way.
/// (Not below 20 ms: a shorter wait costs the loop one more system call, see [`crate::poller`].)
const WATCH_AFTER: Duration = Duration::from_millis(25);

/// What an exchange works with.
pub(crate) struct Io<'a> {
    pub(crate) poller: &'a Poller,
    pub(crate) link: &'a mut Link,
    pub(crate) ports: &'a mut AgentPorts,
    pub(crate) scratch: &'a mut [u8],
}

/// Why an exchange ends without a complete answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    code: ErrorCode,
    text: String,
}

impl Failure {
    fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    pub(crate) fn cancelled(text: &str) -> Self {
        Self::new(ErrorCode::Cancelled, text)
    }

    pub(crate) fn closed(text: &str) -> Self {
        Self::new(ErrorCode::AgentClosed, text)
    }

    /// Its deadline is over.
    fn overdue() -> Self {
        Self::new(
            ErrorCode::AgentTimeout,
            "the agent did not answer before the deadline",
        )
    }

    /// Cannot be: what ended without an answer's head has a reason.
    fn unknown() -> Self {
        Self::new(ErrorCode::Internal, "the invocation ended")
    }

    fn unreachable(error: Errno) -> Self {
        Self::new(
            ErrorCode::AgentUnreachable,
            format!("connect: {}", error.desc()),
        )
    }
}

/// What an exchange needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// An event.
    Waits,
    /// Another turn, at once.
    More,
    /// The stream has ended: whatever is queued on the link must be taken before that is judged.
    DrainLink,
    /// To be looked at again at this time.
    Until(Instant),
    /// Nothing: it is over.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upload {
    /// Reading the stream.
    Open,
    /// The stream's end is there, its `body.end` is not (yet).
    Ended,
    /// The same, of one that is kept: another stream may go on.
    Cut,
    /// An upgrade was offered; what comes is the other protocol's.
    Held,
    /// All of it is in `out`.
    Complete,
    /// All of it is sent, and an upgraded connection was told so.
    Told,
    /// The agent's side no longer takes it; whether that matters, the answer tells.
    Refused,
}

enum Download {
    /// Collecting the head.
    Head { bytes: Vec<u8>, interim: u32 },
    /// Passing the body on.
    Body(Decoder),
    /// The connection that ends the body has ended; see [`DOUBT`].
    Doubtful { until: Instant },
    /// Complete; `body.end` is under way.
    Complete { said: Ticket },
    /// Complete and closed; the rest of the request is thrown away.
    Lingering { until: Instant },
}

/// See the module.
pub(crate) struct Exchange {
    id: InvocationId,
    serial: u64,
    /// The request to answer, until it is answered.
    rpc: Option<u64>,
    /// There always is one, unless it is kept.
    stream: Option<Socket>,
    /// Set if it is kept.
    spool: Option<Box<Spool>>,
    agent: Connection,
    asked: Asked,
    idempotent: bool,
    framing: RequestFraming,
    upload: Upload,
    /// Bytes read from the stream.
    taken: u64,
    /// What `body.end` said.
    declared: Option<u64>,
    /// Bytes for the agent, sent up to `out_at`.
    out: Vec<u8>,
    out_at: usize,
    download: Download,
    keep_alive: bool,
    /// Bytes for the stream, sent up to `back_at`.
    back: Vec<u8>,
    back_at: usize,
    /// Body bytes for the stream so far.
    given: u64,
    watch_at: Instant,
}

impl Exchange {
    fn new(
        id: InvocationId,
        serial: u64,
        rpc: u64,
        (stream, spool): (Socket, Option<Box<Spool>>),
        request: Request,
        agent: Connection,
        now: Instant,
    ) -> Self {
        Self {
            id,
            serial,
            rpc: Some(rpc),
            stream: Some(stream),
            spool,
            agent,
            asked: request.asked,
            idempotent: request.idempotent,
            upload: match request.framing {
                RequestFraming::Length(0) => Upload::Complete,
                RequestFraming::Length(_) | RequestFraming::Chunked => Upload::Open,
                RequestFraming::Upgrade => Upload::Held,
            },
            framing: request.framing,
            taken: 0,
            declared: None,
            out: request.head,
            out_at: 0,
            download: Download::Head {
                bytes: Vec::new(),
                interim: 0,
            },
            keep_alive: false,
            back: Vec::new(),
            back_at: 0,
            given: 0,
            watch_at: now + WATCH_AFTER,
        }
    }

    pub(crate) fn stream(&mut self) -> Option<&mut Socket> {
        self.stream.as_mut()
    }

    pub(crate) fn agent(&mut self) -> &mut Connection {
        &mut self.agent
    }

    /// `body.end` came.
    pub(crate) fn note_end(&mut self, bytes: u64) -> Result<(), Failure> {
        let contradicted = self.declared.is_some_and(|before| before != bytes)
            || matches!(self.framing, RequestFraming::Length(length) if length != bytes)
            || bytes < self.taken;
        if contradicted {
            let text = "body.end contradicts the request's length";
            return Err(Failure::new(ErrorCode::BadOrder, text));
        }
        self.declared = Some(bytes);
        Ok(())
    }

    /// Everything that was on the link before the stream's end has been taken.
    pub(crate) fn note_drained(&self) -> Result<(), Failure> {
        if self.upload == Upload::Ended && self.declared.is_none() {
            return Err(Failure::cancelled("the request was cut short"));
        }
        Ok(())
    }

    /// The agent's process has ended badly.
    pub(crate) fn note_agent_died(&self) -> Result<(), Failure> {
        match self.download {
            Download::Doubtful { .. } => Err(Failure::closed("the agent died while it answered")),
            Download::Head { .. }
            | Download::Body(_)
            | Download::Complete { .. }
            | Download::Lingering { .. } => Ok(()),
        }
    }

    /// What is told of it, if it is kept.
    fn kept(&self, now: Instant) -> Option<Kept> {
        let spool = self.spool.as_ref()?;
        Some(spool.kept(self.id, self.taken, now))
    }

    /// Its broker is gone. Whether it goes on.
    fn orphan(&mut self) -> bool {
        if self.spool.is_none() {
            return false;
        }
        self.rpc = None;
        self.unhear();
        true
    }

    /// Nobody hears the answer of one that is kept. What is in the stream of its request is still to be taken.
    fn unhear(&mut self) {
        if let Some(spool) = &mut self.spool {
            spool.unheard();
        }
        if self.upload != Upload::Open {
            self.stream = None;
        }
    }

    /// A broker goes on with one that is kept, in the place of whoever did before.
    fn resume(&mut self, rpc: u64, order: &Resume, stream: OwnedFd, link: &mut Link) {
        let Some(spool) = &mut self.spool else {
            let text = "this invocation is not kept".to_owned();
            return link.refuse(rpc, ErrorCode::BadOrder, text);
        };
        if let Err(text) = spool.resume(order, self.taken) {
            return link.refuse(rpc, ErrorCode::BadOrder, text);
        }
        self.stream = Some(Socket::new(stream));
        if self.upload == Upload::Cut {
            self.upload = Upload::Open;
        }
        if let Some(before) = self.rpc.take() {
            let text = "another order goes on with it".to_owned();
            link.refuse(before, ErrorCode::Conflict, text);
        }
        match &spool.head {
            Some(head) => link.answer(rpc, head),
            None => self.rpc = Some(rpc),
        }
    }

    /// Takes out what is left of one that is kept and ends.
    fn leave(&mut self) -> Option<(Box<Spool>, Option<Socket>)> {
        let spool = self.spool.take()?;
        Some((spool, self.stream.take()))
    }

    /// Ends it early. Dropping the stream without `body.end` says that its bytes are not a whole answer.
    pub(crate) fn fail(self, failure: Failure, link: &mut Link) {
        if let Some(rpc) = self.rpc {
            link.refuse(rpc, failure.code, failure.text);
        }
    }

    /// Ends it after [`Turn::Over`]; its connection may serve again.
    pub(crate) fn finish(self, ports: &mut AgentPorts, now: Instant) {
        let complete = matches!(self.download, Download::Complete { .. });
        if complete && self.keep_alive && self.upload == Upload::Told {
            ports.keep(self.agent, now);
        }
    }

    /// Moves what can be moved, for a turn.
    pub(crate) fn turn(&mut self, io: &mut Io<'_>, now: Instant) -> Result<Turn, Failure> {
        if let Download::Lingering { until } = self.download {
            return self.throw_away(until, io, now);
        }
        for _ in 0..PIECES_PER_TURN {
            let up = self.upload(io)?;
            let down = self.download(io, now)?;
            match self.download {
                Download::Complete { said } if self.back.is_empty() => {
                    if !io.link.is_sent(said) {
                        return Ok(Turn::Waits);
                    }
                    if self.more_is_coming() && self.spool.is_none() {
                        if let Some(stream) = &self.stream {
                            stream.finish();
                        }
                        let until = now + LINGER;
                        self.download = Download::Lingering { until };
                        return self.throw_away(until, io, now);
                    }
                    return Ok(Turn::Over);
                }
                Download::Doubtful { until } => return Ok(Turn::Until(until)),
                Download::Head { .. }
                | Download::Body(_)
                | Download::Complete { .. }
                | Download::Lingering { .. } => {}
            }
            if self.upload == Upload::Ended {
                return Ok(Turn::DrainLink);
            }
            if self.stream.as_ref().is_some_and(Socket::is_hung_up) {
                if self.spool.is_none() {
                    return Err(Failure::cancelled("the caller closed its stream"));
                }
                self.unhear();
            }
            if !up && !down {
                let answer_waits = match &self.spool {
                    Some(spool) => spool.is_waiting(),
                    None => !self.back.is_empty(),
                };
                let needs_stream = answer_waits || self.upload == Upload::Open;
                if !needs_stream && self.spool.is_some() {
                    // That its caller goes away is nothing to watch for.
                    return Ok(Turn::Waits);
                }
                if !needs_stream && now < self.watch_at {
                    return Ok(Turn::Until(self.watch_at));
                }
                self.watch_stream(io.poller)?;
                return Ok(Turn::Waits);
            }
        }
        Ok(Turn::More)
    }

    /// Whether the broker has, or may have, more of the request to write.
    fn more_is_coming(&self) -> bool {
        let whole = match self.framing {
            RequestFraming::Length(length) => Some(length),
            RequestFraming::Chunked | RequestFraming::Upgrade => self.declared,
        };
        matches!(self.upload, Upload::Open | Upload::Refused) && whole != Some(self.taken)
    }

    fn throw_away(
        &mut self,
        until: Instant,
        io: &mut Io<'_>,
        now: Instant,
    ) -> Result<Turn, Failure> {
        if now >= until {
            return Ok(Turn::Over);
        }
        for _ in 0..PIECES_PER_TURN {
            let Some(stream) = &mut self.stream else {
                return Ok(Turn::Over);
            };
            if !stream.is_readable() {
                self.watch_stream(io.poller)?;
                return Ok(Turn::Until(until));
            }
            match stream.read(io.scratch) {
                Read::Data(n) => self.taken += n as u64,
                Read::Blocked => {}
                Read::End | Read::Failed(_) => return Ok(Turn::Over),
            }
            if !self.more_is_coming() {
                return Ok(Turn::Over);
            }
        }
        Ok(Turn::More)
    }

    fn watch_stream(&mut self, poller: &Poller) -> Result<(), Failure> {
        let token = Token::Stream(self.serial);
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        stream
            .watch(poller, token)
            .map_err(|error| Failure::new(ErrorCode::BadOrder, format!("stream: {error}")))
    }
}
