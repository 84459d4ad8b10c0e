//! Answers on the wire: head and first bytes leave together, every later piece at once.

use std::io::{self, IoSlice, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use crate::request::{Framing, Head, Order};

static FILLER: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// The answer to one request.
pub(crate) struct Answer {
    stream: Rc<TcpStream>,
    keep_alive: bool,
    may_chunk: bool,
    chunked: bool,
}

impl Answer {
    pub(crate) fn new(stream: Rc<TcpStream>, head: &Head) -> Self {
        Self {
            stream,
            keep_alive: head.keep_alive,
            may_chunk: head.chunked_answers,
            chunked: false,
        }
    }

    pub(crate) fn ping(&mut self, since: u64) -> io::Result<()> {
        let body = format!(r#"{{"status":"Healthy","time_of_last_update":{since}}}"#);
        self.whole("200 OK", b"application/json", body.as_bytes())
    }

    pub(crate) fn not_found(&mut self) -> io::Result<()> {
        self.whole("404 Not Found", b"text/plain", b"Not Found")
    }

    pub(crate) fn order(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Events { count, delay_ms } => {
                let head = self.head("200 OK", b"text/event-stream", None);
                self.write_all(&[&head])?;
                for n in 0..count {
                    if n > 0 && delay_ms > 0 {
                        thread::sleep(Duration::from_millis(delay_ms));
                    }
                    self.echo(format!("data: {{\"n\":{n}}}\n\n").as_bytes())?;
                }
                self.end_echo()
            }
            Order::Bytes(count) => {
                let head = self.head("200 OK", b"application/octet-stream", Some(count));
                self.write_all(&[&head])?;
                let mut left = count;
                while left > 0 {
                    let piece =
                        usize::try_from(left).map_or(FILLER.len(), |left| left.min(FILLER.len()));
                    (&*self.stream).write_all(&FILLER[..piece])?;
                    left -= piece as u64;
                }
                Ok(())
            }
        }
    }

    /// The head of an echo, framed as its request is, with the bytes that are already there.
    pub(crate) fn begin_echo(
        &mut self,
        framing: Framing,
        content_type: Option<&[u8]>,
        first: &[u8],
    ) -> io::Result<()> {
        let length = match framing {
            Framing::Sized(length) => Some(length),
            Framing::Chunked => None,
        };
        let content_type = content_type.unwrap_or(b"application/octet-stream");
        let head = self.head("200 OK", content_type, length);
        if self.chunked && !first.is_empty() {
            let size = format!("{:x}\r\n", first.len());
            self.write_all(&[&head, size.as_bytes(), first, b"\r\n"])
        } else {
            self.write_all(&[&head, first])
        }
    }

    /// One more piece, on its way before this returns.
    pub(crate) fn echo(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.chunked {
            let size = format!("{:x}\r\n", piece.len());
            self.write_all(&[size.as_bytes(), piece, b"\r\n"])
        } else {
            (&*self.stream).write_all(piece)
        }
    }

    pub(crate) fn end_echo(&mut self) -> io::Result<()> {
        if self.chunked {
            (&*self.stream).write_all(b"0\r\n\r\n")?;
        }
        Ok(())
    }

    fn whole(&mut self, status: &str, content_type: &[u8], body: &[u8]) -> io::Result<()> {
        let head = self.head(status, content_type, Some(body.len() as u64));
        self.write_all(&[&head, body])
    }

    fn head(&mut self, status: &str, content_type: &[u8], length: Option<u64>) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {status}\r\ncontent-type: ").into_bytes();
        head.extend_from_slice(content_type);
        head.extend_from_slice(b"\r\n");
        self.chunked = length.is_none() && self.may_chunk;
        if let Some(length) = length {
            head.extend_from_slice(format!("content-length: {length}\r\n").as_bytes());
        } else if self.chunked {
            head.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        if !self.keep_alive {
            head.extend_from_slice(b"connection: close\r\n");
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// All parts in one system call where the socket takes them.
    fn write_all(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut left = slices.as_mut_slice();
        IoSlice::advance_slices(&mut left, 0); // drops empty parts in front
        while !left.is_empty() {
            match (&*self.stream).write_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut left, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
