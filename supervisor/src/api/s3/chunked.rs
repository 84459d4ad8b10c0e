//! `aws-chunked`: SDKs frame a body so when its checksum follows it (over TLS, or from a stream).
//!
//! ```text
//! 400;chunk-signature=…\r\n        hexadecimal length, what is after the semicolon is not looked at
//! …1024 bytes…\r\n
//! 0\r\n
//! x-amz-checksum-crc32:AAAAAA==\r\n
//! \r\n
//! ```

use bytes::{Bytes, BytesMut};

/// Longest line: a length with its signature, or a trailer.
const MAX_LINE: usize = 1024;

/// Most trailers.
const MAX_TRAILERS: usize = 16;

/// Largest chunk that is believed in; SDKs send 64 KiB to 1 MiB.
const MAX_CHUNK: u64 = 1 << 32;

/// Takes the framing off, piece by piece.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    state: State,
    line: BytesMut,
    trailers: Vec<(String, String)>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the line of a length.
    #[default]
    Length,
    /// So many bytes of a chunk are to come.
    Data(u64),
    /// In the line end after a chunk.
    AfterData,
    /// In a trailer's line.
    Trailer,
    /// After the empty line.
    Over,
}

/// The framing is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not framed as aws-chunked")]
pub(super) struct Broken;

impl Chunked {
    /// Takes the next bytes; what of them is the body's own.
    pub(super) fn feed(&mut self, mut bytes: Bytes) -> Result<Vec<Bytes>, Broken> {
        let mut data = Vec::new();
        while !bytes.is_empty() {
            match self.state {
                State::Data(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    data.push(bytes.split_to(here));
                    self.state = match left - here as u64 {
                        0 => State::AfterData,
                        left => State::Data(left),
                    };
                }
                State::Over => return Err(Broken),
                State::Length | State::AfterData | State::Trailer => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let here = bytes.split_to(end.map_or(bytes.len(), |at| at + 1));
                    self.line.extend_from_slice(&here);
                    if self.line.len() > MAX_LINE {
                        return Err(Broken);
                    }
                    if end.is_some() {
                        self.end_line()?;
                    }
                }
            }
        }
        Ok(data)
    }

    /// The trailers, once all has come.
    pub(super) fn finish(self) -> Result<Vec<(String, String)>, Broken> {
        match self.state {
            State::Over => Ok(self.trailers),
            State::Length | State::Data(_) | State::AfterData | State::Trailer => Err(Broken),
        }
    }

    fn end_line(&mut self) -> Result<(), Broken> {
        let line = self.line.split();
        let line = std::str::from_utf8(&line)
            .ok()
            .and_then(|line| line.strip_suffix("\r\n"))
            .ok_or(Broken)?;
        self.state = match self.state {
            State::Length => {
                let digits = line.split(';').next().unwrap_or_default().trim();
                let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                match u64::from_str_radix(digits, 16) {
                    Ok(0) if plain => State::Trailer,
                    Ok(length) if plain && length <= MAX_CHUNK => State::Data(length),
                    Ok(_) | Err(_) => return Err(Broken),
                }
            }
            State::AfterData if line.is_empty() => State::Length,
            State::Trailer if line.is_empty() => State::Over,
            State::Trailer if self.trailers.len() < MAX_TRAILERS => {
                let (name, value) = line.split_once(':').ok_or(Broken)?;
                let name = name.trim().to_ascii_lowercase();
                self.trailers.push((name, value.trim().to_owned()));
                State::Trailer
            }
            State::AfterData | State::Trailer | State::Data(_) | State::Over => {
                return Err(Broken);
            }
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BODY: &[u8] =
        b"5;chunk-signature=ab\r\nhello\r\n1\r\n!\r\n0\r\nX-Amz-Checksum-Crc32: q==\r\n\r\n";

    type Read = (Vec<u8>, Vec<(String, String)>);

    fn read(pieces: &[&[u8]]) -> Result<Read, Broken> {
        let mut chunked = Chunked::default();
        let mut all = Vec::new();
        for piece in pieces {
            for data in chunked.feed(Bytes::copy_from_slice(piece))? {
                all.extend_from_slice(&data);
            }
        }
        Ok((all, chunked.finish()?))
    }

    #[test]
    fn the_framing_comes_off_wherever_it_is_cut() {
        for at in 0..=BODY.len() {
            let (data, trailers) = read(&[&BODY[..at], &BODY[at..]]).expect("sound");
            assert_eq!(data, b"hello!");
            assert_eq!(
                trailers,
                [("x-amz-checksum-crc32".to_owned(), "q==".to_owned())]
            );
        }
    }

    #[test]
    fn broken_framing_is_told() {
        for bad in [
            &b""[..],
            b"0\r\n",
            b"5\r\nhell",
            b"5\r\nhelloX\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"fffffffffffff\r\n",
            b"0\r\n\r\nmore",
            b"5\nhello\r\n",
        ] {
            assert_eq!(
                read(&[bad]),
                Err(Broken),
                "{}",
                String::from_utf8_lossy(bad)
            );
        }
        assert_eq!(read(&[&[b'1'; 2000]]), Err(Broken));
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..8)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let _ = read(&pieces);
        }
    }
}
