//! One connection to a shim: handshake, calls with answers, notifications sorted to who waits for them.
//!
//! A reader task owns the receiving half and lives until the shim closes, breaks the protocol, or the last [`Link`] is
//! dropped. Whoever calls waits on a `oneshot`; what nobody asked for goes to the session's driver as [`ShimEvent`].

use crate::egress::agent_stream::AgentStream;
use crate::seqpacket::AsyncSeqpacket;
use proto::code::ErrorCode;
use proto::ids::{ExecId, InvocationId};
use proto::jsonrpc::{self, ErrorObject, MAX_PACKET, Message};
use proto::shim::{
    AgentExited, Attach, Attached, BodyEnd, Cancel, Claim, ClockGap, Egress, Ended, Exec,
    ExecExited, Execed, ExitStatus, Fault, Fork, Forked, GENERATION, Go, Health, Invoke,
    InvokeHead, Log, Resize, Shutdown, Signal, TemplateState,
};
use sandbox::seqpacket::Seqpacket;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

mod kept;
#[cfg(test)]
mod tests;

/// Events on their way to the driver. The shim batches and rate-limits; when the driver lags, the reader stops reading and
/// the shim's own bounded queue fills: a flooding session slows itself only.
const EVENT_QUEUE: usize = 64;

/// How long output that has come may be on its way to the driver: one of a flooding session takes it slowly.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(500);

/// What a shim says unasked.
#[derive(Debug)]
pub enum ShimEvent {
    /// Health changed.
    Health(Health),
    /// Lines of output.
    Log(Log),
    /// The agent process ended.
    AgentExited(AgentExited),
    /// The agent connected to the session's proxy port.
    Egress(Egress, AgentStream),
    /// Something is broken inside.
    Fault(Fault),
    /// What has become of a template.
    Template(TemplateState),
    /// A fork waits to be looked at: this process, as the shim says; whoever looks believes nothing of it.
    Forked(OwnedFd),
    /// The link is over: `Ok` if the shim closed it, the fault if it broke the protocol.
    Closed(Result<(), ProtocolFault>),
}

/// How a shim broke the protocol.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolFault {
    /// Not a message.
    #[error("unreadable packet")]
    Packet(#[from] jsonrpc::ParseError),
    /// A message with parameters that do not fit its method.
    #[error("parameters of `{method}` do not fit")]
    Params {
        /// The method.
        method: String,
        /// What did not fit.
        source: serde_json::Error,
    },
    /// A method that a shim does not have.
    #[error("unexpected message `{0}`")]
    Unexpected(String),
    /// Descriptors where none is due, or another kind than is due.
    #[error("a descriptor that is not due came with `{0}`")]
    Descriptor(String),
    /// The socket failed.
    #[error("link to the shim")]
    Io(#[from] io::Error),
}

/// Why a call to a shim has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The shim answered with an error.
    #[error("{}", .0.message)]
    Remote(ErrorObject),
    /// The link closed before the answer.
    #[error("the session ended before it answered")]
    LinkClosed,
    /// The answer's type does not fit.
    #[error("the shim's answer does not fit the protocol: {0}")]
    Shape(String),
    /// No stream could be made for it: the broker is out of descriptors.
    #[error("the daemon has no descriptor left for this: {0}")]
    NoStream(String),
    /// The order could not be sent.
    #[error("the order does not fit a packet ({0} bytes)")]
    TooLarge(usize),
}

impl CallError {
    /// The row of the table that this is.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Remote(error) => ErrorCode::from_rpc(error.code),
            Self::LinkClosed => ErrorCode::AgentClosed,
            Self::Shape(_) => ErrorCode::Internal,
            Self::NoStream(_) => ErrorCode::Throttled,
            Self::TooLarge(_) => ErrorCode::Validation,
        }
    }
}

/// One attached link; cheap to share.
#[derive(Debug)]
pub struct Link {
    socket: AsyncSeqpacket,
    /// Of this daemon.
    epoch: u64,
    next: AtomicU64,
    waiting: Mutex<Waiting>,
    /// Rung by [`Link::drained`].
    asked: Notify,
    output: Output,
}

/// Packets of output.
#[derive(Debug, Default)]
struct Output {
    came: AtomicU64,
    /// By the session's driver.
    taken: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Waiting {
    closed: bool,
    calls: HashMap<u64, oneshot::Sender<Result<Box<RawValue>, ErrorObject>>>,
    bodies: HashMap<InvocationId, PendingBody>,
    /// Who reads the answers of kept invocations, see [`kept`].
    kept: HashMap<InvocationId, oneshot::Sender<Ended>>,
    execs: HashMap<ExecId, oneshot::Sender<ExitStatus>>,
    /// Dropped when the reader has found the socket empty.
    drains: Vec<oneshot::Sender<()>>,
}

/// An invocation whose answer's body has not ended.
#[derive(Debug)]
struct PendingBody {
    end: oneshot::Sender<u64>,
    /// The order has left; before that there is nothing to cancel at the shim.
    sent: bool,
}

impl Link {
    /// Connects to the shim listening at `path` and shakes hands.
    pub async fn attach(
        path: &Path,
        token: &str,
        epoch: u64,
    ) -> Result<(Arc<Self>, Attached, mpsc::Receiver<ShimEvent>), AttachError> {
        // The listener exists before the shim does: the kernel queues the connection. A queue that is full is a shim's that
        // takes nobody.
        let socket = Seqpacket::connect(path).map_err(AttachError::Connect)?;
        let (link, receiver) = Self::over(socket, epoch).map_err(AttachError::Connect)?;
        let attached: Attached = link
            .call(
                "attach",
                &Attach {
                    token: token.to_owned(),
                    epoch,
                    generation: GENERATION,
                },
                &[],
            )
            .await?;
        if attached.generation != GENERATION {
            return Err(AttachError::Generation(attached.generation));
        }
        kept::check(&attached.kept).map_err(AttachError::Kept)?;
        Ok((link, attached, receiver))
    }

    /// A link over a connected socket, with nothing said yet.
    pub(super) fn over(
        socket: Seqpacket,
        epoch: u64,
    ) -> io::Result<(Arc<Self>, mpsc::Receiver<ShimEvent>)> {
        let link = Arc::new(Self {
            socket: AsyncSeqpacket::new(socket)?,
            epoch,
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            asked: Notify::new(),
            output: Output::default(),
        });
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        tokio::spawn(read(Arc::clone(&link), events));
        Ok((link, receiver))
    }

    /// The session's driver has taken a packet of output ([`ShimEvent::Log`]).
    pub fn took_output(&self) {
        self.output.taken.send_modify(|taken| *taken += 1);
    }

    /// Waits until the driver has taken all output that has come. Of a kept invocation whose end is known that is all that its
    /// agent wrote before it ended: its shim tells of it before. A driver that has ended takes no more, so not for long.
    pub async fn output_taken(&self) {
        let came = self.output.came.load(Ordering::Acquire);
        let mut taken = self.output.taken.subscribe();
        let all = taken.wait_for(|taken| *taken >= came);
        let _ = tokio::time::timeout(OUTPUT_PATIENCE, all).await;
    }

    /// A number for the next invocation or exec.
    pub fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Orders an invocation; the result is the agent's response head, the receiver tells the length of its body once
    /// the shim has sent all of it. `then` runs when the order has left.
    pub async fn invoke(
        &self,
        invoke: &Invoke,
        stream: BorrowedFd<'_>,
        then: impl FnOnce(),
    ) -> Result<(InvokeHead, oneshot::Receiver<u64>), CallError> {
        let (end, receiver) = oneshot::channel();
        let body = PendingBody { end, sent: false };
        self.waiting().bodies.insert(invoke.id, body);
        let sent = || {
            if let Some(body) = self.waiting().bodies.get_mut(&invoke.id) {
                body.sent = true;
            }
            then();
        };
        let head = self.call_noting("invoke", invoke, &[stream], sent).await;
        if head.is_err() {
            self.forget(invoke.id);
        }
        head.map(|head| (head, receiver))
    }

    /// Says that the request body of an invocation is complete.
    pub async fn body_end(&self, id: InvocationId, bytes: u64) {
        self.tell("body.end", &BodyEnd { id, bytes }).await;
    }

    /// Gives an invocation up. Never waits, so that it can be called from `drop`; if the queue is full just then, a task
    /// sends it. One whose order has not left, or whose body has ended, is only forgotten: a shim that does not read must
    /// not make this daemon collect such tasks.
    pub fn cancel(self: &Arc<Self>, id: InvocationId) {
        if !self.forget(id) {
            return;
        }
        self.send_soon(jsonrpc::notification("cancel", &Cancel { id }));
    }

    /// Sends without waiting; if the queue is full just then, a task does it.
    fn send_soon(self: &Arc<Self>, packet: Vec<u8>) {
        match self.socket.try_send(&packet, &[]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let link = Arc::clone(self);
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(async move { link.send_quietly(&packet, &[]).await });
                }
            }
            // A link that is gone has nobody to hear it.
            Ok(()) | Err(_) => {}
        }
    }

    /// Resolves (whether with a value or not means nothing) once every packet that the shim has sent by now has been sorted.
    /// A shim says `body.end` before it closes a stream: who sees the close and, after this, no `body.end`, has a body that
    /// was cut off.
    pub fn drained(&self) -> oneshot::Receiver<()> {
        let (drain, drained) = oneshot::channel();
        let mut waiting = self.waiting();
        if !waiting.closed {
            waiting.drains.push(drain);
            self.asked.notify_one();
        }
        drained
    }

    /// Forgets who waits for an invocation's body; whether the shim has the order, and has not said that it is over.
    fn forget(&self, id: InvocationId) -> bool {
        let body = self.waiting().bodies.remove(&id);
        body.is_some_and(|body| body.sent)
    }

    /// Starts one more process; the receiver tells how it ended.
    pub async fn exec(
        &self,
        exec: &Exec,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Execed, oneshot::Receiver<ExitStatus>), CallError> {
        let (end, receiver) = oneshot::channel();
        self.waiting().execs.insert(exec.id, end);
        let started = self.call("exec", exec, fds).await;
        if started.is_err() {
            self.waiting().execs.remove(&exec.id);
        }
        started.map(|execed| (execed, receiver))
    }

    /// Tells an exec its terminal's new size.
    pub async fn resize(&self, resize: Resize) {
        self.tell("resize", &resize).await;
    }

    /// Signals the agent or an exec.
    pub async fn signal(&self, signal: Signal) -> Result<(), CallError> {
        #[derive(serde::Deserialize)]
        struct Empty {}
        self.call::<_, Empty>("signal", &signal, &[])
            .await
            .map(|_| ())
    }

    /// Tells the shim that its session stood still.
    pub async fn clock_gap(&self, gap: ClockGap) {
        self.tell("clock-gap", &gap).await;
    }

    /// Makes a pool's member somebody's session, which lives for so long from now on.
    pub async fn claim(&self, max_lifetime: Duration) -> Result<(), CallError> {
        #[derive(serde::Deserialize)]
        struct Empty {}
        let max_lifetime_ms = u64::try_from(max_lifetime.as_millis()).unwrap_or(u64::MAX);
        self.call::<_, Empty>("claim", &Claim { max_lifetime_ms }, &[])
            .await
            .map(|_| ())
    }

    /// Gives a template, or the session of its next fork, one end of the channel between the two.
    pub async fn fork(&self, channel: BorrowedFd<'_>) -> Result<(), CallError> {
        #[derive(serde::Deserialize)]
        struct Empty {}
        self.call::<_, Empty>("fork", &Fork {}, &[channel])
            .await
            .map(|_| ())
    }

    /// Lets a fork that was looked at serve.
    pub async fn go(&self) {
        self.tell("go", &Go {}).await;
    }

    /// Tells the shim to end the session.
    pub async fn shutdown(&self, shutdown: Shutdown) {
        self.tell("shutdown", &shutdown).await;
    }

    async fn call<P: Serialize, R: DeserializeOwned>(
        &self,
        method: &str,
        params: &P,
        fds: &[BorrowedFd<'_>],
    ) -> Result<R, CallError> {
        self.call_noting(method, params, fds, || {}).await
    }

    /// As [`Self::call`]; `sent` runs when the request has left.
    async fn call_noting<P: Serialize, R: DeserializeOwned>(
        &self,
        method: &str,
        params: &P,
        fds: &[BorrowedFd<'_>],
        sent: impl FnOnce(),
    ) -> Result<R, CallError> {
        let id = self.next_id();
        let packet = jsonrpc::request(id, method, params);
        if packet.len() > MAX_PACKET {
            return Err(CallError::TooLarge(packet.len()));
        }
        let (answer, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            if waiting.closed {
                return Err(CallError::LinkClosed);
            }
            waiting.calls.insert(id, answer);
        }
        // Removes the entry also when the caller goes away while waiting.
        let _entry = CallEntry { link: self, id };
        if self.socket.send(&packet, fds).await.is_err() {
            return Err(CallError::LinkClosed);
        }
        sent();
        match receiver.await {
            Ok(Ok(raw)) => {
                jsonrpc::typed(&raw).map_err(|error| CallError::Shape(error.to_string()))
            }
            Ok(Err(error)) => Err(CallError::Remote(error)),
            Err(_closed) => Err(CallError::LinkClosed),
        }
    }

    async fn tell<P: Serialize>(&self, method: &str, params: &P) {
        self.send_quietly(&jsonrpc::notification(method, params), &[])
            .await;
    }

    /// A notification to a link that is gone has nobody to miss it; the reader reports the end.
    async fn send_quietly(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) {
        let _ = self.socket.send(packet, fds).await;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it holds the lock; if it did, the maps would still be whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct CallEntry<'a> {
    link: &'a Link,
    id: u64,
}

impl Drop for CallEntry<'_> {
    fn drop(&mut self) {
        self.link.waiting().calls.remove(&self.id);
    }
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The socket did not take the connection.
    #[error("connect to the shim")]
    Connect(#[source] io::Error),
    /// The handshake failed.
    #[error("handshake with the shim")]
    Handshake(#[from] CallError),
    /// What it says that it keeps cannot be.
    #[error("what the shim says of kept invocations cannot be: {0}")]
    Kept(&'static str),
    /// A shim of another generation.
    #[error("the shim speaks protocol generation {0}, this daemon {GENERATION}")]
    Generation(u32),
}

async fn read(link: Arc<Link>, events: mpsc::Sender<ShimEvent>) {
    let mut buffer = vec![0; MAX_PACKET];
    let outcome = loop {
        let received = tokio::select! {
            received = link.socket.recv(&mut buffer) => received,
            () = link.asked.notified() => {
                // Taken before looking: who asks in between is told by the next look.
                let drains = std::mem::take(&mut link.waiting().drains);
                match link.socket.try_recv(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    received => {
                        link.waiting().drains.extend(drains);
                        link.asked.notify_one();
                        received
                    }
                }
            }
            // The driver is gone: the session is over.
            () = events.closed() => break Ok(()),
        };
        let received = match received {
            Ok(received) if received.len == 0 => break Ok(()),
            Ok(received) => received,
            // It ended without having read all. That is told once, before its last words; its end comes after them.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => continue,
            Err(error) => break Err(ProtocolFault::Io(error)),
        };
        if received.truncated && !received.lost_fds {
            break Err(ProtocolFault::Descriptor("an oversized packet".to_owned()));
        }
        // Some that came and some that did not are more than anybody may send.
        let fds = if received.lost_fds && received.fds.is_empty() {
            Fds::Lost
        } else if received.lost_fds {
            break Err(ProtocolFault::Descriptor("a packet".to_owned()));
        } else {
            Fds::All(received.fds)
        };
        match sort(&link, &buffer[..received.len], fds) {
            Ok(None) => {}
            Ok(Some(event)) => {
                if let ShimEvent::Log(_) = &event {
                    link.output.came.fetch_add(1, Ordering::Release);
                }
                if events.send(event).await.is_err() {
                    break Ok(());
                }
            }
            Err(fault) => break Err(fault),
        }
    };
    {
        let mut waiting = link.waiting();
        // Dropping the senders tells everyone who waits.
        *waiting = Waiting {
            closed: true,
            ..Waiting::default()
        };
    }
    let _ = events.send(ShimEvent::Closed(outcome)).await;
}

/// What came along with a packet.
enum Fds {
    /// All that were sent.
    All(Vec<OwnedFd>),
    /// None of them: this daemon has no room for one more.
    Lost,
}

/// Gives a packet to who waits for it, or returns it as an event.
fn sort(link: &Link, packet: &[u8], fds: Fds) -> Result<Option<ShimEvent>, ProtocolFault> {
    let message = jsonrpc::parse(packet)?;
    let carries = |method: &str| ["egress", "forked"].contains(&method);
    let due =
        usize::from(matches!(&message, Message::Notification { method, .. } if carries(method)));
    let mut fds = match fds {
        Fds::All(fds) if fds.len() == due => fds,
        // One connection of the agent's breaks, or one fork is not seen; that this daemon has too many files open is not the session's fault.
        Fds::Lost if due == 1 => {
            tracing::warn!("an outbound connection, or a fork, was lost: too many open files");
            return Ok(None);
        }
        Fds::All(_) | Fds::Lost => return Err(ProtocolFault::Descriptor("a packet".to_owned())),
    };
    match message {
        Message::Response { id, outcome } => {
            // An answer that nobody waits for any more is late, not wrong.
            if let Some(caller) = link.waiting().calls.remove(&id) {
                let _ = caller.send(outcome.map(ToOwned::to_owned));
            }
            Ok(None)
        }
        Message::Notification { method, params } => {
            let event = match method.as_ref() {
                "body.end" => {
                    let end: BodyEnd = typed(&method, params)?;
                    if let Some(body) = link.waiting().bodies.remove(&end.id) {
                        let _ = body.end.send(end.bytes);
                    }
                    return Ok(None);
                }
                "ended" => {
                    let ended: Ended = typed(&method, params)?;
                    if let Some(reader) = link.waiting().kept.remove(&ended.id) {
                        let _ = reader.send(ended);
                    }
                    return Ok(None);
                }
                "exec.exited" => {
                    let exited: ExecExited = typed(&method, params)?;
                    if let Some(exec) = link.waiting().execs.remove(&exited.id) {
                        let _ = exec.send(exited.status);
                    }
                    return Ok(None);
                }
                "health" => ShimEvent::Health(typed(&method, params)?),
                "log" => ShimEvent::Log(typed(&method, params)?),
                "agent.exited" => ShimEvent::AgentExited(typed(&method, params)?),
                "fault" => ShimEvent::Fault(typed(&method, params)?),
                "egress" => {
                    let egress = typed(&method, params)?;
                    let fd = fds
                        .pop()
                        .ok_or_else(|| ProtocolFault::Descriptor("egress".to_owned()))?;
                    ShimEvent::Egress(egress, inet_stream(fd)?)
                }
                "template" => ShimEvent::Template(typed(&method, params)?),
                "forked" => {
                    let Forked { .. } = typed(&method, params)?;
                    let fd = fds
                        .pop()
                        .ok_or_else(|| ProtocolFault::Descriptor("forked".to_owned()))?;
                    ShimEvent::Forked(fd)
                }
                _ => return Err(ProtocolFault::Unexpected(method.into_owned())),
            };
            Ok(Some(event))
        }
        Message::Request { method, .. } => Err(ProtocolFault::Unexpected(method.into_owned())),
    }
}

fn typed<T: DeserializeOwned>(method: &str, params: &RawValue) -> Result<T, ProtocolFault> {
    jsonrpc::typed(params).map_err(|source| ProtocolFault::Params {
        method: method.to_owned(),
        source,
    })
}

/// The one descriptor that a shim may pass: an INET stream socket. Anything else (a file on a file system that never
/// answers, say) is a fault, found without reading from it. Asked of the socket, not of its peer: one that has closed
/// already has no name.
fn inet_stream(fd: OwnedFd) -> Result<AgentStream, ProtocolFault> {
    use nix::sys::socket::{
        AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
    };
    use std::os::fd::AsRawFd;
    let kind = getsockopt(&fd.as_fd(), sockopt::SockType).ok();
    let family = getsockname::<SockaddrStorage>(fd.as_raw_fd())
        .ok()
        .and_then(|own| own.family());
    let inet = matches!(family, Some(AddressFamily::Inet | AddressFamily::Inet6));
    if kind != Some(SockType::Stream) || !inet {
        return Err(ProtocolFault::Descriptor("egress".to_owned()));
    }
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(true)?;
    Ok(AgentStream::new(stream)?)
}
