//! The body of an agent's answer: framed bytes ▸ plain bytes, in place, for any split into reads.
//!
//! The chunked grammar (RFC 9112 §7.1) is read strictly: CRLF only, hexadecimal sizes of at most 16 digits, extensions
//! and trailers skipped within [`MAX_EXTENSION`] and [`MAX_TRAILER`]. A reader that is lenient where the next is not is a
//! smuggling hole; here the bytes are framed anew, so all that leniency would gain is a wrong body.

use super::head::Framing;
use std::ops::Range;

/// Most bytes of one chunk's extension.
pub const MAX_EXTENSION: usize = 256;

/// Most bytes of all trailers together.
pub const MAX_TRAILER: usize = 8 * 1024;

/// Why bytes are not the body that the head promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not the chunked grammar.
    #[error("the chunked body is malformed: {0}")]
    Chunk(&'static str),
}

/// What one piece of input held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Where the body's bytes are now in the input buffer.
    pub data: Range<usize>,
    /// Input bytes used; less than all only at the body's end.
    pub consumed: usize,
    /// The body is complete.
    pub end: bool,
}

/// Reads one body.
#[derive(Debug, Clone)]
pub enum Decoder {
    /// This many bytes are still to come.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// Everything until the connection closes.
    UntilClose,
}

/// Place within the chunked grammar.
#[derive(Debug, Clone)]
pub struct Chunks {
    at: At,
    /// Size of the chunk being announced, or bytes of it still to come.
    left: u64,
    /// Digits, or bytes of extension or trailers, seen so far.
    seen: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line; an empty one ends the body.
    Line,
    Trailer,
    TrailerLf,
    LastLf,
    End,
}

impl Decoder {
    /// For a body framed like this.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunks {
                at: At::Size,
                left: 0,
                seen: 0,
            }),
            Framing::UntilClose | Framing::Upgraded => Self::UntilClose,
        }
    }

    /// Complete without another byte.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.at == At::End,
            Self::UntilClose => false,
        }
    }

    /// Whether the end of the connection is this body's proper end.
    #[must_use]
    pub fn ends_with_connection(&self) -> bool {
        matches!(self, Self::UntilClose)
    }

    /// How many more bytes are surely plain body, without any framing between: what may be spliced.
    #[must_use]
    pub fn plain_ahead(&self) -> u64 {
        match self {
            Self::Length(left) => *left,
            Self::Chunked(_) => 0,
            Self::UntilClose => u64::MAX,
        }
    }

    /// Says that `n` bytes of [`Self::plain_ahead`] went past the decoder.
    pub fn passed(&mut self, n: u64) {
        if let Self::Length(left) = self {
            *left = left.saturating_sub(n);
        }
    }

    /// Takes the next bytes. The body's bytes are moved together inside `buffer`, so that one write takes them all.
    pub fn decode(&mut self, buffer: &mut [u8]) -> Result<Decoded, BodyError> {
        match self {
            Self::Length(left) => {
                let take = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                *left -= take as u64;
                Ok(Decoded {
                    data: 0..take,
                    consumed: take,
                    end: *left == 0,
                })
            }
            Self::Chunked(chunks) => chunks.decode(buffer),
            Self::UntilClose => Ok(Decoded {
                data: 0..buffer.len(),
                consumed: buffer.len(),
                end: false,
            }),
        }
    }
}

impl Chunks {
    fn decode(&mut self, buffer: &mut [u8]) -> Result<Decoded, BodyError> {
        let mut data: Option<Range<usize>> = None;
        let mut at = 0;
        while at < buffer.len() && self.at != At::End {
            if self.at == At::Data {
                let take = usize::try_from(self.left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len() - at);
                data = Some(match data {
                    // The first piece stays where it is; later ones are moved up to it.
                    None => at..at + take,
                    Some(so_far) => {
                        buffer.copy_within(at..at + take, so_far.end);
                        so_far.start..so_far.end + take
                    }
                });
                at += take;
                self.left -= take as u64;
                if self.left == 0 {
                    self.at = At::DataCr;
                }
            } else {
                self.framing_byte(buffer[at])?;
                at += 1;
            }
        }
        Ok(Decoded {
            data: data.unwrap_or(0..0),
            consumed: at,
            end: self.at == At::End,
        })
    }

    fn framing_byte(&mut self, byte: u8) -> Result<(), BodyError> {
        self.at = match self.at {
            At::Size => return self.size_byte(byte),
            At::Extension => match byte {
                b'\r' => At::SizeLf,
                b'\t' | b' '..=b'~' | 0x80.. => {
                    self.count(MAX_EXTENSION, "an extension that is too long")?;
                    At::Extension
                }
                _ => return Err(BodyError::Chunk("a control character in an extension")),
            },
            At::SizeLf => {
                expect(byte, b'\n', "no line feed after a chunk's size")?;
                self.seen = 0;
                if self.left == 0 { At::Line } else { At::Data }
            }
            At::DataCr => {
                expect(byte, b'\r', "a chunk longer than its size")?;
                At::DataLf
            }
            At::DataLf => {
                expect(byte, b'\n', "a chunk longer than its size")?;
                self.seen = 0;
                At::Size
            }
            At::Line if byte == b'\r' => At::LastLf,
            At::Line | At::Trailer => match byte {
                b'\r' => At::TrailerLf,
                b'\n' | 0 => return Err(BodyError::Chunk("a control character in a trailer")),
                _ => {
                    self.count(MAX_TRAILER, "trailers that are too long")?;
                    At::Trailer
                }
            },
            At::TrailerLf => {
                expect(byte, b'\n', "no line feed after a trailer")?;
                At::Line
            }
            At::LastLf => {
                expect(byte, b'\n', "no line feed after the last chunk")?;
                At::End
            }
            At::Data | At::End => unreachable!("decode() does not send these here"),
        };
        Ok(())
    }

    fn size_byte(&mut self, byte: u8) -> Result<(), BodyError> {
        let digit = char::from(byte).to_digit(16);
        match (digit, byte) {
            (Some(_), _) if self.seen == 16 => {
                return Err(BodyError::Chunk("a size of over 16 digits"));
            }
            (Some(digit), _) => {
                self.left = self.left << 4 | u64::from(digit);
                self.seen += 1;
            }
            (None, _) if self.seen == 0 => return Err(BodyError::Chunk("a size without digits")),
            (None, b'\r') => self.at = At::SizeLf,
            (None, b';' | b' ' | b'\t') => {
                self.seen = 0;
                self.at = At::Extension;
            }
            (None, _) => return Err(BodyError::Chunk("a size that is not hexadecimal")),
        }
        Ok(())
    }

    fn count(&mut self, most: usize, what: &'static str) -> Result<(), BodyError> {
        self.seen += 1;
        if self.seen > most {
            return Err(BodyError::Chunk(what));
        }
        Ok(())
    }
}

fn expect(found: u8, wanted: u8, what: &'static str) -> Result<(), BodyError> {
    if found == wanted {
        Ok(())
    } else {
        Err(BodyError::Chunk(what))
    }
}
