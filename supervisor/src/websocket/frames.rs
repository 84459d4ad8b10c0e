//! The frames in one direction of a connection: heads are judged, payloads counted, nothing is kept (RFC 6455 §5.2).
//!
//! Pure, and for any split into reads: bytes are judged from a place where either a payload goes on or a head begins. A head
//! that is not whole yet is left to its reader, so that no byte of a frame passes before the frame has been judged, and the
//! place after what has passed is known.
//!
//! What is refused, is refused because the far end would have to refuse it, or because it is over a bound: reserved bits and
//! opcodes, a mask where none is due or none where one is, control frames that are long or in pieces, continuations of
//! nothing, lengths that are not said as short as they can be.

/// Longest control frame's payload.
const MAX_CONTROL: u64 = 125;

/// Who sends the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Its frames are masked.
    Client,
    /// Its frames are not.
    Server,
}

/// Why bytes do not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Not the protocol.
    #[error("not a WebSocket frame: {0}")]
    Protocol(&'static str),
    /// A frame over the bound.
    #[error("a frame of {length} bytes is over the bound of {most} (limits.websocket_frame)")]
    TooBig {
        /// Its payload.
        length: u64,
        /// The bound.
        most: u64,
    },
    /// More frames than may pass now.
    #[error("too many frames in a second (limits.websocket_frame_rate)")]
    TooMany,
}

/// What was found in some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// So many of them may pass. The rest is the beginning of a head, or does not pass at all.
    pub pass: usize,
    /// Frames that have begun in them.
    pub frames: u32,
    /// Why the rest does not pass.
    pub violation: Option<Violation>,
}

/// One direction.
#[derive(Debug, Clone)]
pub struct Frames {
    side: Side,
    max_frame: u64,
    /// Payload bytes of the frame at hand that are still to come.
    left: u64,
    /// The frame at hand is a close.
    closing: bool,
    /// A message is in the middle of its pieces.
    fragmented: bool,
    /// A close has passed: nothing comes after it.
    closed: bool,
}

impl Frames {
    /// Of a side whose frames have at most `max_frame` bytes of payload.
    #[must_use]
    pub fn new(side: Side, max_frame: u64) -> Self {
        Self {
            side,
            max_frame,
            left: 0,
            closing: false,
            fragmented: false,
            closed: false,
        }
    }

    /// Whether what has passed ends with a whole frame.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.left == 0
    }

    /// Payload bytes before the next boundary.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Whether the side has said its last frame.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Judges the bytes that follow what has passed; at most `most_frames` frames may begin in them.
    pub fn judge(&mut self, bytes: &[u8], most_frames: u32) -> Judged {
        let mut judged = Judged {
            pass: 0,
            frames: 0,
            violation: None,
        };
        loop {
            let rest = &bytes[judged.pass..];
            let here = usize::try_from(self.left).map_or(rest.len(), |left| left.min(rest.len()));
            judged.pass += here;
            self.left -= here as u64;
            let rest = &rest[here..];
            if self.left > 0 {
                return judged;
            }
            self.closed |= std::mem::take(&mut self.closing);
            if rest.is_empty() || self.closed {
                return judged;
            }
            let head = match Head::read(rest) {
                Ok(Some(head)) => head,
                Ok(None) => return judged,
                Err(fault) => {
                    judged.violation = Some(Violation::Protocol(fault));
                    return judged;
                }
            };
            let violation = if judged.frames == most_frames {
                Some(Violation::TooMany)
            } else {
                self.refuses(&head)
            };
            if violation.is_some() {
                judged.violation = violation;
                return judged;
            }
            if !head.is_control() {
                self.fragmented = !head.last;
            }
            self.closing = head.opcode == Head::CLOSE;
            self.left = head.length;
            judged.pass += head.size;
            judged.frames += 1;
        }
    }

    fn refuses(&self, head: &Head) -> Option<Violation> {
        let masked = self.side == Side::Client;
        let fault = match head.opcode {
            _ if head.masked != masked => "its mask is missing, or not due",
            0 if !self.fragmented => "a continuation of nothing",
            1 | 2 if self.fragmented => "a message within another one",
            0..=2 => return self.too_big(head),
            8..=10 if !head.last => "a control frame in pieces",
            8..=10 if head.length > MAX_CONTROL => "a control frame over 125 bytes",
            // A close has no payload, or begins with its code.
            Head::CLOSE if head.length == 1 => "a close with half a code",
            8..=10 => return None,
            _ => "an opcode that means nothing",
        };
        Some(Violation::Protocol(fault))
    }

    fn too_big(&self, head: &Head) -> Option<Violation> {
        (head.length > self.max_frame).then_some(Violation::TooBig {
            length: head.length,
            most: self.max_frame,
        })
    }
}

/// A frame's head.
struct Head {
    last: bool,
    opcode: u8,
    masked: bool,
    length: u64,
    /// Its own bytes.
    size: usize,
}

impl Head {
    const CLOSE: u8 = 8;

    fn is_control(&self) -> bool {
        self.opcode >= 8
    }

    /// The head that `bytes` begin with; `None` if there is more of it to come.
    fn read(bytes: &[u8]) -> Result<Option<Self>, &'static str> {
        let [first, rest @ ..] = bytes else {
            return Ok(None);
        };
        // No extension is ever agreed on here.
        if first & 0x70 != 0 {
            return Err("reserved bits are set");
        }
        let [second, rest @ ..] = rest else {
            return Ok(None);
        };
        let masked = second & 0x80 != 0;
        let (length, extended) = match (second & 0x7f, rest) {
            (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 2),
            (127, [a, b, c, d, e, f, g, h, ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 8)
            }
            (126 | 127, _) => return Ok(None),
            (short, _) => (u64::from(short), 0),
        };
        let shortest = match extended {
            0 => true,
            2 => length > 125,
            _ => length > 0xffff && length < 1 << 63,
        };
        if !shortest {
            return Err("its length is not said as short as it can be");
        }
        let size = 2 + extended + if masked { 4 } else { 0 };
        Ok((bytes.len() >= size).then_some(Self {
            last: first & 0x80 != 0,
            opcode: first & 0x0f,
            masked,
            length,
            size,
        }))
    }
}

#[cfg(test)]
mod tests;
