//! Zip files in which every field can lie.

use super::deflate;
use flate2::Crc;

/// An entry: what the central directory says, and where the local header differs.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) packed: Vec<u8>,
    pub(super) method: u16,
    pub(super) flags: u16,
    pub(super) crc: u32,
    pub(super) size: u64,
    pub(super) packed_size: u64,
    pub(super) made_by: u16,
    pub(super) external: u32,
    pub(super) extra: Vec<u8>,
    pub(super) local: Local,
    /// Where the directory says that it is; absent: where it is.
    pub(super) offset: Option<u32>,
    /// Bytes after the content.
    pub(super) after: Vec<u8>,
}

/// Fields of the local header that differ.
#[derive(Clone, Default)]
pub(super) struct Local {
    pub(super) name: Option<Vec<u8>>,
    pub(super) method: Option<u16>,
    pub(super) flags: Option<u16>,
    pub(super) crc: Option<u32>,
    pub(super) size: Option<u32>,
    pub(super) packed_size: Option<u32>,
    pub(super) extra: Option<Vec<u8>>,
    /// Leaves the local header and the content out.
    pub(super) absent: bool,
}

/// A file of this name and content, as Info-ZIP writes it.
pub(super) fn file(name: &str, content: &[u8]) -> Entry {
    let packed = deflate(content);
    Entry {
        method: 8,
        packed_size: packed.len() as u64,
        packed,
        ..stored(name, content)
    }
}

/// The same without compression.
pub(super) fn stored(name: &str, content: &[u8]) -> Entry {
    let mut crc = Crc::new();
    crc.update(content);
    Entry {
        name: name.as_bytes().to_vec(),
        packed: content.to_vec(),
        method: 0,
        flags: if name.is_ascii() { 0 } else { 1 << 11 },
        crc: crc.sum(),
        size: content.len() as u64,
        packed_size: content.len() as u64,
        made_by: 0x031e,
        external: 0o100_644 << 16,
        extra: Vec::new(),
        local: Local::default(),
        offset: None,
        after: Vec::new(),
    }
}

pub(super) fn with_mode(mode: u32, entry: Entry) -> Entry {
    Entry {
        external: mode << 16,
        ..entry
    }
}

pub(super) fn directory(name: &str) -> Entry {
    with_mode(0o040_755, stored(name, b""))
}

pub(super) fn symlink(name: &str, target: &str) -> Entry {
    with_mode(0o120_777, stored(name, target.as_bytes()))
}

/// An extra field.
pub(super) fn extra(id: u16, data: &[u8]) -> Vec<u8> {
    let mut field = id.to_le_bytes().to_vec();
    field.extend(u16::try_from(data.len()).expect("short").to_le_bytes());
    field.extend(data);
    field
}

/// Makes a record of (count, size, start).
type Record = fn(u64, u64, u64) -> Vec<u8>;

/// What is around the entries.
#[derive(Clone, Default)]
pub(super) struct Around {
    pub(super) before: Vec<u8>,
    pub(super) before_directory: Vec<u8>,
    pub(super) after_directory: Vec<u8>,
    pub(super) comment: Vec<u8>,
    pub(super) after: Vec<u8>,
    pub(super) count: Option<u16>,
    pub(super) directory_size: Option<u32>,
    pub(super) directory_start: Option<u32>,
    pub(super) disk: u16,
    /// Makes the zip64 record; absent: there is none.
    pub(super) zip64: Option<Record>,
}

fn short(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// The file.
pub(super) fn zip(entries: &[Entry]) -> Vec<u8> {
    zip_with(entries, &Around::default())
}

/// The file with something around it.
pub(super) fn zip_with(entries: &[Entry], around: &Around) -> Vec<u8> {
    let mut out = around.before.clone();
    let mut directory = Vec::new();
    for entry in entries {
        let offset = entry.offset.unwrap_or(short(out.len() as u64));
        if !entry.local.absent {
            push_local(&mut out, entry);
        }
        push_central(&mut directory, entry, offset);
    }
    out.extend(&around.before_directory);
    let start = out.len() as u64;
    let size = directory.len() as u64;
    out.extend(directory);
    out.extend(&around.after_directory);
    if let Some(record) = around.zip64 {
        let place = out.len() as u64;
        out.extend(record(entries.len() as u64, size, start));
        out.extend(b"PK\x06\x07\0\0\0\0");
        out.extend(place.to_le_bytes());
        out.extend(1_u32.to_le_bytes());
    }
    let count = around
        .count
        .unwrap_or(u16::try_from(entries.len()).expect("few"));
    out.extend(b"PK\x05\x06");
    out.extend(around.disk.to_le_bytes());
    out.extend(around.disk.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(around.directory_size.unwrap_or(short(size)).to_le_bytes());
    out.extend(around.directory_start.unwrap_or(short(start)).to_le_bytes());
    out.extend(
        u16::try_from(around.comment.len())
            .expect("short")
            .to_le_bytes(),
    );
    out.extend(&around.comment);
    out.extend(&around.after);
    out
}

fn push_local(out: &mut Vec<u8>, entry: &Entry) {
    let Local {
        name,
        method,
        flags,
        crc,
        size,
        packed_size,
        extra,
        ..
    } = entry.local.clone();
    let name = name.unwrap_or_else(|| entry.name.clone());
    let extra = extra.unwrap_or_default();
    out.extend(b"PK\x03\x04\x14\0");
    out.extend(flags.unwrap_or(entry.flags).to_le_bytes());
    out.extend(method.unwrap_or(entry.method).to_le_bytes());
    out.extend([0, 0, 0x21, 0x58]);
    out.extend(crc.unwrap_or(entry.crc).to_le_bytes());
    out.extend(
        packed_size
            .unwrap_or(short(entry.packed_size))
            .to_le_bytes(),
    );
    out.extend(size.unwrap_or(short(entry.size)).to_le_bytes());
    out.extend(u16::try_from(name.len()).expect("short").to_le_bytes());
    out.extend(u16::try_from(extra.len()).expect("short").to_le_bytes());
    out.extend(name);
    out.extend(extra);
    out.extend(&entry.packed);
    out.extend(&entry.after);
}

fn push_central(out: &mut Vec<u8>, entry: &Entry, offset: u32) {
    out.extend(b"PK\x01\x02");
    out.extend(entry.made_by.to_le_bytes());
    out.extend([0x14, 0]);
    out.extend(entry.flags.to_le_bytes());
    out.extend(entry.method.to_le_bytes());
    out.extend([0, 0, 0x21, 0x58]);
    out.extend(entry.crc.to_le_bytes());
    out.extend(short(entry.packed_size).to_le_bytes());
    out.extend(short(entry.size).to_le_bytes());
    out.extend(
        u16::try_from(entry.name.len())
            .expect("short")
            .to_le_bytes(),
    );
    out.extend(
        u16::try_from(entry.extra.len())
            .expect("short")
            .to_le_bytes(),
    );
    out.extend([0; 6]);
    out.extend(entry.external.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out.extend(&entry.name);
    out.extend(&entry.extra);
}

/// A zip64 end record.
pub(super) fn end64(count: u64, size: u64, start: u64) -> Vec<u8> {
    let mut out = b"PK\x06\x06".to_vec();
    out.extend(44_u64.to_le_bytes());
    out.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for number in [count, count, size, start] {
        out.extend(number.to_le_bytes());
    }
    out
}
