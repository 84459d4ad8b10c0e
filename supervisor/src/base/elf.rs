//! The shared libraries that a program or library names (ELF `DT_NEEDED`), 64-bit little-endian.
//! <https://man7.org/linux/man-pages/man5/elf.5.html>
//!
//! By hand because it is forty lines; a parser of whole objects would be the largest dependency that runs as root. Files
//! come from installed packages. Whatever is not a well-formed dynamic object needs nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
/// More than any object has; a damaged file must not make us read for ever.
const MOST: u64 = 1 << 16;

/// A program header, as far as it matters.
struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    size: u64,
}

/// The names. Empty for anything but a dynamic ELF object of this kind.
pub(super) fn needed(file: &File) -> io::Result<Vec<String>> {
    let mut header = [0u8; 64];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    // Magic, 64 bit, little-endian.
    if header[..6] != *b"\x7fELF\x02\x01" {
        return Ok(Vec::new());
    }
    let segments = segments(file, &header)?;
    let Some(dynamic) = segments.iter().find(|s| s.kind == PT_DYNAMIC) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    let mut strings = None;
    for index in 0..(dynamic.size / 16).min(MOST) {
        let (tag, value) = (
            number(file, dynamic.offset + index * 16, 8)?,
            number(file, dynamic.offset + index * 16 + 8, 8)?,
        );
        match tag {
            0 => break,
            DT_NEEDED => names.push(value),
            DT_STRTAB => strings = Some(value),
            _ => {}
        }
    }
    // The table's place is given as an address in memory.
    let table = strings.and_then(|address| {
        segments
            .iter()
            .find(|s| s.kind == PT_LOAD && (s.address..s.address + s.size).contains(&address))
            .map(|s| s.offset + (address - s.address))
    });
    let Some(table) = table else {
        return Ok(Vec::new());
    };
    names
        .into_iter()
        .map(|name| text(file, table + name))
        .collect()
}

fn segments(file: &File, header: &[u8; 64]) -> io::Result<Vec<Segment>> {
    let (offset, size, count) = (
        little(&header[32..40]),
        little(&header[54..56]),
        little(&header[56..58]),
    );
    (0..count)
        .map(|index| {
            let at = offset + index * size;
            Ok(Segment {
                kind: number(file, at, 4)?,
                offset: number(file, at + 8, 8)?,
                address: number(file, at + 16, 8)?,
                size: number(file, at + 32, 8)?,
            })
        })
        .collect()
}

fn number(file: &File, at: u64, width: usize) -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    file.read_exact_at(&mut bytes[..width], at)?;
    Ok(u64::from_le_bytes(bytes))
}

fn little(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn text(file: &File, at: u64) -> io::Result<String> {
    let mut bytes = [0u8; 256];
    let read = file.read_at(&mut bytes, at)?;
    let end = bytes[..read]
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(read);
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_real_program_names_its_libraries() {
        // This test itself is a dynamic object on every host we build on.
        let own = File::open(std::env::current_exe().expect("own path")).expect("opens");
        let names = needed(&own).expect("reads");
        assert!(
            names.iter().any(|name| name.starts_with("libc.so")),
            "{names:?}"
        );
        assert!(names.iter().all(|name| name.contains(".so")), "{names:?}");
    }

    #[test]
    fn what_is_no_dynamic_object_needs_nothing_or_is_an_error() {
        let mut header = vec![0u8; 64];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        for bytes in [&b""[..], b"#!/bin/sh\n", &[0; 64], &header] {
            let mut file = tempfile::tempfile().expect("temporary file");
            file.write_all(bytes).expect("writes");
            assert_eq!(needed(&file).expect("reads"), Vec::<String>::new());
        }
        // Program headers beyond the end.
        header[56] = 3;
        header[54] = 56;
        header[32] = 200;
        let mut file = tempfile::tempfile().expect("temporary file");
        file.write_all(&header).expect("writes");
        needed(&file).expect_err("cut off");
    }
}
