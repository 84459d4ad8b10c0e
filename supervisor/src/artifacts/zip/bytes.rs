//! Reading little-endian structures at given places of the packed file.

use super::super::{ArtifactError, Refusal};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// The packed file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packed<'a> {
    pub(super) file: &'a File,
    pub(super) length: u64,
}

impl Packed<'_> {
    /// `count` bytes from `start`; a fault of the archive if it does not have them.
    pub(super) fn at(&self, start: u64, count: usize) -> Result<Vec<u8>, ArtifactError> {
        let inside = start
            .checked_add(count as u64)
            .is_some_and(|end| end <= self.length);
        if !inside {
            return Err(Refusal::Malformed("it points outside itself, or breaks off").whole());
        }
        let mut bytes = vec![0; count];
        self.file
            .read_exact_at(&mut bytes, start)
            .map_err(|e| ArtifactError::io("read", "the upload", e))?;
        Ok(bytes)
    }
}

/// A stretch of the packed file as a stream.
#[derive(Debug)]
pub(super) struct Stretch<'a> {
    pub(super) packed: Packed<'a>,
    pub(super) at: u64,
    pub(super) end: u64,
}

impl Read for Stretch<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        let count = self.packed.file.read_at(&mut buffer[..most], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// Takes numbers off the front of a structure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], ArtifactError> {
        let (head, tail) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| Refusal::Malformed("a header is too short").whole())?;
        self.0 = tail;
        Ok(head)
    }

    fn number(&mut self, width: usize) -> Result<u64, ArtifactError> {
        Ok(self
            .take(width)?
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    pub(super) fn u16(&mut self) -> Result<u16, ArtifactError> {
        // Two bytes fit.
        Ok(u16::try_from(self.number(2)?).unwrap_or(u16::MAX))
    }

    pub(super) fn u32(&mut self) -> Result<u32, ArtifactError> {
        // Four bytes fit.
        Ok(u32::try_from(self.number(4)?).unwrap_or(u32::MAX))
    }

    pub(super) fn u64(&mut self) -> Result<u64, ArtifactError> {
        self.number(8)
    }
}
