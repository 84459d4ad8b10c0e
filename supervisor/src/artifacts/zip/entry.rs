//! The two headers of an entry, and what they must agree on.

use super::super::{ArtifactError, Refusal};
use super::bytes::{Fields, Packed};

const CENTRAL: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";
const DESCRIPTOR: &[u8] = b"PK\x07\x08";
const CENTRAL_LENGTH: u64 = 46;
const LOCAL_LENGTH: u64 = 30;

/// What a 32 bit size holds when the number is in the zip64 field.
const ELSEWHERE: u32 = u32::MAX;

/// General purpose flags.
mod flag {
    pub(super) const ENCRYPTED: u16 = 1;
    /// Checksum and sizes come after the content.
    pub(super) const DESCRIPTOR: u16 = 1 << 3;
    pub(super) const PATCH: u16 = 1 << 5;
    pub(super) const STRONG: u16 = 1 << 6;
    pub(super) const UTF8: u16 = 1 << 11;
    pub(super) const MASKED: u16 = 1 << 13;
}

/// Extra fields.
mod extra {
    pub(super) const ZIP64: u16 = 0x0001;
    pub(super) const TIMES: u16 = 0x5455;
    pub(super) const UNICODE_PATH: u16 = 0x7075;
}

/// How content is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Stored,
    Deflated,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File { executable: bool },
    Directory,
    Symlink,
}

/// An entry as the central directory tells it.
#[derive(Debug)]
pub(super) struct Central {
    pub(super) name: Vec<u8>,
    pub(super) method: Method,
    pub(super) crc: u32,
    pub(super) packed_size: u64,
    pub(super) size: u64,
    pub(super) local: u64,
    /// Seconds since the epoch.
    pub(super) modified: i64,
    flags: u16,
    /// As stat(2) has it, where the packer was a Unix one.
    mode: Option<u32>,
}

/// Where an entry's content lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Central {
    /// Reads the header at `at`; also gives where it ends.
    pub(super) fn read(packed: &Packed<'_>, at: u64) -> Result<(Self, u64), ArtifactError> {
        let head = packed.at(at, 46)?;
        let mut fields = Fields(&head);
        if fields.take(4)? != CENTRAL {
            return Err(Refusal::Malformed("its directory has something that is no entry").whole());
        }
        let made_by = fields.u16()?;
        let _needed = fields.u16()?;
        let (flags, method, time, date) =
            (fields.u16()?, fields.u16()?, fields.u16()?, fields.u16()?);
        let crc = fields.u32()?;
        let (packed_size, size) = (fields.u32()?, fields.u32()?);
        let lengths = [fields.u16()?, fields.u16()?, fields.u16()?].map(usize::from);
        let disk = fields.u16()?;
        let _internal = fields.u16()?;
        let external = fields.u32()?;
        let local = fields.u32()?;
        let tail = packed.at(at + CENTRAL_LENGTH, lengths.iter().sum())?;
        let mut fields = Fields(&tail);
        let name = fields.take(lengths[0])?.to_vec();
        let extra = Extra::read(fields.take(lengths[1])?, [size, packed_size, local])
            .map_err(|e| e.at(&name))?;
        if disk != 0 {
            return Err(Refusal::Unsupported("several volumes").of(&name));
        }
        let read = Self {
            method: method_of(method, flags).map_err(|e| e.at(&name))?,
            crc,
            size: extra.sizes[0],
            packed_size: extra.sizes[1],
            local: extra.sizes[2],
            modified: extra.modified.unwrap_or_else(|| dos_time(date, time)),
            flags,
            mode: (made_by >> 8 == 3).then_some(external >> 16),
            name,
        };
        read.check_name(&extra)?;
        Ok((read, at + CENTRAL_LENGTH + tail.len() as u64))
    }

    /// A name that is not UTF-8 is refused later; here it is about names that could be read in two ways.
    fn check_name(&self, extra: &Extra<'_>) -> Result<(), ArtifactError> {
        let differs = extra.unicode_path.is_some_and(|path| path != self.name);
        let unmarked = self.flags & flag::UTF8 == 0 && !self.name.is_ascii();
        if differs || (unmarked && extra.unicode_path.is_none()) {
            return Err(
                Refusal::Path("is not marked as UTF-8, or has a second form").of(&self.name),
            );
        }
        Ok(())
    }

    /// What it is: by its mode where it has one, and by the slash at the end of its name.
    pub(super) fn kind(&self) -> Result<Kind, ArtifactError> {
        let slash = self.name.ends_with(b"/");
        let mode = self.mode.unwrap_or(0);
        let kind = match (mode & 0o170_000, slash) {
            (0o040_000 | 0, true) => Kind::Directory,
            (0o100_000 | 0, false) => Kind::File {
                executable: mode & 0o100 != 0,
            },
            (0o120_000, false) => Kind::Symlink,
            (0o040_000 | 0o100_000 | 0o120_000, _) => {
                return Err(
                    Refusal::Malformed("its name and its mode disagree about what it is").whole(),
                );
            }
            (0o020_000, _) => return Err(Refusal::Kind("character device").whole()),
            (0o060_000, _) => return Err(Refusal::Kind("block device").whole()),
            (0o010_000, _) => return Err(Refusal::Kind("FIFO").whole()),
            (0o140_000, _) => return Err(Refusal::Kind("socket").whole()),
            (_, _) => {
                return Err(Refusal::Kind("special entry of a kind that is not known").whole());
            }
        };
        if matches!(kind, Kind::File { .. }) && mode & 0o6000 != 0 {
            return Err(Refusal::SetId.whole());
        }
        Ok(kind)
    }
}

/// Checks the header before the content and the descriptor after it against the directory's, and gives where the content
/// lies. `next` is where the next entry, or the directory, begins.
pub(super) fn check_local(
    packed: &Packed<'_>,
    central: &Central,
    start: u64,
    next: u64,
) -> Result<Span, ArtifactError> {
    let head = packed.at(start, 30)?;
    let mut fields = Fields(&head);
    if fields.take(4)? != LOCAL {
        return Err(
            Refusal::Malformed("its directory points to something that is no entry").whole(),
        );
    }
    let _needed = fields.u16()?;
    let (flags, method) = (fields.u16()?, fields.u16()?);
    let _time = fields.u32()?;
    let crc = fields.u32()?;
    let (packed_size, size) = (fields.u32()?, fields.u32()?);
    let lengths = [fields.u16()?, fields.u16()?].map(usize::from);
    let tail = packed.at(start + LOCAL_LENGTH, lengths.iter().sum())?;
    let mut fields = Fields(&tail);
    let name = fields.take(lengths[0])?;
    let extra = Extra::read(fields.take(lengths[1])?, [size, packed_size, 0])?;
    let later = flags & flag::DESCRIPTOR != 0;
    let same_path = extra.unicode_path.is_none_or(|path| path == central.name);
    let agree = name == central.name
        && same_path
        && flags == central.flags
        && method_of(method, flags)? == central.method
        && agrees(crc.into(), central.crc.into(), later)
        && agrees(extra.sizes[0], central.size, later)
        && agrees(extra.sizes[1], central.packed_size, later);
    if !agree {
        return Err(Refusal::Malformed(
            "the header before its content disagrees with the directory",
        )
        .whole());
    }
    let begin = start + LOCAL_LENGTH + tail.len() as u64;
    let end = begin
        .checked_add(central.packed_size)
        .filter(|end| *end <= next)
        .ok_or_else(|| {
            Refusal::Malformed("its content overlaps the next entry or the directory").whole()
        })?;
    let rest = packed.at(
        end,
        usize::try_from(next - end)
            .unwrap_or(usize::MAX)
            .min(MAX_REST),
    )?;
    let described = if later {
        is_descriptor(&rest, central)
    } else {
        rest.is_empty()
    };
    match described {
        true => Ok(Span { start: begin, end }),
        false => Err(Refusal::Stray("after its content").whole()),
    }
}

/// One byte more than the longest descriptor.
const MAX_REST: usize = 25;

/// A number before the content may be left open where a descriptor follows.
fn agrees(local: u64, central: u64, later: bool) -> bool {
    local == central || (later && local == 0)
}

/// Checksum and sizes, the latter in four or eight bytes each, with or without their mark.
fn is_descriptor(rest: &[u8], central: &Central) -> bool {
    let width = match rest.len() {
        12 | 16 => 4,
        20 | 24 => 8,
        _ => return false,
    };
    let body = match rest.len() {
        16 | 24 => rest.strip_prefix(DESCRIPTOR),
        _ => Some(rest),
    };
    let expected: Vec<u8> = [central.packed_size, central.size]
        .iter()
        .flat_map(|size| size.to_le_bytes().into_iter().take(width))
        .collect();
    let fits = width == 8 || central.size.max(central.packed_size) < u64::from(ELSEWHERE);
    body.and_then(|body| body.strip_prefix(&central.crc.to_le_bytes()[..])) == Some(&expected[..])
        && fits
}

fn method_of(method: u16, flags: u16) -> Result<Method, ArtifactError> {
    if flags & (flag::ENCRYPTED | flag::STRONG | flag::MASKED) != 0 {
        return Err(Refusal::Unsupported("encryption").whole());
    }
    if flags & flag::PATCH != 0 {
        return Err(Refusal::Unsupported("patch data").whole());
    }
    match method {
        0 => Ok(Method::Stored),
        8 => Ok(Method::Deflated),
        9 => Err(Refusal::Unsupported("Deflate64 compression").whole()),
        12 => Err(Refusal::Unsupported("bzip2 compression").whole()),
        14 => Err(Refusal::Unsupported("LZMA compression").whole()),
        93 => Err(Refusal::Unsupported("Zstandard compression").whole()),
        _ => Err(Refusal::Unsupported("a compression that is not known").whole()),
    }
}

/// What the extra fields of a header say.
#[derive(Debug)]
struct Extra<'a> {
    /// Size, packed size and place, with those taken from the zip64 field that are only there.
    sizes: [u64; 3],
    modified: Option<i64>,
    unicode_path: Option<&'a [u8]>,
}

impl<'a> Extra<'a> {
    fn read(bytes: &'a [u8], short: [u32; 3]) -> Result<Self, ArtifactError> {
        let mut read = Self {
            sizes: short.map(u64::from),
            modified: None,
            unicode_path: None,
        };
        let mut zip64 = None;
        let mut fields = Fields(bytes);
        while !fields.0.is_empty() {
            let (id, length) = (fields.u16()?, fields.u16()?);
            let mut field = Fields(fields.take(usize::from(length))?);
            match id {
                extra::ZIP64 if zip64.replace(field).is_some() => {
                    return Err(Refusal::Malformed("it has two zip64 fields").whole());
                }
                // The lowest bit says that the first of the times is there, the modification's.
                extra::TIMES if field.0.first().is_some_and(|b| b & 1 != 0) && length >= 5 => {
                    field.take(1)?;
                    read.modified = Some(i64::from(field.u32()?.cast_signed()));
                }
                // A version and the checksum of the other form come first.
                extra::UNICODE_PATH if length >= 5 => read.unicode_path = field.0.get(5..),
                _ => {}
            }
        }
        match zip64 {
            Some(field) => read.take_zip64(field, short)?,
            None if short.contains(&ELSEWHERE) => {
                return Err(Refusal::Malformed("a zip64 field is missing").whole());
            }
            None => {}
        }
        Ok(read)
    }

    /// It holds, in this order, just the numbers that the header has no room for. (Before the content both sizes are there
    /// even if only one had no room.)
    fn take_zip64(&mut self, mut field: Fields<'_>, short: [u32; 3]) -> Result<(), ArtifactError> {
        for (long, short) in self.sizes.iter_mut().zip(short) {
            if short == ELSEWHERE {
                *long = field.u64()?;
            }
        }
        match field.0 {
            [] => Ok(()),
            _ => Err(Refusal::Malformed("a zip64 field says more than was asked").whole()),
        }
    }
}

/// The calendar time of MS-DOS, read as UTC: it has no zone.
fn dos_time(date: u16, time: u16) -> i64 {
    let part = |value: u16, shift: u32, bits: u32| i64::from((value >> shift) & ((1 << bits) - 1));
    let (year, month, day) = (
        1980 + part(date, 9, 7),
        part(date, 5, 4).clamp(1, 12),
        part(date, 0, 5),
    );
    let (hour, minute, second) = (part(time, 11, 5), part(time, 5, 6), 2 * part(time, 0, 5));
    days_from_civil(year, month, day.max(1)) * 86_400 + hour * 3600 + minute * 60 + second
}

/// Days from 1970-01-01 in the Gregorian calendar, for years from 1970 on. March is the first month here, so that the leap
/// day is the last day of a year (<https://howardhinnant.github.io/date_algorithms.html#days_from_civil>).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dos_times_are_read() {
        // 2024-02-29 23:59:58
        assert_eq!(
            dos_time((44 << 9) | (2 << 5) | 29, (23 << 11) | (59 << 5) | 29),
            1_709_251_198
        );
        assert_eq!(dos_time(1 << 5 | 1, 0), 315_532_800);
        // No such month or day: pulled to the nearest.
        assert_eq!(dos_time(0, 0), 315_532_800);
    }
}
