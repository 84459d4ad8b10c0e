//! The load client: blocking sockets, one request at a time, so that nothing but the system calls is measured.

use anyhow::{Context as _, bail, ensure};
use e2e::http::{Stream, Target};
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

/// Room for a head and a small body.
const BUFFER: usize = 16 * 1024;

/// A connection that is kept.
pub(crate) struct Wire {
    stream: Stream,
    buffer: Box<[u8]>,
}

/// When a request's answer came, from the moment before its first byte was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// The first bytes of it.
    pub(crate) first: Duration,
    /// All of it.
    pub(crate) whole: Duration,
}

/// A `POST` with a body, ready to be sent again and again.
pub(crate) fn post(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut request = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!(
        "content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    ));
    let mut request = request.into_bytes();
    request.extend_from_slice(body);
    request
}

/// An answer's head: where its body begins, and the body's length.
pub(crate) struct Head {
    pub(crate) start: usize,
    pub(crate) length: Length,
}

/// How a body ends.
#[derive(Clone, Copy)]
pub(crate) enum Length {
    Known(usize),
    Chunked,
}

/// The head, once all of it is there. Anything but 200 and 202 is an error that shows the answer.
pub(crate) fn head(bytes: &[u8]) -> anyhow::Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..end]).context("head")?;
    let all = || String::from_utf8_lossy(bytes).into_owned();
    let taken = text.starts_with("HTTP/1.1 200 ") || text.starts_with("HTTP/1.1 202 ");
    ensure!(taken, "{}", all());
    let field = |name: &str| {
        text.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    };
    let length = match (field("content-length"), field("transfer-encoding")) {
        (Some(length), _) => Length::Known(length.parse().context("content-length")?),
        (None, Some("chunked")) => Length::Chunked,
        (None, _) => bail!("an answer without a length: {}", all()),
    };
    Ok(Some(Head {
        start: end + 4,
        length,
    }))
}

impl Wire {
    pub(crate) fn connect(target: &Target) -> anyhow::Result<Self> {
        Ok(Self::over(target.connect()?))
    }

    pub(crate) fn over(stream: Stream) -> Self {
        Self {
            stream,
            buffer: vec![0; BUFFER].into_boxed_slice(),
        }
    }

    /// Sends a request and reads its answer, which must be a 200.
    pub(crate) fn call(&mut self, request: &[u8]) -> anyhow::Result<Timing> {
        let began = Instant::now();
        self.stream.write_all(request).context("send")?;
        let mut there = 0;
        let mut first = None;
        let mut end = None;
        loop {
            let count = self
                .stream
                .read(&mut self.buffer[there..])
                .context("receive")?;
            let now = began.elapsed();
            let first = *first.get_or_insert(now);
            ensure!(count > 0, "the answer ended early");
            there += count;
            if end.is_none() {
                end = head(&self.buffer[..there])?;
            }
            let complete = end.as_ref().is_some_and(|head| match head.length {
                Length::Known(length) => there >= head.start + length,
                Length::Chunked => self.buffer[..there].ends_with(b"0\r\n\r\n"),
            });
            if complete {
                return Ok(Timing { first, whole: now });
            }
            ensure!(there < self.buffer.len(), "an answer that is too large");
        }
    }
}

/// Connects, sends, and gives the time to the first byte, the connection included.
pub(crate) fn cold(target: &Target, request: &[u8]) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut wire = Wire::connect(target)?;
    let connected = began.elapsed();
    Ok(connected + wire.call(request)?.first)
}
