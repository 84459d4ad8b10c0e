//! Where the central directory is and how many entries it has: the records at the end of the file.

use super::super::budget::Budget;
use super::super::{ArtifactError, Refusal};
use super::bytes::{Fields, Packed};
use super::entry::Central;

const END: &[u8] = b"PK\x05\x06";
const END_LENGTH: u64 = 22;
const MAX_COMMENT: u64 = 65_535;
const LOCATOR: &[u8] = b"PK\x06\x07";
const LOCATOR_LENGTH: u64 = 20;
const END64: &[u8] = b"PK\x06\x06";
const END64_LENGTH: u64 = 56;

/// What 16 and 32 bit fields hold when the number is in the zip64 record.
const ELSEWHERE_16: u16 = u16::MAX;
const ELSEWHERE_32: u32 = u32::MAX;

/// The central directory.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) start: u64,
    end: u64,
    pub(super) entries: u64,
}

/// Where the two headers of an entry are. The rest is read again when its turn comes: two hundred thousand names would be
/// too much to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) local: u64,
    pub(super) central: u64,
}

impl Directory {
    /// Finds it from the end record, and its zip64 double if there is one.
    pub(super) fn find(packed: &Packed<'_>) -> Result<Self, ArtifactError> {
        let at = end_record(packed)?;
        let record = packed.at(at, 22)?;
        let mut fields = Fields(&record[4..]);
        let disks = (fields.u16()?, fields.u16()?);
        let counts = (fields.u16()?, fields.u16()?);
        let (size, start) = (fields.u32()?, fields.u32()?);
        if disks != (0, 0) || counts.0 != counts.1 {
            return Err(Refusal::Unsupported("several volumes").whole());
        }
        let found = match zip64(packed, at)? {
            None => Self::checked(u64::from(start), u64::from(size), u64::from(counts.0), at)?,
            Some((found, size64)) => {
                let agree =
                    |short: u32, none: u32, long: u64| short == none || u64::from(short) == long;
                let same = agree(size, ELSEWHERE_32, size64)
                    && agree(start, ELSEWHERE_32, found.start)
                    && agree(u32::from(counts.0), u32::from(ELSEWHERE_16), found.entries);
                if !same {
                    return Err(Refusal::Malformed("its two end records disagree").whole());
                }
                found
            }
        };
        Ok(found)
    }

    /// The directory must end exactly where the next record begins.
    fn checked(start: u64, size: u64, entries: u64, end: u64) -> Result<Self, ArtifactError> {
        if start.checked_add(size) != Some(end) {
            return Err(
                Refusal::Malformed("its directory is not where its end record says").whole(),
            );
        }
        Ok(Self {
            start,
            end,
            entries,
        })
    }

    /// The places of all entries, in the order in which they lie; their announced sizes are charged at once, so that a
    /// bundle that is too large is refused before anything is written.
    pub(super) fn places(
        &self,
        packed: &Packed<'_>,
        budget: &Budget,
    ) -> Result<Vec<Place>, ArtifactError> {
        let mut announced = budget.alike();
        let mut places = Vec::new();
        let mut at = self.start;
        for _ in 0..self.entries {
            let (central, end) = Central::read(packed, at)?;
            if end > self.end {
                return Err(Refusal::Malformed("its directory is longer than it says").whole());
            }
            announced.bytes(central.size)?;
            places.push(Place {
                local: central.local,
                central: at,
            });
            at = end;
        }
        if at != self.end {
            return Err(Refusal::Stray("in its directory").whole());
        }
        places.sort_unstable();
        Ok(places)
    }
}

/// The place of the one end record whose comment reaches to the end of the file.
fn end_record(packed: &Packed<'_>) -> Result<u64, ArtifactError> {
    let reach = packed.length.min(END_LENGTH + MAX_COMMENT);
    let base = packed.length - reach;
    // At most 65,557 bytes.
    let tail = packed.at(base, usize::try_from(reach).unwrap_or(usize::MAX))?;
    let mut found = None;
    for at in 0..tail.len().saturating_sub(21) {
        if !tail[at..].starts_with(END) {
            continue;
        }
        let comment = usize::from(u16::from_le_bytes([tail[at + 20], tail[at + 21]]));
        if at + 22 + comment != tail.len() {
            continue;
        }
        if found.replace(base + at as u64).is_some() {
            return Err(Refusal::Malformed("it has two end records").whole());
        }
    }
    found.ok_or_else(|| Refusal::Malformed("it has no end record, or bytes after it").whole())
}

/// The directory and its size by the zip64 record that belongs to the end record at `end`, if there is one.
fn zip64(packed: &Packed<'_>, end: u64) -> Result<Option<(Directory, u64)>, ArtifactError> {
    let Some(at) = end.checked_sub(LOCATOR_LENGTH) else {
        return Ok(None);
    };
    let locator = packed.at(at, 20)?;
    if !locator.starts_with(LOCATOR) {
        return Ok(None);
    }
    let wrong = || Refusal::Malformed("its zip64 end record is not as it should be").whole();
    let mut fields = Fields(&locator[4..]);
    let (disk, start, disks) = (fields.u32()?, fields.u64()?, fields.u32()?);
    // Exactly between directory and locator: a longer one has room for things that nobody reads.
    if disk != 0 || disks > 1 || start.checked_add(END64_LENGTH) != Some(at) {
        return Err(wrong());
    }
    let record = packed.at(start, 56)?;
    let mut fields = Fields(&record);
    let (magic, length) = (fields.take(4)?, fields.u64()?);
    let _versions = (fields.u16()?, fields.u16()?);
    let disks = (fields.u32()?, fields.u32()?);
    let counts = (fields.u64()?, fields.u64()?);
    let (size, directory) = (fields.u64()?, fields.u64()?);
    let sound =
        magic == END64 && length == END64_LENGTH - 12 && disks == (0, 0) && counts.0 == counts.1;
    if !sound {
        return Err(wrong());
    }
    Ok(Some((
        Directory::checked(directory, size, counts.0, start)?,
        size,
    )))
}
