//! One connection: a buffer, the requests that come through it, and the pieces of their bodies.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::rc::Rc;

use crate::answer::Answer;
use crate::request::{Framing, Head, MAX_ORDER, Order, Route};
use crate::websocket;

/// Room for the largest head that a runtime forwards, and for pieces of bodies large enough that system calls do
/// not show.
const BUFFER_BYTES: usize = 256 * 1024;

pub(crate) struct Connection {
    stream: Rc<TcpStream>,
    buffer: Box<[u8]>,
    /// What of the buffer is read and not yet used.
    ready: Range<usize>,
}

/// How much of a body is still to come.
#[derive(Debug)]
enum Remaining {
    /// This many bytes; for a chunked body, of the present chunk, whose CRLF and successors follow.
    Bytes {
        left: u64,
        chunked: bool,
    },
    /// The next thing is a chunk's size line.
    ChunkSize,
    Nothing,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream: Rc::new(stream),
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            ready: 0..0,
        }
    }

    /// Answer requests until the client closes.
    pub(crate) fn serve(mut self, healthy_since: u64) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        while let Some(head) = self.read_head()? {
            if head.expects_continue {
                (&*self.stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let content_type = head.content_type.clone().map(|at| self.buffer[at].to_vec());
            self.ready.start += head.length;
            let mut answer = Answer::new(Rc::clone(&self.stream), &head);
            let mut remaining = match head.framing {
                Framing::Sized(left) => Remaining::Bytes {
                    left,
                    chunked: false,
                },
                Framing::Chunked => Remaining::ChunkSize,
            };
            match head.route {
                Route::Invocation(None) => {
                    self.invoke(&head, content_type, &mut remaining, &mut answer)?
                }
                Route::Invocation(Some(order)) => {
                    while self.next_piece(&mut remaining)?.is_some() {}
                    answer.order(order)?;
                }
                Route::WebSocket => {
                    while self.next_piece(&mut remaining)?.is_some() {}
                    let Some(key) = &head.websocket_key else {
                        answer.not_found()?;
                        break;
                    };
                    (&*self.stream).write_all(&websocket::accept(key))?;
                    return self.echo_frames();
                }
                Route::Ping | Route::NotFound => {
                    while self.next_piece(&mut remaining)?.is_some() {}
                    if head.route == Route::Ping {
                        answer.ping(healthy_since)?;
                    } else {
                        answer.not_found()?;
                    }
                }
            }
            if !head.keep_alive {
                break;
            }
        }
        Ok(())
    }

    /// Echo the body, unless it is an order.
    fn invoke(
        &mut self,
        head: &Head,
        content_type: Option<Vec<u8>>,
        remaining: &mut Remaining,
        answer: &mut Answer,
    ) -> io::Result<()> {
        let mut opening = Vec::new();
        let mut ended = false;
        while !ended && opening.len() <= MAX_ORDER && Order::may_begin(&opening) {
            match self.next_piece(remaining)? {
                Some(piece) => opening.extend_from_slice(&self.buffer[piece]),
                None => ended = true,
            }
        }
        if let Some(order) = Order::from_body(&opening).filter(|_| ended) {
            return answer.order(order);
        }
        answer.begin_echo(head.framing, content_type.as_deref(), &opening)?;
        while !ended {
            match self.next_piece(remaining)? {
                Some(piece) => answer.echo(&self.buffer[piece])?,
                None => ended = true,
            }
        }
        answer.end_echo()
    }

    /// Say every frame back until the client closes; its pings are answered.
    fn echo_frames(&mut self) -> io::Result<()> {
        loop {
            let Some((frame, size)) = websocket::unmask(&mut self.buffer[self.ready.clone()])
            else {
                if self.fill()? {
                    continue;
                }
                return Ok(());
            };
            self.ready.start += size;
            (&*self.stream).write_all(&frame.bytes)?;
            if frame.is_close {
                return Ok(());
            }
        }
    }

    fn read_head(&mut self) -> io::Result<Option<Head>> {
        loop {
            let parsed = Head::parse(&self.buffer[self.ready.clone()]);
            match parsed {
                Ok(Some(mut head)) => {
                    let start = self.ready.start;
                    head.content_type =
                        head.content_type.map(|at| at.start + start..at.end + start);
                    return Ok(Some(head));
                }
                Ok(None) if self.fill()? => {}
                Ok(None) if self.ready.is_empty() => return Ok(None),
                Ok(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => {
                    (&*self.stream).write_all(
                        b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                    )?;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
    }

    /// The next bytes of the body, where they lie in the buffer; `None` at its end.
    fn next_piece(&mut self, remaining: &mut Remaining) -> io::Result<Option<Range<usize>>> {
        loop {
            match remaining {
                Remaining::Nothing => return Ok(None),
                Remaining::Bytes {
                    left: 0,
                    chunked: false,
                } => *remaining = Remaining::Nothing,
                Remaining::Bytes {
                    left: 0,
                    chunked: true,
                } => {
                    if !self.take_line()?.is_empty() {
                        return Err(malformed("no CRLF after a chunk"));
                    }
                    *remaining = Remaining::ChunkSize;
                }
                Remaining::Bytes { left, .. } => {
                    if self.ready.is_empty() && !self.fill()? {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    let there = self.ready.len();
                    let count = usize::try_from(*left).map_or(there, |left| left.min(there));
                    let piece = self.ready.start..self.ready.start + count;
                    self.ready.start = piece.end;
                    *left -= count as u64;
                    return Ok(Some(piece));
                }
                Remaining::ChunkSize => {
                    let line = self.take_line()?;
                    let digits = line.split(|byte| matches!(byte, b';' | b' ')).next();
                    let left = digits
                        .and_then(|digits| std::str::from_utf8(digits).ok())
                        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                        .ok_or_else(|| malformed("chunk size"))?;
                    if left == 0 {
                        while !self.take_line()?.is_empty() {}
                        *remaining = Remaining::Nothing;
                    } else {
                        *remaining = Remaining::Bytes {
                            left,
                            chunked: true,
                        };
                    }
                }
            }
        }
    }

    fn take_line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let ready = &self.buffer[self.ready.clone()];
            if let Some(length) = ready.windows(2).position(|pair| pair == b"\r\n") {
                let line = ready[..length].to_vec();
                self.ready.start += length + 2;
                return Ok(line);
            }
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Read once more behind what is ready; false at the end of the stream.
    fn fill(&mut self) -> io::Result<bool> {
        if self.ready.is_empty() {
            self.ready = 0..0;
        } else if self.ready.end == self.buffer.len() {
            if self.ready.start == 0 {
                return Err(malformed("a head or line longer than the buffer"));
            }
            self.buffer.copy_within(self.ready.clone(), 0);
            self.ready = 0..self.ready.len();
        }
        let count = (&*self.stream).read(&mut self.buffer[self.ready.end..])?;
        self.ready.end += count;
        Ok(count > 0)
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
