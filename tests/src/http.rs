//! A small blocking HTTP/1.1 client: Unix socket or TCP, bodies streamed both ways, nothing hidden.
//!
//! Written by hand because the tests must send what no well-behaved client would ([`Target::connect`] gives the bare
//! stream) and must see what a library would smooth over: the moment at which each chunk arrives, and whether a body
//! was complete. A body that ends early is an error here, never a short answer.

use anyhow::{Context as _, anyhow, bail, ensure};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Where a server listens.
#[derive(Debug, Clone)]
pub enum Target {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

/// A connection of either kind.
#[derive(Debug)]
pub enum Stream {
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
}

impl Target {
    /// A bare connection, with a read timeout so that no test hangs.
    pub fn connect(&self) -> anyhow::Result<Stream> {
        let timeout = Some(crate::wait::seconds(120));
        Ok(match self {
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)
                    .with_context(|| format!("connect {}", path.display()))?;
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)?;
                Stream::Unix(stream)
            }
            Self::Tcp(address) => {
                let stream =
                    TcpStream::connect(address).with_context(|| format!("connect {address}"))?;
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
        })
    }

    /// Sends bytes as they are and reads the answer.
    pub fn raw(&self, bytes: &[u8]) -> anyhow::Result<Response> {
        let mut stream = self.connect()?;
        stream.write_all(bytes).context("write")?;
        Response::read(stream, false)
    }

    /// Sends a request and reads the answer's head; the body follows as it is read.
    pub fn send(&self, request: Request) -> anyhow::Result<Response> {
        let mut stream = self.connect()?;
        let head = request.head();
        let is_head = request.method == "HEAD";
        // A server may answer and close before it has taken everything: then its answer counts, not our broken pipe.
        let mut sent = stream.write_all(head.as_bytes());
        let writer = match request.body {
            Body::None => None,
            Body::Bytes(bytes) if bytes.len() <= 16 * 1024 => {
                sent = sent.and_then(|()| stream.write_all(&bytes));
                None
            }
            // Large bodies are written beside the reading: an answer may begin before the request ends.
            Body::Bytes(bytes) => Some(write_beside(
                stream.try_clone()?,
                Box::new(std::io::Cursor::new(bytes)),
                false,
            )),
            Body::Reader(reader, length) => {
                Some(write_beside(stream.try_clone()?, reader, length.is_none()))
            }
        };
        let mut response = match (Response::read(stream, is_head), sent) {
            (Err(error), Err(broken)) => return Err(error.context(broken)),
            (response, _) => response?,
        };
        response.writer = writer;
        Ok(response)
    }
}

fn write_beside(
    mut stream: Stream,
    mut reader: Box<dyn Read + Send>,
    chunked: bool,
) -> std::thread::JoinHandle<std::io::Result<u64>> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        let mut total = 0;
        loop {
            let n = reader.read(&mut buffer)?;
            if n == 0 {
                if chunked {
                    stream.write_all(b"0\r\n\r\n")?;
                }
                return Ok(total);
            }
            if chunked {
                stream.write_all(format!("{n:x}\r\n").as_bytes())?;
            }
            stream.write_all(&buffer[..n])?;
            if chunked {
                stream.write_all(b"\r\n")?;
            }
            total += n as u64;
        }
    })
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(s) => s.as_fd(),
            Self::Tcp(s) => s.as_fd(),
        }
    }
}

impl Stream {
    /// A second handle to the same connection.
    pub fn try_clone(&self) -> anyhow::Result<Self> {
        Ok(match self {
            Self::Unix(s) => Self::Unix(s.try_clone()?),
            Self::Tcp(s) => Self::Tcp(s.try_clone()?),
        })
    }

    /// Half or full close.
    pub fn shutdown(&self, how: Shutdown) -> std::io::Result<()> {
        match self {
            Self::Unix(s) => s.shutdown(how),
            Self::Tcp(s) => s.shutdown(how),
        }
    }

    /// Reads and writes that would wait fail instead.
    pub fn set_nonblocking(&self, nonblocking: bool) -> std::io::Result<()> {
        match self {
            Self::Unix(s) => s.set_nonblocking(nonblocking),
            Self::Tcp(s) => s.set_nonblocking(nonblocking),
        }
    }

    /// Bound of one read.
    pub fn set_read_timeout(&self, timeout: Duration) -> std::io::Result<()> {
        match self {
            Self::Unix(s) => s.set_read_timeout(Some(timeout)),
            Self::Tcp(s) => s.set_read_timeout(Some(timeout)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(s) => s.read(buffer),
            Self::Tcp(s) => s.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(s) => s.write(buffer),
            Self::Tcp(s) => s.write(buffer),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A request to be.
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Body,
}

enum Body {
    None,
    Bytes(Vec<u8>),
    Reader(Box<dyn Read + Send>, Option<u64>),
}

impl Request {
    /// `method` and request target (path and query, percent-encoded by the caller).
    #[must_use]
    pub fn new(method: &str, target: impl Into<String>) -> Self {
        Self {
            method: method.to_owned(),
            target: target.into(),
            headers: Vec::new(),
            body: Body::None,
        }
    }

    /// A `GET`.
    #[must_use]
    pub fn get(target: impl Into<String>) -> Self {
        Self::new("GET", target)
    }

    /// A `POST` with a body of known length.
    #[must_use]
    pub fn post(target: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", target).body(body)
    }

    /// One more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// A body of known length.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Body::Bytes(body.into());
        self
    }

    /// A body that is produced while it is sent: with `length` it is announced, without it goes chunked.
    #[must_use]
    pub fn stream(mut self, reader: impl Read + Send + 'static, length: Option<u64>) -> Self {
        self.body = Body::Reader(Box::new(reader), length);
        self
    }

    fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        let has = |name: &str| {
            self.headers
                .iter()
                .any(|(n, _)| n.eq_ignore_ascii_case(name))
        };
        if !has("host") {
            head.push_str("host: localhost\r\n");
        }
        if !has("connection") {
            head.push_str("connection: close\r\n");
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match &self.body {
            Body::None if self.method == "GET" || self.method == "HEAD" => {}
            Body::None => head.push_str("content-length: 0\r\n"),
            Body::Bytes(bytes) => head.push_str(&format!("content-length: {}\r\n", bytes.len())),
            Body::Reader(_, Some(length)) => {
                head.push_str(&format!("content-length: {length}\r\n"));
            }
            Body::Reader(_, None) => head.push_str("transfer-encoding: chunked\r\n"),
        }
        head.push_str("\r\n");
        head
    }
}

/// An answer: its head, and its body as it arrives.
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
    framing: Framing,
    stream: BufReader<Stream>,
    writer: Option<std::thread::JoinHandle<std::io::Result<u64>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// So many bytes of the current chunk are left.
    Chunked { left: u64, first: bool },
    /// Until the peer closes (no framing was given).
    UntilClose,
    /// All read.
    Done,
}

impl Response {
    /// Reads a head from a connection.
    pub fn read(stream: Stream, is_head: bool) -> anyhow::Result<Self> {
        let mut stream = BufReader::with_capacity(64 * 1024, stream);
        loop {
            let (status, headers) = read_head(&mut stream)?;
            if status == 100 {
                continue;
            }
            let get = |name: &str| {
                headers
                    .iter()
                    .find(|(n, _)| n == name)
                    .map(|(_, v)| v.as_str())
            };
            let framing = if is_head || status == 204 || status == 304 || status == 101 {
                Framing::Done
            } else if get("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
                ensure!(
                    get("content-length").is_none(),
                    "the answer has both content-length and chunked framing"
                );
                Framing::Chunked {
                    left: 0,
                    first: true,
                }
            } else if let Some(length) = get("content-length") {
                Framing::Length(length.parse().context("content-length of the answer")?)
            } else {
                Framing::UntilClose
            };
            return Ok(Self {
                status,
                headers,
                framing,
                stream,
                writer: None,
            });
        }
    }

    /// A header's first value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    }

    /// Next piece of the body, as it arrived; `None` at its proper end. An early end is an error.
    pub fn piece(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        loop {
            match self.framing {
                Framing::Done | Framing::Length(0) => return Ok(None),
                Framing::Length(left) => {
                    let bytes = self.some(left)?;
                    self.framing = Framing::Length(left - bytes.len() as u64);
                    return Ok(Some(bytes));
                }
                Framing::UntilClose => {
                    let bytes = self.stream.fill_buf().context("read body")?.to_vec();
                    self.stream.consume(bytes.len());
                    if bytes.is_empty() {
                        self.framing = Framing::Done;
                        return Ok(None);
                    }
                    return Ok(Some(bytes));
                }
                Framing::Chunked { left: 0, first } => {
                    if !first {
                        ensure!(self.line()?.is_empty(), "chunk is not followed by CRLF");
                    }
                    let line = self.line()?;
                    let size = line.split(';').next().unwrap_or_default().trim();
                    let size = u64::from_str_radix(size, 16)
                        .with_context(|| format!("chunk size {line:?}"))?;
                    if size == 0 {
                        while !self.line()?.is_empty() {}
                        self.framing = Framing::Done;
                        return Ok(None);
                    }
                    self.framing = Framing::Chunked {
                        left: size,
                        first: false,
                    };
                }
                Framing::Chunked { left, .. } => {
                    let bytes = self.some(left)?;
                    self.framing = Framing::Chunked {
                        left: left - bytes.len() as u64,
                        first: false,
                    };
                    return Ok(Some(bytes));
                }
            }
        }
    }

    fn some(&mut self, most: u64) -> anyhow::Result<Vec<u8>> {
        let buffer = self.stream.fill_buf().context("read body")?;
        ensure!(
            !buffer.is_empty(),
            "the body was cut off: {most} bytes of its framing were still to come"
        );
        let n = buffer
            .len()
            .min(usize::try_from(most).unwrap_or(usize::MAX));
        let bytes = buffer[..n].to_vec();
        self.stream.consume(n);
        Ok(bytes)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = Vec::new();
        self.stream
            .read_until(b'\n', &mut line)
            .context("read chunk line")?;
        ensure!(
            line.ends_with(b"\r\n"),
            "the body was cut off in its framing"
        );
        line.truncate(line.len() - 2);
        Ok(String::from_utf8(line)?)
    }

    /// The whole rest of the body.
    pub fn bytes(mut self) -> anyhow::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(piece) = self.piece()? {
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    /// Reads the body to its end and counts it, keeping nothing; `check` sees every piece with its offset.
    pub fn drain(
        mut self,
        mut check: impl FnMut(u64, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<u64> {
        let mut at = 0;
        while let Some(piece) = self.piece()? {
            check(at, &piece)?;
            at += piece.len() as u64;
        }
        if let Some(writer) = self.writer.take() {
            writer
                .join()
                .map_err(|_| anyhow!("the request's writer panicked"))??;
        }
        Ok(at)
    }

    /// The body as text.
    pub fn text(self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    /// The body as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(self) -> anyhow::Result<T> {
        let status = self.status;
        let text = self.text()?;
        serde_json::from_str(&text).with_context(|| format!("answer {status} is not so: {text}"))
    }

    /// The answer if its status is `status`; else an error that shows it.
    pub fn expect(self, status: u16) -> anyhow::Result<Self> {
        if self.status == status {
            return Ok(self);
        }
        let found = self.status;
        let headers = self.headers.clone();
        let body = self.text().unwrap_or_else(|e| format!("<{e:#}>"));
        bail!("expected {status}, got {found}: {body}\n  headers {headers:?}")
    }

    /// The connection, after a 101, with what was read ahead.
    #[must_use]
    pub fn upgraded(self) -> BufReader<Stream> {
        self.stream
    }
}

type Head = (u16, Vec<(String, String)>);

fn read_head(stream: &mut BufReader<Stream>) -> anyhow::Result<Head> {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        stream
            .read_until(b'\n', &mut line)
            .context("read answer's head")?;
        ensure!(
            line.ends_with(b"\n"),
            "the connection was closed before an answer's head was complete ({} lines)",
            lines.len()
        );
        let text = String::from_utf8_lossy(&line)
            .trim_end_matches(['\r', '\n'])
            .to_owned();
        if text.is_empty() {
            break;
        }
        lines.push(text);
    }
    let mut lines = lines.into_iter();
    let first = lines.next().context("empty answer")?;
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| first.strip_prefix("HTTP/1.0 "))
        .and_then(|rest| rest.get(..3))
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("status line {first:?}"))?;
    let headers = lines
        .map(|line| {
            let (name, value) = line
                .split_once(':')
                .with_context(|| format!("header line {line:?}"))?;
            Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect::<anyhow::Result<_>>()?;
    Ok((status, headers))
}
