//! Bytes being received: written, counted and hashed.

use super::used::{OVERHEAD, Used};
use super::{MAX_OBJECT, ObjectError, Room};
use crate::owner::Principal;
use bytes::Bytes;
use md5::Md5;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use tempfile::{NamedTempFile, TempPath};

/// A file that is not an object yet. Dropping it removes it.
#[derive(Debug)]
pub struct Incoming {
    file: NamedTempFile,
    charge: Charge,
    room: Room,
    size: u64,
    md5: Md5,
    sha256: Sha256,
    crc32: crc32fast::Hasher,
}

/// Bytes counted against the bounds; given back when dropped.
#[derive(Debug)]
struct Charge {
    used: Used,
    maker: Principal,
    bytes: u64,
}

impl Charge {
    fn add(&mut self, bytes: u64, room: Room) -> Result<(), ObjectError> {
        self.used.take(&self.maker, bytes, room)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.used.give_back(&self.maker, self.bytes);
    }
}

/// What the bytes come down to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// How many.
    pub size: u64,
    /// MD5, which is the ETag of a body that came whole.
    pub md5: [u8; 16],
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// SHA-256.
    pub sha256_bytes: [u8; 32],
    /// CRC-32 (ISO-HDLC).
    pub crc32: u32,
}

impl Incoming {
    pub(super) fn begin(
        directory: &Path,
        used: Used,
        maker: Principal,
        room: Room,
    ) -> Result<Self, ObjectError> {
        let mut charge = Charge {
            used,
            maker,
            bytes: 0,
        };
        charge.add(OVERHEAD, room)?;
        let file = NamedTempFile::new_in(directory).map_err(|source| ObjectError::File {
            verb: "create",
            path: directory.to_owned(),
            source,
        })?;
        Ok(Self {
            file,
            charge,
            room,
            size: 0,
            md5: Md5::new(),
            sha256: Sha256::new(),
            crc32: crc32fast::Hasher::new(),
        })
    }

    /// Takes the next bytes, off the event loop.
    pub async fn take(mut self, bytes: Bytes) -> Result<Self, ObjectError> {
        super::blocking(move || {
            self.write(&bytes)?;
            Ok(self)
        })
        .await
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        let count = bytes.len() as u64;
        if self.size.saturating_add(count) > MAX_OBJECT {
            return Err(ObjectError::TooLarge);
        }
        self.charge.add(count, self.room)?;
        self.size += count;
        self.md5.update(bytes);
        self.sha256.update(bytes);
        self.crc32.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(|source| self.fault("write", source))
    }

    /// What came so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let sha256_bytes: [u8; 32] = self.sha256.clone().finalize().into();
        Digest {
            size: self.size,
            md5: self.md5.clone().finalize().into(),
            sha256: hex(&sha256_bytes),
            sha256_bytes,
            crc32: self.crc32.clone().finalize(),
        }
    }

    /// Complete, and at rest: it keeps its file and its bytes counted, but no descriptor.
    pub(super) fn rest(self) -> AtRest {
        AtRest {
            digest: self.digest(),
            path: self.file.into_temp_path(),
            _charge: self.charge,
        }
    }

    /// Syncs the file and gives it its name; its bytes stay counted, and are told.
    pub(super) fn keep(mut self, target: &Path) -> Result<u64, ObjectError> {
        self.file
            .as_file()
            .sync_all()
            .map_err(|source| self.fault("sync", source))?;
        let Self { file, charge, .. } = &mut self;
        let fault = |verb, source| ObjectError::File {
            verb,
            path: target.to_owned(),
            source,
        };
        std::fs::rename(file.path(), target).map_err(|source| fault("rename", source))?;
        let directory = target.parent().unwrap_or(Path::new("."));
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| fault("sync", source))?;
        Ok(std::mem::take(&mut charge.bytes))
    }

    pub(super) fn fault(&self, verb: &'static str, source: io::Error) -> ObjectError {
        ObjectError::File {
            verb,
            path: self.file.path().to_owned(),
            source,
        }
    }
}

/// A file that is complete, and not an object yet. Dropping it removes it.
#[derive(Debug)]
pub(super) struct AtRest {
    path: TempPath,
    pub(super) digest: Digest,
    _charge: Charge,
}

impl AtRest {
    /// The bytes, to be read from their beginning.
    pub(super) fn open(&self) -> Result<File, ObjectError> {
        File::open(&self.path).map_err(|source| self.fault("open", source))
    }

    pub(super) fn fault(&self, verb: &'static str, source: io::Error) -> ObjectError {
        ObjectError::File {
            verb,
            path: self.path.to_path_buf(),
            source,
        }
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
