//! Many event streams at once: two thousand across fifty sessions, ten events a second each, for a minute. Every event is
//! checked by its number; what is measured is the daemon's memory meanwhile, and how late an event is.

use super::Effort;
use super::samples::Samples;
use super::subject::Subject;
use super::table::{Promise, Row, Table};
use super::wire;
use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, session_name};
use e2e::http::Stream;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

const SESSIONS: usize = 50;
const STREAMS_PER_SESSION: usize = 40;

/// Between two events of a stream.
const PERIOD: Duration = Duration::from_millis(100);

/// How long no stream at all may say anything.
const SILENCE: u16 = 10_000;

/// Between two looks at the daemon's memory.
const LOOK: Duration = Duration::from_secs(1);

/// One stream as its client reads it.
struct Reader {
    stream: Stream,
    /// What is not a whole line yet.
    rest: Vec<u8>,
    /// Number of the next event.
    next: u64,
    /// When the first event came, which sets the clock for the others.
    first: Option<Instant>,
    over: bool,
}

impl Reader {
    /// Takes what is there; the delay of each event goes to `late`.
    fn take(&mut self, late: &mut Samples) -> anyhow::Result<()> {
        let mut buffer = [0; 16 * 1024];
        let closed = loop {
            match self.stream.read(&mut buffer) {
                // On a busy machine the last events and the end come at once.
                Ok(0) => break true,
                Ok(count) => self.rest.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(error) => return Err(error.into()),
            }
        };
        let mut taken = 0;
        while let Some(length) = self.rest[taken..].iter().position(|byte| *byte == b'\n') {
            let line = &self.rest[taken..taken + length];
            taken += length + 1;
            let Some(number) = line.strip_prefix(b"data: {\"n\":") else {
                // Heads, lengths of chunks, ends of events; the last chunk has no bytes.
                self.over |= line == b"0\r";
                ensure!(
                    !line.starts_with(b"HTTP/1.1") || line.starts_with(b"HTTP/1.1 200"),
                    "{}",
                    String::from_utf8_lossy(&self.rest)
                );
                continue;
            };
            let number: u64 = std::str::from_utf8(number)?.trim_end_matches('}').parse()?;
            ensure!(
                number == self.next,
                "event {number} came for event {}",
                self.next
            );
            self.next += 1;
            let now = Instant::now();
            let first = *self.first.get_or_insert(now);
            let due = first + PERIOD * u32::try_from(number)?;
            late.push_ms(now.saturating_duration_since(due));
        }
        self.rest.drain(..taken);
        ensure!(
            self.over || !closed,
            "a stream broke off before event {}",
            self.next
        );
        Ok(())
    }
}

pub(crate) fn measure(subject: &Subject, effort: Effort, table: &mut Table) -> anyhow::Result<()> {
    let count = effort.stream_seconds * 10;
    let path = "/runtimes/native/invocations";
    let order = format!(r#"{{"sse": {count}, "delay_ms": {}}}"#, PERIOD.as_millis());
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    let mut readers = Vec::with_capacity(SESSIONS * STREAMS_PER_SESSION);
    for _ in 0..SESSIONS {
        let session = session_name("streams");
        let request = wire::post(
            path,
            &[(SESSION_HEADER, session.as_str())],
            order.as_bytes(),
        );
        for _ in 0..STREAMS_PER_SESSION {
            let mut stream = subject.unix().connect()?;
            stream.write_all(&request)?;
            stream.set_nonblocking(true)?;
            let key = u64::try_from(readers.len())?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, key))?;
            readers.push(Reader {
                stream,
                rest: Vec::new(),
                next: 0,
                first: None,
                over: false,
            });
        }
    }
    let pids = [subject.daemon().pid(), subject.launcher()?];
    let (mut late, mut memory) = (Samples::default(), Samples::default());
    let mut events = [EpollEvent::empty(); 256];
    let mut left = readers.len();
    let mut looked = Instant::now();
    while left > 0 {
        let ready = epoll.wait(&mut events, EpollTimeout::from(SILENCE))?;
        ensure!(ready > 0, "{left} streams are silent");
        for event in &events[..ready] {
            let reader = readers
                .get_mut(usize::try_from(event.data())?)
                .context("a reader")?;
            reader.take(&mut late)?;
            if reader.over {
                ensure!(
                    reader.next == count,
                    "a stream had {} events of {count}",
                    reader.next
                );
                epoll.delete(&reader.stream)?;
                left -= 1;
            }
        }
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            let mut resident = 0;
            for pid in pids {
                resident += e2e::host::rss(pid)?;
            }
            memory.push(f64::from(u32::try_from(resident >> 10)?) / 1024.0);
        }
    }
    let streams = readers.len();
    table.add(Row {
        what: format!(
            "{streams} event streams at 10/s, {} s, none lost: daemon's memory",
            effort.stream_seconds
        ),
        unit: "MiB RSS",
        ours: memory,
        peer: None,
        promise: Promise::AtMost(200.0),
    });
    table.add(Row {
        what: "… lateness of an event against its stream's first".to_owned(),
        unit: "ms",
        ours: late,
        peer: None,
        promise: Promise::Context,
    });
    Ok(())
}
