//! Uids that have another owner: those of running processes, and those that the host's configuration gives away.

use super::{Result, io_at};
use crate::identity::ids_of;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

/// Whether any of `ranges` meets `range`.
pub(super) fn overlaps(ranges: &[Range<u32>], range: &Range<u32>) -> bool {
    ranges
        .iter()
        .any(|taken| taken.start < range.end && range.start < taken.end)
}

/// Uids of every process that this one can see. Processes that end meanwhile are not missed: they are gone.
pub(super) fn by_processes() -> Vec<Range<u32>> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut uids: Vec<u32> = processes
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .as_encoded_bytes()
                .iter()
                .all(u8::is_ascii_digit)
        })
        .filter_map(|entry| fs::read(entry.path().join("status")).ok())
        .flat_map(|status| ids_of(&status))
        .collect();
    uids.sort_unstable();
    uids.dedup();
    uids.into_iter().map(single).collect()
}

/// Users, groups and subordinate ranges of this host.
pub(super) fn by_configuration() -> Result<Vec<Range<u32>>> {
    let mut taken = Vec::new();
    for (file, read) in [
        ("/etc/passwd", third_field as fn(&str) -> Option<Range<u32>>),
        ("/etc/group", third_field),
        ("/etc/subuid", subordinate),
        ("/etc/subgid", subordinate),
    ] {
        match fs::read(file) {
            // Comments of a passwd file may be in any encoding.
            Ok(text) => taken.extend(String::from_utf8_lossy(&text).lines().filter_map(read)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A range that cannot be checked is not given away.
            Err(error) => return Err(io_at("read", Path::new(file))(error)),
        }
    }
    Ok(taken)
}

/// `name:x:UID:…`
fn third_field(line: &str) -> Option<Range<u32>> {
    line.split(':').nth(2)?.parse().ok().map(single)
}

/// `name:FIRST:COUNT`
fn subordinate(line: &str) -> Option<Range<u32>> {
    let mut fields = line.split(':').skip(1);
    let first: u32 = fields.next()?.trim().parse().ok()?;
    let count: u32 = fields.next()?.trim().parse().ok()?;
    Some(first..first.saturating_add(count))
}

fn single(uid: u32) -> Range<u32> {
    uid..uid.saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_hosts_files_are_understood() {
        assert_eq!(
            third_field("postgres:x:101:104:PostgreSQL,,,:/:/bin/sh"),
            Some(101..102)
        );
        assert_eq!(
            subordinate("dev:2013265920:65536"),
            Some(2_013_265_920..2_013_331_456)
        );
        assert_eq!(
            subordinate("dev:4294967295:65536"),
            Some(u32::MAX..u32::MAX)
        );
        assert_eq!(subordinate("# comment"), None);
    }

    #[test]
    fn neighbours_do_not_overlap() {
        let taken = std::slice::from_ref(&(10..20));
        assert!(overlaps(taken, &(19..30)));
        assert!(overlaps(taken, &(0..11)));
        assert!(!overlaps(taken, &(20..30)));
        assert!(!overlaps(taken, &(0..10)));
    }
}
