//! tar.gz: one gzip member that holds one tar archive, read in exactly one way.
//!
//! The `tar` crate finds headers and checks their sums, in its raw mode; what the headers *mean* is decided here, because
//! readers disagree about it and an archive must not be one thing to a scanner and another to us (CVE-2025-62518 and its
//! kin, CVE-2026-33055: the size in a PAX header against the size in the header proper). Where two readings are possible,
//! the archive is refused.

mod extension;
mod stream;

use super::budget::Budget;
use super::entry_path::EntryPath;
use super::tree::{FileMeta, Tree};
use super::{ArtifactError, Refusal};
use extension::Extensions;
use std::fs::File;
use std::io::Read;
use stream::Inflated;
use tar::{Archive, EntryType, Header};

/// What an entry is, once everything that describes it has been read.
#[derive(Debug)]
struct Described {
    name: Vec<u8>,
    target: Option<Vec<u8>>,
    size: u64,
    modified: i64,
}

/// Unpacks.
pub(super) fn unpack(
    packed: &File,
    tree: &mut Tree<'_>,
    budget: &mut Budget,
) -> Result<(), ArtifactError> {
    let mut inflated = Inflated::new(packed, budget)?;
    let mut archive = Archive::new(&mut inflated);
    let entries = archive.entries().map_err(stream::failure)?.raw(true);
    let mut extensions = Extensions::default();
    for entry in entries {
        let mut entry = entry.map_err(stream::failure)?;
        let header = entry.header().clone();
        check_unused(&header)?;
        check_numbers(&header)?;
        if extensions.take(&header, &mut entry)? {
            budget.description()?;
            continue;
        }
        let described = describe(&header, std::mem::take(&mut extensions))?;
        write(&header, &described, &mut entry, tree, budget).map_err(|e| e.at(&described.name))?;
    }
    if !extensions.is_empty() {
        return Err(
            Refusal::Malformed("its last header describes an entry that does not follow").whole(),
        );
    }
    inflated.finish()
}

/// Fields that some readers look at and others do not must be empty.
fn check_unused(header: &Header) -> Result<(), ArtifactError> {
    let bytes = header.as_bytes();
    let rest = if header.as_ustar().is_some() {
        &bytes[500..]
    } else if header.as_gnu().is_some() {
        // Python reads a prefix here that GNU tar does not write.
        &bytes[345..]
    } else {
        &bytes[257..]
    };
    match rest.iter().all(|b| *b == 0) {
        true => Ok(()),
        false if header.entry_type() == EntryType::GNUSparse => {
            Err(Refusal::Unsupported("sparse files").of(&header.path_bytes()))
        }
        false => {
            Err(Refusal::Malformed("a header has data in unused fields").of(&header.path_bytes()))
        }
    }
}

/// Readers stop at a number that they cannot read, or skip what is not a digit, or take it for zero; so all numbers must
/// be octal digits and what may follow them, used or not.
fn check_numbers(header: &Header) -> Result<(), ArtifactError> {
    const SIZE: usize = 124;
    let bytes = header.as_bytes();
    let mut fields = vec![
        (100, 8),
        (108, 8),
        (116, 8),
        (SIZE, 12),
        (136, 12),
        (148, 8),
    ];
    if header.as_ustar().is_some() || header.as_gnu().is_some() {
        fields.extend([(329, 8), (337, 8)]);
    }
    for (at, width) in fields {
        let field = &bytes[at..at + width];
        // Large owners and times are written in base 256; a size that needs it is too large for us anyhow.
        if at != SIZE && matches!(field[0], 0x80 | 0xff) {
            continue;
        }
        let field = field.trim_ascii_start();
        let digits = field
            .iter()
            .take_while(|b| (b'0'..=b'7').contains(b))
            .count();
        if field[digits..].iter().any(|b| !matches!(b, b' ' | 0)) {
            let name = header.path_bytes();
            return Err(Refusal::Malformed("a number in a header is not one").of(&name));
        }
    }
    Ok(())
}

/// Puts header and extensions together.
fn describe(header: &Header, extensions: Extensions) -> Result<Described, ArtifactError> {
    let own_name = header.path_bytes().into_owned();
    let field = |value: std::io::Result<u64>| {
        value.map_err(|_| Refusal::Malformed("a number in a header is not one").of(&own_name))
    };
    let size = field(header.entry_size())?;
    if extensions.size.is_some_and(|other| other != size) {
        return Err(Refusal::Malformed("two headers give different sizes").of(&own_name));
    }
    let modified = match extensions.modified {
        Some(modified) => modified,
        None => i64::try_from(field(header.mtime())?).unwrap_or(i64::MAX),
    };
    let own_target = header.link_name_bytes().map(|target| target.into_owned());
    Ok(Described {
        name: extensions.name.unwrap_or(own_name),
        target: extensions.target.or(own_target),
        size,
        modified,
    })
}

fn write(
    header: &Header,
    described: &Described,
    content: &mut dyn Read,
    tree: &mut Tree<'_>,
    budget: &mut Budget,
) -> Result<(), ArtifactError> {
    let kind = header.entry_type();
    let mode = header
        .mode()
        .map_err(|_| Refusal::Malformed("its mode is not a number").whole())?;
    let path = EntryPath::parse(&described.name).map_err(Refusal::whole)?;
    let ends_in_slash = described.name.ends_with(b"/");
    match kind {
        // Old archives mark directories by their name only.
        EntryType::Regular
            if ends_in_slash && header.as_bytes()[156] == 0 && described.size == 0 =>
        {
            path.map_or(Ok(()), |path| tree.directory(&path, budget))
        }
        EntryType::Regular | EntryType::Continuous => {
            let path = path.filter(|_| !ends_in_slash);
            let path = path.ok_or_else(|| Refusal::Path("is that of a directory").whole())?;
            if mode & 0o6000 != 0 {
                return Err(Refusal::SetId.whole());
            }
            let meta = FileMeta {
                executable: mode & 0o100 != 0,
                modified: described.modified,
            };
            let mut counted = Counted {
                inner: content,
                left: described.size,
            };
            tree.file(&path, meta, &mut counted, budget)?;
            match counted.left {
                0 => Ok(()),
                _ => Err(Refusal::Content("breaks off").whole()),
            }
        }
        EntryType::Directory => {
            no_content(described)?;
            path.map_or(Ok(()), |path| tree.directory(&path, budget))
        }
        EntryType::Symlink | EntryType::Link => {
            no_content(described)?;
            let path = path.filter(|_| !ends_in_slash);
            let path = path.ok_or_else(|| Refusal::Path("is that of a directory").whole())?;
            let target = described.target.as_deref().unwrap_or_default();
            if kind == EntryType::Symlink {
                return tree.symlink(&path, target, budget);
            }
            let target = EntryPath::parse(target).ok().flatten();
            let target = target.ok_or_else(|| Refusal::HardLink.whole())?;
            tree.hard_link(&path, &target, budget)
        }
        other => Err(Refusal::Kind(kind_name(other)).whole()),
    }
}

fn kind_name(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Char => "character device",
        EntryType::Block => "block device",
        EntryType::Fifo => "FIFO",
        EntryType::GNUSparse => "sparse file",
        _ => "special entry of a kind that is not known",
    }
}

/// Readers disagree whether such content is there to be skipped.
fn no_content(described: &Described) -> Result<(), ArtifactError> {
    match described.size {
        0 => Ok(()),
        _ => Err(Refusal::Malformed("a directory or link claims to have content").whole()),
    }
}

/// Knows how much of an entry's content is still to come.
struct Counted<'a> {
    inner: &'a mut dyn Read,
    left: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}
