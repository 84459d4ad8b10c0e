//! The request's direction: broker's stream ▸ agent's connection.

use super::request::RequestFraming;
use super::{Download, Exchange, Failure, Io, PIECE, Upload};
use crate::socket::{Read, Written};
use nix::errno::Errno;
use proto::code::ErrorCode;
use std::ops::Range;

/// First read of a body, sent in one piece with the head. Larger ones gain nothing from being copied together.
const FIRST_READ: usize = 16 * 1024;

/// Room before a chunk for its size line, and after it for its line end.
const CHUNK_FRONT: usize = 10;
const CHUNK_BACK: usize = 2;

impl Exchange {
    /// Moves one piece; says whether anything moved.
    pub(super) fn upload(&mut self, io: &mut Io<'_>) -> Result<bool, Failure> {
        if matches!(self.upload, Upload::Refused | Upload::Told) {
            return Ok(false);
        }
        let mut moved = false;
        if self.out_at == 0 && self.taken == 0 && self.upload == Upload::Open {
            moved |= self.take(io, FIRST_READ)?;
        }
        self.settle()?;
        moved |= self.send_out(io)?;
        let room = self.out_at == self.out.len() && self.agent.socket.is_writable();
        if room && self.upload == Upload::Open {
            moved |= self.take(io, usize::MAX)?;
            self.settle()?;
            moved |= self.send_out(io)?;
        }
        if self.upload == Upload::Complete && self.out_at == self.out.len() {
            if self.framing == RequestFraming::Upgrade {
                self.agent.socket.finish();
            }
            self.upload = Upload::Told;
        }
        Ok(moved)
    }

    /// Reads one piece of the request and frames it: to the agent if nothing is before it, otherwise into `out`.
    fn take(&mut self, io: &mut Io<'_>, most: usize) -> Result<bool, Failure> {
        let Some(stream) = &mut self.stream else {
            return Ok(false);
        };
        if !stream.is_readable() {
            return Ok(false);
        }
        if let Some(spool) = &mut self.spool
            && spool.skip > 0
        {
            let most = usize::try_from(spool.skip).unwrap_or(PIECE).min(PIECE);
            return match stream.read(&mut io.scratch[..most]) {
                Read::Data(n) => {
                    spool.skip -= n as u64;
                    Ok(true)
                }
                Read::Blocked => Ok(false),
                Read::End | Read::Failed(_) => {
                    self.cut();
                    Ok(true)
                }
            };
        }
        let wanted = match self.framing {
            RequestFraming::Length(length) => {
                usize::try_from(length - self.taken).unwrap_or(usize::MAX)
            }
            RequestFraming::Chunked | RequestFraming::Upgrade => usize::MAX,
        };
        let most = wanted.min(most).min(PIECE);
        let n = match stream.read(&mut io.scratch[CHUNK_FRONT..CHUNK_FRONT + most]) {
            Read::Data(n) => n,
            Read::Blocked => return Ok(false),
            Read::End | Read::Failed(_) if self.spool.is_some() => {
                self.cut();
                return Ok(true);
            }
            Read::Failed(_) => return Err(Failure::cancelled("the request was cut short")),
            Read::End => {
                self.upload = Upload::Ended;
                return Ok(true);
            }
        };
        self.taken += n as u64;
        let framed = match self.framing {
            RequestFraming::Chunked => frame_chunk(io.scratch, n),
            RequestFraming::Length(_) | RequestFraming::Upgrade => CHUNK_FRONT..CHUNK_FRONT + n,
        };
        let mut framed = &io.scratch[framed];
        if self.out_at == self.out.len() {
            self.out.clear();
            self.out_at = 0;
            match self.agent.socket.write(framed) {
                Written::Some(n) => framed = &framed[n..],
                Written::Blocked => {}
                Written::Failed(_) => {
                    self.upload = Upload::Refused;
                    return Ok(true);
                }
            }
        }
        self.out.extend_from_slice(framed);
        Ok(true)
    }

    /// No more of the request comes over this stream. If it is not whole, another one goes on with it.
    fn cut(&mut self) {
        self.upload = Upload::Cut;
        if self.spool.as_ref().is_some_and(|spool| !spool.is_heard()) {
            self.stream = None;
        }
    }

    /// Ends the upload where the bytes taken are the whole request, and fails it where they cannot be.
    fn settle(&mut self) -> Result<(), Failure> {
        if !matches!(self.upload, Upload::Open | Upload::Ended | Upload::Cut) {
            return Ok(());
        }
        let whole = match self.framing {
            RequestFraming::Length(length) => Some(length),
            RequestFraming::Chunked | RequestFraming::Upgrade => self.declared,
        };
        match whole {
            Some(whole) if whole == self.taken => {
                if self.framing == RequestFraming::Chunked {
                    self.out.extend_from_slice(b"0\r\n\r\n");
                }
                self.upload = Upload::Complete;
                Ok(())
            }
            Some(whole) if whole < self.taken => Err(Failure::new(
                ErrorCode::BadOrder,
                "the request is longer than its body.end said",
            )),
            Some(_) if self.upload == Upload::Ended => {
                Err(Failure::cancelled("the request was cut short"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn send_out(&mut self, io: &mut Io<'_>) -> Result<bool, Failure> {
        let mut moved = false;
        while self.out_at < self.out.len() && self.agent.socket.is_writable() {
            match self.agent.socket.write(&self.out[self.out_at..]) {
                Written::Some(n) => {
                    if !self.agent.connected {
                        io.ports.note_connected(&mut self.agent);
                    }
                    self.out_at += n;
                }
                Written::Blocked => break,
                Written::Failed(error) => {
                    self.agent_failed(error, io)?;
                    if self.upload == Upload::Refused {
                        return Ok(true);
                    }
                }
            }
            moved = true;
        }
        Ok(moved)
    }

    /// The agent's connection failed while the request was being sent: try its other address, or a fresh connection, or
    /// give the upload up.
    pub(super) fn agent_failed(&mut self, error: Errno, io: &mut Io<'_>) -> Result<(), Failure> {
        if !self.agent.connected {
            self.agent = match io.ports.redial(io.poller, &self.agent, error) {
                Some(Ok(next)) => next,
                Some(Err(error)) => return Err(Failure::unreachable(error)),
                None => return Err(Failure::unreachable(error)),
            };
            return Ok(());
        }
        if self.may_say_again() {
            return self.say_again(io);
        }
        // It may have answered before it closed; the download will tell.
        self.upload = Upload::Refused;
        Ok(())
    }

    /// Whether the agent closed a kept connection just when it was used, and the request may be said once more: nobody can
    /// have acted on it, because not a byte of it went out, or acting on it twice does no harm and all of it is still here.
    /// (A POST without a body is sent whole with its head: an agent that died of it must not get it a second time.)
    pub(super) fn may_say_again(&self) -> bool {
        let silent =
            matches!(&self.download, Download::Head { bytes, interim: 0 } if bytes.is_empty());
        let harmless = self.out_at == 0 || self.idempotent;
        self.agent.reused && self.taken == 0 && silent && harmless
    }

    /// Says the request again, on a connection of its own: that one is not `reused`, so there is no third time.
    pub(super) fn say_again(&mut self, io: &mut Io<'_>) -> Result<(), Failure> {
        self.agent = io
            .ports
            .dial_again(io.poller, &self.agent)
            .map_err(Failure::unreachable)?;
        self.out_at = 0;
        if self.upload == Upload::Told {
            self.upload = Upload::Complete;
        }
        Ok(())
    }
}

/// Frames the `n` bytes at [`CHUNK_FRONT`] as a chunk, in place.
fn frame_chunk(scratch: &mut [u8], n: usize) -> Range<usize> {
    let size = format!("{n:x}\r\n");
    let start = CHUNK_FRONT - size.len();
    scratch[start..CHUNK_FRONT].copy_from_slice(size.as_bytes());
    let end = CHUNK_FRONT + n;
    scratch[end..end + CHUNK_BACK].copy_from_slice(b"\r\n");
    start..end + CHUNK_BACK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_framed_in_place() {
        let mut scratch = vec![b'x'; CHUNK_FRONT + 0x1234 + CHUNK_BACK];
        let framed = frame_chunk(&mut scratch, 0x1234);
        assert!(scratch[framed.clone()].starts_with(b"1234\r\nxxx"));
        assert!(scratch[framed.clone()].ends_with(b"xxx\r\n"));
        assert_eq!(framed.len(), 6 + 0x1234 + 2);
    }
}
