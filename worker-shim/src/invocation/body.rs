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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes `wire` in pieces; the body and how much was used, or the error.
    fn decode(framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, bool), BodyError> {
        let mut decoder = Decoder::new(framing);
        let (mut body, mut used) = (Vec::new(), 0);
        for piece in pieces {
            let mut buffer = piece.to_vec();
            let decoded = decoder.decode(&mut buffer)?;
            body.extend_from_slice(&buffer[decoded.data]);
            used += decoded.consumed;
            assert_eq!(decoded.end, decoder.is_complete());
            if decoded.end {
                return Ok((body, used, true));
            }
            assert_eq!(decoded.consumed, piece.len(), "all is used until the end");
        }
        Ok((body, used, false))
    }

    fn chunked(wire: &str) -> Result<(Vec<u8>, usize, bool), BodyError> {
        decode(Framing::Chunked, &[wire.as_bytes()])
    }

    #[test]
    fn lengths() {
        assert_eq!(
            decode(Framing::Length(3), &[b"ab", b"cd"]),
            Ok((b"abc".to_vec(), 3, true))
        );
        assert!(Decoder::new(Framing::Length(0)).is_complete());
        let open = decode(Framing::UntilClose, &[b"ab", b"cd"]);
        assert_eq!(open, Ok((b"abcd".to_vec(), 4, false)));
    }

    #[test]
    fn chunks_extensions_and_trailers() {
        for (wire, body) in [
            ("0\r\n\r\n", ""),
            ("3\r\nabc\r\n0\r\n\r\n", "abc"),
            ("3;name=value\r\nabc\r\n00\r\nt: 1\r\nu: 2\r\n\r\n", "abc"),
            ("00000000000000A \r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ] {
            let found = chunked(wire);
            assert_eq!(
                found,
                Ok((body.as_bytes().to_vec(), wire.len(), true)),
                "{wire:?}"
            );
        }
        let (_, used, end) = chunked("0\r\n\r\nHTTP/1.1").expect("complete");
        assert_eq!((used, end), (5, true));
    }

    #[test]
    fn bad_chunks_are_refused() {
        for wire in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "3\nabc",
            "3\r\nabcd\r\n",
            "3\r\nabc\n0\r\n\r\n",
            "3\r\nabc0\r\n\r\n",
            "3;a\nb\r\n",
            "00000000000000001\r\n",
            "0\r\nt: 1\nu: 2\r\n\r\n",
            "0\r\n\rx",
            "0\r\nt\0\r\n",
        ] {
            assert!(chunked(wire).is_err(), "{wire:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let extension = |n: usize| chunked(&format!("0;{}\r\n\r\n", "x".repeat(n)));
        assert!(extension(MAX_EXTENSION).is_ok());
        assert!(extension(MAX_EXTENSION + 1).is_err());
        let trailer = |n: usize| chunked(&format!("0\r\n{}\r\n\r\n", "x".repeat(n)));
        assert!(trailer(MAX_TRAILER).is_ok());
        assert!(trailer(MAX_TRAILER + 1).is_err());
        let many = chunked(&format!("0\r\n{}\r\n", "t: 1\r\n".repeat(MAX_TRAILER)));
        assert!(many.is_err(), "all trailers together");
    }

    #[test]
    fn a_cut_is_never_complete() {
        let wire = "3\r\nabc\r\n0\r\nt: 1\r\n\r\n";
        for at in 0..wire.len() {
            let (_, _, end) = chunked(&wire[..at]).expect("a prefix is no error");
            assert!(!end, "{at}");
        }
    }

    fn split<'a>(wire: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut rest = wire;
        let mut pieces = Vec::new();
        for cut in cuts {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        pieces
    }

    proptest! {
        #[test]
        fn what_was_chunked_comes_out_for_any_split(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..8),
            cuts in proptest::collection::vec(0usize..20, 0..40),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let found = decode(Framing::Chunked, &split(&wire, &cuts));
            prop_assert_eq!(found, Ok((chunks.concat(), wire.len(), true)));
        }

        #[test]
        fn any_bytes_mean_the_same_in_any_split(
            wire in proptest::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'1'), Just(b';'), any::<u8>()], 0..60),
            cuts in proptest::collection::vec(0usize..8, 0..40),
        ) {
            let whole = decode(Framing::Chunked, &[&wire]);
            let pieces = decode(Framing::Chunked, &split(&wire, &cuts));
            prop_assert_eq!(whole.is_err(), pieces.is_err());
            if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
                prop_assert_eq!(whole, pieces);
            }
        }
    }
}
