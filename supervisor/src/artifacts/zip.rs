//! zip, read in exactly one way.
//!
//! A zip file says everything twice (in its central directory and before each entry) and has room for bytes that neither
//! mentions. Readers choose differently, and that difference is what attacks are made of: an entry that a scanner does
//! not see, one content under two names (overlapping bombs), a name that changes. The usual crates read leniently by design,
//! so the structure is read here, strictly, and only the decompression is theirs: **the entries, in the order in which
//! they lie, must cover the file from its first byte to the central directory without gap or overlap, each header must
//! agree with its double, and the directory must reach to the end record, which must reach to the end of the file.**
//!
//! Format: <https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT>.

mod bytes;
mod content;
mod directory;
mod entry;

use super::budget::Budget;
use super::entry_path::EntryPath;
use super::tree::{FileMeta, Tree};
use super::{ArtifactError, Refusal};
use bytes::Packed;
use content::Content;
use directory::Directory;
use entry::{Central, Kind};
use std::fs::File;
use std::io::Read;

/// Longest target of a symbolic link, which is its content.
const MAX_TARGET: u64 = 1024;

/// Unpacks.
pub(super) fn unpack(
    packed: &File,
    length: u64,
    tree: &mut Tree<'_>,
    budget: &mut Budget,
) -> Result<(), ArtifactError> {
    let packed = Packed {
        file: packed,
        length,
    };
    let directory = Directory::find(&packed)?;
    budget.foresee_entries(directory.entries)?;
    let places = directory.places(&packed, budget)?;
    if places.is_empty() {
        return Err(Refusal::Empty.whole());
    }
    let mut expected = 0;
    for (at, place) in places.iter().enumerate() {
        let central = Central::read(&packed, place.central)?.0;
        let next = places
            .get(at + 1)
            .map_or(directory.start, |next| next.local);
        let name = central.name.clone();
        if place.local != expected {
            // Sorted by place, so only the first can begin elsewhere than where the one before it ends.
            return Err(Refusal::Stray("before its first entry").whole());
        }
        one(&packed, central, place.local, next, tree, budget).map_err(|e| e.at(&name))?;
        expected = next;
    }
    Ok(())
}

fn one(
    packed: &Packed<'_>,
    central: Central,
    start: u64,
    next: u64,
    tree: &mut Tree<'_>,
    budget: &mut Budget,
) -> Result<(), ArtifactError> {
    let data = entry::check_local(packed, &central, start, next)?;
    let kind = central.kind()?;
    let path = EntryPath::parse(&central.name).map_err(Refusal::whole)?;
    let mut content = Content::open(packed, &central, data)?;
    match (kind, path) {
        (Kind::Directory, path) => {
            // Packers deflate even nothing, which takes two bytes.
            if central.size != 0 {
                return Err(Refusal::Content("is that of a directory, which has none").whole());
            }
            content.finish()?;
            path.map_or(Ok(()), |path| tree.directory(&path, budget))
        }
        (Kind::File { .. } | Kind::Symlink, None) => {
            Err(Refusal::Path("is that of the root").whole())
        }
        (Kind::File { executable }, Some(path)) => {
            let meta = FileMeta {
                executable,
                modified: central.modified,
            };
            tree.file(&path, meta, &mut content, budget)?;
            content.finish()
        }
        (Kind::Symlink, Some(path)) => {
            if central.size > MAX_TARGET {
                return Err(Refusal::Target("has more than 1024 bytes").whole());
            }
            let mut target = Vec::new();
            content
                .read_to_end(&mut target)
                .map_err(super::tree::unwrap)?;
            content.finish()?;
            tree.symlink(&path, &target, budget)
        }
    }
}
