//! The inflated stream: bounded while it runs, complete and alone at its end.

use super::super::budget::Budget;
use super::super::tree::unwrap;
use super::super::{ArtifactError, Refusal};
use flate2::bufread::GzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

/// A tar archive ends with two blocks of zeros.
const END: u64 = 1024;

/// One gzip member's content.
pub(super) struct Inflated<'a> {
    decoder: GzDecoder<BufReader<&'a File>>,
    /// A budget of its own for the stream: that of the files is in use while this one is read.
    budget: Budget,
    total: u64,
    trailing_zeros: u64,
}

impl<'a> Inflated<'a> {
    pub(super) fn new(packed: &'a File, budget: &Budget) -> Result<Self, ArtifactError> {
        let mut packed = packed;
        io::Seek::rewind(&mut packed).map_err(|e| ArtifactError::io("read", "the upload", e))?;
        Ok(Self {
            decoder: GzDecoder::new(BufReader::with_capacity(64 << 10, packed)),
            budget: budget.alike(),
            total: 0,
            trailing_zeros: 0,
        })
    }

    /// Reads what follows the last entry: nothing but zeros, the end of the member with its checksum, the end of the file.
    pub(super) fn finish(mut self) -> Result<(), ArtifactError> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.read(&mut buffer).map_err(failure)? {
                0 => break,
                count if buffer[..count].iter().any(|b| *b != 0) => {
                    return Err(Refusal::Stray("after its end").whole());
                }
                _ => {}
            }
        }
        if self.trailing_zeros < END {
            return Err(Refusal::Malformed("it breaks off before its end mark").whole());
        }
        let mut packed = self.decoder.into_inner();
        match packed.fill_buf() {
            Ok([]) => Ok(()),
            Ok(_) => Err(Refusal::Stray("after its compressed part").whole()),
            Err(error) => Err(ArtifactError::io("read", "the upload", error)),
        }
    }
}

impl Read for Inflated<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.read(buffer)?;
        self.total += count as u64;
        self.budget.stream(self.total).map_err(io::Error::other)?;
        let zeros = buffer[..count]
            .iter()
            .rev()
            .take_while(|b| **b == 0)
            .count();
        self.trailing_zeros = if zeros == count {
            self.trailing_zeros
        } else {
            0
        } + zeros as u64;
        Ok(count)
    }
}

/// What a failed read of the archive says.
pub(super) fn failure(error: io::Error) -> ArtifactError {
    // The tar crate's own errors are all of this kind; flate2's are not.
    if error.kind() == io::ErrorKind::Other
        && !error.get_ref().is_some_and(|e| e.is::<ArtifactError>())
    {
        return Refusal::Malformed("a header is damaged, or it breaks off").whole();
    }
    unwrap(error)
}
