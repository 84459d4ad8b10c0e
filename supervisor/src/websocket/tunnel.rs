//! Both directions of an open WebSocket, and its end.
//!
//! ```text
//!  caller ──▶ up: frames of a client, refused over their rate ──▶ agent
//!  caller ◀── down: frames of a server, slowed to their rate ◀── agent
//! ```
//!
//! A direction waits for its far side, so the kernels' buffers do the backpressure. Whatever ends one ends the other:
//!
//! - **A close frame** passes on; the other side has [`CLOSE_PATIENCE`] for its own.
//! - **A caller that is gone** without one takes the agent's connection along at once.
//! - **An agent that is gone** without one is told to the caller: 1011, or 1001 if its session was stopped.
//! - **A bound** (a frame too big: 1009; too many: 1008; the connection too old: 1001) or what is no WebSocket (1002; if it was
//!   the agent: 1011) is told to both, each after the frame that it is just getting; who does not take that in
//!   [`FAREWELL`] finds its connection closed.
//!
//! A caller over its rate is refused, as the contract has it; an agent is slowed down, because its caller would pay for it.

use super::close::{Close, CloseCode};
use super::frames::{Frames, Side, Violation};
use super::pace::Pace;
use crate::relay::exchange::ResponseBody;
use crate::relay::upgrade::ToAgent;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// How long a side may take to answer a close, and to close its connection.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// How long a side may take to get the rest of its frame and the close after it.
const FAREWELL: Duration = Duration::from_secs(2);

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// The contract's bounds (§6), as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Payload of a frame.
    pub max_frame: u64,
    /// Frames each way in a second; a second's worth may come at once.
    pub frames_per_second: u32,
    /// Age of the connection.
    pub duration: Duration,
}

/// Where the bytes of a direction come from.
pub trait Source {
    /// Adds what has come to `held`; `false` at the end, whatever its kind. Loses nothing if it is dropped while it waits.
    fn more(&mut self, held: &mut BytesMut) -> impl Future<Output = bool>;
}

/// Where the bytes of a direction go.
pub trait Sink {
    /// Sends all of it; `false` if nobody takes it any more.
    fn send(&mut self, bytes: Bytes) -> impl Future<Output = bool>;

    /// Says that there is no more.
    fn finish(self) -> impl Future<Output = ()>;
}

/// A caller's half.
#[derive(Debug)]
pub struct Caller<S>(pub S);

impl<S: AsyncRead + Unpin> Source for Caller<S> {
    async fn more(&mut self, held: &mut BytesMut) -> bool {
        held.reserve(CHUNK);
        matches!(self.0.read_buf(held).await, Ok(1..))
    }
}

impl<S: AsyncWrite + Unpin> Sink for Caller<S> {
    async fn send(&mut self, bytes: Bytes) -> bool {
        self.0.write_all(&bytes).await.is_ok()
    }

    async fn finish(mut self) {
        // A connection that is gone needs no end.
        let _ = self.0.shutdown().await;
    }
}

impl Source for ResponseBody {
    async fn more(&mut self, held: &mut BytesMut) -> bool {
        let Some(Ok(frame)) = self.frame().await else {
            return false;
        };
        if let Ok(data) = frame.into_data() {
            held.extend_from_slice(&data);
        }
        true
    }
}

impl Sink for ToAgent {
    async fn send(&mut self, bytes: Bytes) -> bool {
        Self::send(self, bytes).await.is_ok()
    }

    async fn finish(self) {
        Self::finish(self).await;
    }
}

/// How a direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With a close frame.
    Closed,
    /// Its source has no more.
    Over,
    /// Nobody takes it any more.
    Unheard,
    /// Its source may send no more.
    Bad(Violation),
}

/// One direction.
struct Direction<I, O> {
    side: Side,
    frames: Frames,
    pace: Pace,
    source: I,
    sink: O,
    /// What has come and has not passed: the beginning of a head, mostly nothing.
    held: BytesMut,
    /// A piece is being sent; if that is given up, nobody knows how much of it went.
    sending: bool,
}

impl<I: Source, O: Sink> Direction<I, O> {
    fn new(side: Side, bounds: &Bounds, source: I, sink: O) -> Self {
        Self {
            side,
            frames: Frames::new(side, bounds.max_frame),
            pace: Pace::new(bounds.frames_per_second),
            source,
            sink,
            held: BytesMut::new(),
            sending: false,
        }
    }

    /// Until it ends.
    async fn run(&mut self) -> End {
        loop {
            if let Some(end) = self.step(self.pace.left()).await {
                return end;
            }
        }
    }

    /// Passes what has come on, or waits for more.
    async fn step(&mut self, most_frames: u32) -> Option<End> {
        let judged = self.frames.judge(&self.held, most_frames);
        self.pace.take(judged.frames);
        if judged.pass > 0 {
            let piece = self.held.split_to(judged.pass).freeze();
            self.sending = true;
            if !self.sink.send(piece).await {
                return Some(End::Unheard);
            }
            self.sending = false;
        }
        match judged.violation {
            Some(Violation::TooMany) if self.side == Side::Server => {
                tokio::time::sleep(self.pace.each()).await;
                return None;
            }
            Some(violation) => return Some(End::Bad(violation)),
            None if self.frames.is_closed() => return Some(End::Closed),
            None => {}
        }
        let more = judged.pass > 0 || self.source.more(&mut self.held).await;
        (!more).then_some(End::Over)
    }

    /// Ends what its sink gets: the rest of the frame at hand, and a close if there was none.
    async fn say(&mut self, close: &Close) {
        let said = async {
            while !self.sending && !self.frames.at_boundary() {
                let end = self.step(0).await;
                if matches!(end, Some(End::Over | End::Unheard)) {
                    return;
                }
            }
            if !self.sending && !self.frames.is_closed() {
                self.sink.send(close.frame(self.side)).await;
            }
        };
        // Whoever takes nothing in this time is not told.
        let _ = timeout(FAREWELL, said).await;
    }

    /// Reads the source to its end and throws it away.
    async fn drain(source: &mut I) {
        let mut held = BytesMut::new();
        while source.more(&mut held).await {
            held.clear();
        }
    }
}

/// What ended the connection first.
enum First {
    Up(End),
    Down(End),
    Told(Close),
}

/// Carries an open WebSocket to its end. `told` resolves if this end has to close it; `agent_gone` says, once the agent has
/// closed its connection without a close frame, why.
pub async fn tunnel<I1: Source, O1: Sink, I2: Source, O2: Sink>(
    caller: (I1, O1),
    agent: (I2, O2),
    bounds: Bounds,
    told: impl Future<Output = Close>,
    agent_gone: impl Future<Output = Close>,
) {
    let mut up = Direction::new(Side::Client, &bounds, caller.0, agent.1);
    let mut down = Direction::new(Side::Server, &bounds, agent.0, caller.1);
    let first = tokio::select! {
        end = up.run() => First::Up(end),
        end = down.run() => First::Down(end),
        close = told => First::Told(close),
        () = tokio::time::sleep(bounds.duration) => First::Told(Close::new(
            CloseCode::GoingAway,
            format!("open for {} s (limits.websocket_duration); connect again", bounds.duration.as_secs()),
        )),
    };
    let close = match first {
        // Dropping the agent's halves cancels the exchange.
        First::Up(End::Over) | First::Down(End::Unheard) => return,
        First::Told(close) => close,
        First::Up(End::Bad(violation)) => of_caller(violation),
        First::Down(End::Bad(violation)) => of_agent(violation),
        First::Up(End::Closed) => {
            // The agent's answer, or what it has still to say before it.
            let _ = timeout(CLOSE_PATIENCE, down.run()).await;
            Close::new(CloseCode::Normal, "")
        }
        First::Down(End::Closed) => {
            let _ = timeout(CLOSE_PATIENCE, up.run()).await;
            Close::new(CloseCode::Normal, "")
        }
        // It may have said why before it went.
        First::Up(End::Unheard) => match timeout(CLOSE_PATIENCE, down.run()).await {
            Ok(End::Unheard) => return,
            Ok(_) | Err(_) => agent_gone.await,
        },
        First::Down(End::Over) => agent_gone.await,
    };
    tokio::join!(up.say(&close), down.say(&close));
    let ends = async {
        tokio::join!(up.sink.finish(), down.sink.finish());
        tokio::join!(
            Direction::<I1, O2>::drain(&mut up.source),
            Direction::<I2, O1>::drain(&mut down.source),
        );
    };
    let _ = timeout(CLOSE_PATIENCE, ends).await;
}

fn of_caller(violation: Violation) -> Close {
    let code = match violation {
        Violation::Protocol(_) => CloseCode::Protocol,
        Violation::TooBig { .. } => CloseCode::TooBig,
        Violation::TooMany => CloseCode::Policy,
    };
    Close::new(code, violation.to_string())
}

fn of_agent(violation: Violation) -> Close {
    let code = match violation {
        Violation::TooBig { .. } => CloseCode::TooBig,
        Violation::Protocol(_) | Violation::TooMany => CloseCode::Error,
    };
    Close::new(code, format!("the agent sent {violation}"))
}

#[cfg(test)]
mod tests;
