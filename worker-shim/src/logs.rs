//! The agent's output: pipes ▸ lines ▸ a bounded buffer ▸ `log` packets.
//!
//! A flood must cost its agent, not anyone else (security bar R10):
//! - Each wake-up reads at most one piece per pipe. While lines are being dropped a pipe is read at most once per
//!   [`FLOOD_PAUSE`], so a flooding agent is slowed to some 64 MB/s, never stopped, and the loop stays free for invocations.
//! - A token bucket ([`bucket`]) decides which lines are passed on; the buffer ([`store`]) is bounded by the same burst.
//!   What neither takes is dropped and counted; of an agent that ends the newest dropped lines are passed on ([`lost`]).
//! - Packets are made only when the link is idle, so a log never stands before an answer, and a full link blocks nothing. But for
//!   the end of a kept invocation: what its agent wrote before is told before (a task's last report is part of its outcome).

mod bucket;
mod lines;
mod lost;
mod store;

use crate::poller::{Poller, Token, Watch};
use bucket::Bucket;
use lines::Lines;
use lost::Lost;
use proto::jsonrpc;
use proto::shim::{Log, LogStream, ShimLimits};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use store::Store;

/// Bytes read from a pipe at once: what a pipe holds.
const PIECE: usize = 64 * 1024;

/// How long a pipe rests after a piece of which lines were dropped.
const FLOOD_PAUSE: Duration = Duration::from_millis(1);

/// How long an unfinished line is waited for: a prompt or a progress bar is shown all the same.
const UNFINISHED: Duration = Duration::from_secs(1);

/// Most bytes read from one pipe after its agent's end: the pipe's own content, and some of what others still write.
const LAST_BYTES: usize = 256 * 1024;

struct Source {
    stream: LogStream,
    pipe: Option<File>,
    lines: Lines,
    lost: Lost,
    /// Not watched until then.
    rests_until: Option<Instant>,
    /// An unfinished line is passed on then.
    unfinished_until: Option<Instant>,
}

/// See the module.
pub(crate) struct Logs {
    started: Instant,
    sources: [Source; 2],
    bucket: Bucket,
    store: Store,
    /// Lines dropped since the last packet.
    dropped: u64,
}

impl Logs {
    pub(crate) fn new(limits: &ShimLimits, started: Instant) -> Self {
        let source = |stream| Source {
            stream,
            pipe: None,
            lines: Lines::default(),
            lost: Lost::default(),
            rests_until: None,
            unfinished_until: None,
        };
        Self {
            started,
            sources: [source(LogStream::Stdout), source(LogStream::Stderr)],
            bucket: Bucket::new(limits.log_bytes_per_s, limits.log_burst_bytes, started),
            store: Store::new(usize::try_from(limits.log_burst_bytes).unwrap_or(usize::MAX)),
            dropped: 0,
        }
    }

    /// Takes the reading ends of the agent's output pipes; they must be non-blocking.
    pub(crate) fn open(&mut self, pipes: [OwnedFd; 2], poller: &Poller) -> io::Result<()> {
        for (index, (source, pipe)) in self.sources.iter_mut().zip(pipes).enumerate() {
            poller.add(&pipe, Token::Output(index as u64), Watch::Reading)?;
            source.pipe = Some(File::from(pipe));
        }
        Ok(())
    }

    /// A pipe is readable.
    pub(crate) fn ready(&mut self, index: u64, scratch: &mut [u8], poller: &Poller, now: Instant) {
        let Ok(index) = usize::try_from(index) else {
            return;
        };
        let before = self.dropped;
        let more = self.read(index, scratch, now);
        if let Some(source) = self.sources.get_mut(index) {
            if more == Pipe::Ended {
                source.pipe = None;
            } else if self.dropped > before {
                source.rests_until = Some(now + FLOOD_PAUSE);
                source.watch(index, poller, Watch::Nothing);
            }
        }
    }

    /// Takes what the pipes hold now, without waiting for the poller to tell. A pipe that rests, rests.
    pub(crate) fn take_now(&mut self, scratch: &mut [u8], poller: &Poller, now: Instant) {
        for index in 0..self.sources.len() {
            let source = self.sources.get(index);
            if source.is_some_and(|source| source.pipe.is_some() && source.rests_until.is_none()) {
                self.ready(index as u64, scratch, poller, now);
            }
        }
    }

    /// Reads on where a pipe has rested; says when to come again.
    pub(crate) fn tick(&mut self, poller: &Poller, now: Instant) -> Option<Instant> {
        for index in 0..self.sources.len() {
            let unfinished = self.sources.get(index).and_then(|s| s.unfinished_until);
            if unfinished.is_some_and(|until| until <= now) {
                self.end_lines(index, now);
            }
        }
        for (index, source) in self.sources.iter_mut().enumerate() {
            if source.rests_until.is_some_and(|until| until <= now) {
                source.rests_until = None;
                source.watch(index, poller, Watch::Reading);
            }
        }
        self.sources
            .iter()
            .flat_map(|source| [source.rests_until, source.unfinished_until])
            .flatten()
            .min()
    }

    /// The agent is gone: takes what its pipes still hold. Whoever else holds them may go on writing, so this is bounded.
    pub(crate) fn take_last(&mut self, scratch: &mut [u8], now: Instant) {
        for index in 0..self.sources.len() {
            let mut left = LAST_BYTES / PIECE;
            while left > 0 && self.read(index, scratch, now) == Pipe::More {
                left -= 1;
            }
            self.end_lines(index, now);
        }
    }

    /// Whether there is something to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.store.is_empty() && self.dropped == 0
    }

    /// The next packet, if there is anything to tell.
    pub(crate) fn packet(&mut self) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        let log = Log {
            lines: self.store.take(),
            dropped: std::mem::take(&mut self.dropped),
        };
        Some(jsonrpc::notification("log", &log))
    }

    fn read(&mut self, index: usize, scratch: &mut [u8], now: Instant) -> Pipe {
        let Some(source) = self.sources.get_mut(index) else {
            return Pipe::Ended;
        };
        let Some(pipe) = &mut source.pipe else {
            return Pipe::Ended;
        };
        let limit = scratch.len().min(PIECE);
        let n = loop {
            match pipe.read(&mut scratch[..limit]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Pipe::Empty,
                Ok(0) | Err(_) => {
                    self.end_lines(index, now);
                    return Pipe::Ended;
                }
                Ok(n) => break n,
            }
        };
        let at_ms = millis(now.duration_since(self.started));
        self.bucket.refill(now);
        let mut admission = Admission {
            bucket: &mut self.bucket,
            store: &mut self.store,
            dropped: &mut self.dropped,
            stream: source.stream,
            at_ms,
        };
        let lost = &mut source.lost;
        source.lines.take(&scratch[..n], |line, rest| {
            if admission.admit(line) {
                lost.clear();
            } else {
                lost.add(line, rest);
            }
        });
        let unfinished = !source.lines.is_between();
        source.unfinished_until = unfinished.then(|| now + UNFINISHED);
        Pipe::More
    }

    /// A stream has ended or paused: passes on a last line without a newline, and the newest of what was dropped.
    fn end_lines(&mut self, index: usize, now: Instant) {
        let at_ms = millis(now.duration_since(self.started));
        self.bucket.refill(now);
        let Some(source) = self.sources.get_mut(index) else {
            return;
        };
        let mut admission = Admission {
            bucket: &mut self.bucket,
            store: &mut self.store,
            dropped: &mut self.dropped,
            stream: source.stream,
            at_ms,
        };
        source.unfinished_until = None;
        let lost = &mut source.lost;
        source.lines.end(|line| {
            if admission.admit(line) {
                lost.clear();
            } else {
                lost.add(line, 0);
            }
        });
        lost.take(|line| admission.restore(line));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pipe {
    More,
    Empty,
    Ended,
}

impl Source {
    fn watch(&self, index: usize, poller: &Poller, watch: Watch) {
        if let Some(pipe) = &self.pipe {
            // It is registered and open; if the kernel refuses all the same, the pipe is only read less well.
            let _ = poller.change(pipe, Token::Output(index as u64), watch);
        }
    }
}

/// Decides about lines of one stream.
struct Admission<'a> {
    bucket: &'a mut Bucket,
    store: &'a mut Store,
    dropped: &'a mut u64,
    stream: LogStream,
    at_ms: u64,
}

impl Admission<'_> {
    /// Keeps a line, or drops and counts it.
    fn admit(&mut self, line: &[u8]) -> bool {
        let cost = line.len() as u64 + bucket::PER_LINE;
        let admitted = self.bucket.has(cost) && self.store.has_room(line.len());
        if admitted {
            self.bucket.spend(cost);
            self.store.put(self.stream, self.at_ms, line);
        } else {
            *self.dropped += 1;
        }
        admitted
    }

    /// Keeps a line that was dropped before.
    fn restore(&mut self, line: &[u8]) {
        // Already told as dropped, if a packet went out since; then it counts twice, which errs on the safe side.
        *self.dropped = self.dropped.saturating_sub(1);
        self.store.put(self.stream, self.at_ms, line);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
