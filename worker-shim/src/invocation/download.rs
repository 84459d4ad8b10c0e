//! The answer's direction: agent's connection ▸ broker's stream.

use super::body::{BodyError, Decoder};
use super::head::{self, Framing, Head, HeadError};
use super::{DOUBT, Download, Exchange, Failure, Io, PIECE, Upload};
use crate::link::{Link, Ticket};
use crate::socket::{Read, Written};
use nix::errno::Errno;
use proto::code::ErrorCode;
use proto::shim::{BodyEnd, InvokeHead};
use std::time::Instant;

/// Most interim answers (1xx) before the real one.
const MOST_INTERIM: u32 = 16;

impl From<HeadError> for Failure {
    fn from(error: HeadError) -> Self {
        Self::new(ErrorCode::AgentProtocol, error.to_string())
    }
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        Self::new(ErrorCode::AgentProtocol, error.to_string())
    }
}

impl Exchange {
    /// Moves one piece; says whether anything moved.
    pub(super) fn download(&mut self, io: &mut Io<'_>, now: Instant) -> Result<bool, Failure> {
        let moved = match (&mut self.spool, &mut self.stream) {
            (Some(spool), Some(stream)) => spool.send(stream),
            (Some(_), None) => false,
            (None, _) => self.send_back()?,
        };
        if !self.back.is_empty() {
            return Ok(moved);
        }
        match self.download {
            Download::Head { .. } | Download::Body(_) => {}
            Download::Doubtful { until } if now >= until => {
                self.complete(io.link);
                return Ok(true);
            }
            Download::Doubtful { .. } | Download::Complete { .. } | Download::Lingering { .. } => {
                return Ok(moved);
            }
        }
        // Of one that is kept no more is read than is held.
        let most = match &self.spool {
            Some(spool) => spool.room().min(PIECE),
            None => PIECE,
        };
        if most == 0 || !self.agent.socket.is_readable() {
            return Ok(moved);
        }
        match self.agent.socket.read(&mut io.scratch[..most]) {
            Read::Data(n) => self.received(n, io)?,
            Read::Blocked => return Ok(moved),
            Read::End => self.ended(io, now)?,
            Read::Failed(error) => self.broke(error, io)?,
        }
        Ok(true)
    }

    /// `n` bytes of the agent are in the scratch buffer.
    fn received(&mut self, n: usize, io: &mut Io<'_>) -> Result<(), Failure> {
        let Download::Head { bytes, interim } = &mut self.download else {
            if self.pass_on(&mut io.scratch[..n])? {
                self.complete(io.link);
            }
            return Ok(());
        };
        let searched = bytes.len();
        let mut carried = std::mem::take(bytes);
        let bytes = if carried.is_empty() {
            &mut io.scratch[..n]
        } else {
            carried.extend_from_slice(&io.scratch[..n]);
            &mut carried[..]
        };
        let mut start = 0;
        let mut from = searched;
        let head = loop {
            let Some(end) = head::end(&bytes[start..], from) else {
                head::plausible(&bytes[start..])?;
                self.download = Download::Head {
                    bytes: bytes[start..].to_vec(),
                    interim: *interim,
                };
                return Ok(());
            };
            let head = head::parse(&bytes[start..start + end], self.asked)?;
            start += end;
            from = 0;
            if head.status >= 200 || head.status == 101 {
                break head;
            }
            *interim += 1;
            if *interim > MOST_INTERIM {
                let text = "too many interim answers";
                return Err(Failure::new(ErrorCode::AgentProtocol, text));
            }
        };
        self.begin_body(&head);
        // The bytes first: whoever is woken by the answer finds them in the stream.
        let complete = self.pass_on(&mut bytes[start..])?;
        self.answer(head, io.link);
        if complete {
            self.complete(io.link);
        }
        Ok(())
    }

    fn begin_body(&mut self, head: &Head) {
        self.keep_alive = head.keep_alive;
        self.download = Download::Body(Decoder::new(head.framing));
        if self.upload == Upload::Held {
            self.keep_alive = false;
            self.upload = if head.framing == Framing::Upgraded {
                Upload::Open
            } else {
                Upload::Told
            };
        }
    }

    /// The final head: the broker's request is answered.
    fn answer(&mut self, head: Head, link: &mut Link) {
        let head = InvokeHead {
            status: head.status,
            headers: head.headers,
            content_length: head.content_length,
        };
        if let Some(rpc) = self.rpc.take() {
            link.answer(rpc, &head);
        }
        if let Some(spool) = &mut self.spool {
            spool.head = Some(head);
        }
    }

    /// Decodes a piece of the body and gives it to the broker; whether the body is complete.
    fn pass_on(&mut self, bytes: &mut [u8]) -> Result<bool, Failure> {
        let Download::Body(decoder) = &mut self.download else {
            return Ok(false);
        };
        let decoded = decoder.decode(bytes)?;
        let complete = decoder.is_complete();
        // Bytes after the answer's end: nobody asked for them, and the connection cannot be trusted with another.
        self.keep_alive &= !complete || decoded.consumed == bytes.len();
        self.give(&bytes[decoded.data])?;
        Ok(complete)
    }

    fn give(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.given += data.len() as u64;
        if let Some(spool) = &mut self.spool {
            spool.give(data);
            if let Some(stream) = &mut self.stream {
                spool.send(stream);
            }
            return Ok(());
        }
        let mut rest = data;
        if !rest.is_empty()
            && let Some(stream) = &mut self.stream
        {
            match stream.write(rest) {
                Written::Some(n) => rest = &rest[n..],
                Written::Blocked => {}
                Written::Failed(_) => return Err(Failure::cancelled("the caller is gone")),
            }
        }
        self.back.extend_from_slice(rest);
        Ok(())
    }

    fn send_back(&mut self) -> Result<bool, Failure> {
        let mut moved = false;
        while self.back_at < self.back.len()
            && let Some(stream) = &mut self.stream
            && stream.is_writable()
        {
            match stream.write(&self.back[self.back_at..]) {
                Written::Some(n) => self.back_at += n,
                Written::Blocked => break,
                Written::Failed(_) => return Err(Failure::cancelled("the caller is gone")),
            }
            moved = true;
        }
        if self.back_at > 0 && self.back_at == self.back.len() {
            // A stream may stay open for hours; what one slow moment needed is not kept for it.
            self.back = Vec::new();
            self.back_at = 0;
        }
        Ok(moved)
    }

    fn complete(&mut self, link: &mut Link) {
        if self.spool.is_some() {
            // Its end is said once all of it has gone into a stream, see `settling`.
            self.download = Download::Complete { said: Ticket::NONE };
            return;
        }
        let end = BodyEnd {
            id: self.id,
            bytes: self.given,
        };
        let said = link.notify("body.end", &end);
        self.download = Download::Complete { said };
    }

    /// The agent has finished writing.
    fn ended(&mut self, io: &mut Io<'_>, now: Instant) -> Result<(), Failure> {
        match &self.download {
            Download::Body(decoder) if decoder.ends_with_connection() => {
                let until = now + DOUBT;
                self.download = Download::Doubtful { until };
                Ok(())
            }
            Download::Head { .. } if self.may_say_again() => self.say_again(io),
            Download::Head { bytes, .. } if bytes.is_empty() => Err(Failure::closed(
                "the agent closed the connection without an answer",
            )),
            Download::Head { .. }
            | Download::Body(_)
            | Download::Doubtful { .. }
            | Download::Complete { .. }
            | Download::Lingering { .. } => Err(Failure::closed(
                "the agent closed the connection in the middle of its answer",
            )),
        }
    }

    /// The agent's connection broke.
    fn broke(&mut self, error: Errno, io: &mut Io<'_>) -> Result<(), Failure> {
        if !self.agent.connected {
            return self.agent_failed(error, io);
        }
        if self.may_say_again() {
            return self.say_again(io);
        }
        let text = format!("the agent's connection broke: {}", error.desc());
        Err(Failure::closed(&text))
    }
}
