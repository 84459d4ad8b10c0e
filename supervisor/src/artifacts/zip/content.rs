//! An entry's content, inflated and held to its announced size and checksum.

use super::super::{ArtifactError, Refusal};
use super::bytes::{Packed, Stretch};
use super::entry::{Central, Method, Span};
use flate2::Crc;
use flate2::bufread::DeflateDecoder;
use std::io::{self, BufReader, Read};

/// Content as a stream; complete only after [`Content::finish`].
pub(super) struct Content<'a> {
    source: Source<'a>,
    crc: Crc,
    left: u64,
    expected_crc: u32,
    packed_size: u64,
}

enum Source<'a> {
    Stored(Stretch<'a>),
    Deflated(DeflateDecoder<BufReader<Stretch<'a>>>),
}

impl<'a> Content<'a> {
    pub(super) fn open(
        packed: &Packed<'a>,
        central: &Central,
        span: Span,
    ) -> Result<Self, ArtifactError> {
        let stretch = Stretch {
            packed: *packed,
            at: span.start,
            end: span.end,
        };
        let source = match central.method {
            Method::Stored if central.packed_size != central.size => {
                return Err(
                    Refusal::Malformed("it is stored as it is, but in another size").whole(),
                );
            }
            Method::Stored => Source::Stored(stretch),
            Method::Deflated => Source::Deflated(DeflateDecoder::new(BufReader::new(stretch))),
        };
        Ok(Self {
            source,
            crc: Crc::new(),
            left: central.size,
            expected_crc: central.crc,
            packed_size: central.packed_size,
        })
    }

    /// Checks that all came, that nothing more would come, and that it is what was packed.
    pub(super) fn finish(mut self) -> Result<(), ArtifactError> {
        if self.left != 0 {
            return Err(Refusal::Content("is shorter than announced").whole());
        }
        // Also makes the decoder see the end of its stream.
        let more = self
            .source
            .read(&mut [0])
            .map_err(super::super::tree::unwrap)?;
        if more != 0 {
            return Err(Refusal::Content("is longer than announced").whole());
        }
        if let Source::Deflated(decoder) = &self.source
            && decoder.total_in() != self.packed_size
        {
            return Err(Refusal::Stray("after its compressed content").whole());
        }
        if self.crc.sum() != self.expected_crc {
            return Err(Refusal::Content("does not match its checksum").whole());
        }
        Ok(())
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.source.read(&mut buffer[..most])?;
        self.crc.update(&buffer[..count]);
        self.left -= count as u64;
        Ok(count)
    }
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Stored(stretch) => stretch.read(buffer),
            Self::Deflated(decoder) => decoder.read(buffer),
        }
    }
}
