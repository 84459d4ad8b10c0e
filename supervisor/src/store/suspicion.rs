//! Whether a database is read from end to end before it is used. A small one always is, which costs less than anybody
//! notices; of a large one that takes seconds, so there has to be a reason:
//!
//! | reason | known by |
//! |---|---|
//! | the store failed (an I/O error, damage) | the note that it left |
//! | the host went down while it was in use | the note has another boot's id, and the log is not empty |
//! | it was put there by somebody: a restored backup | the note is missing, or of another inode |
//! | its log is none, or of another database | the log's first bytes |
//!
//! That the daemon was killed is no reason: what it had written is with the kernel, and SQLite takes the log up again.
//!
//! The note is `<database>.note`: one line, `open <boot id> <inode>` or `failed <why>`. One that cannot be written is not there at
//! the next start, which is a reason.

use crate::fault::chain;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is always checked: some 20 ms.
const SMALL: u64 = 8 << 20;

/// The reason that is none: looking costs nothing.
pub(super) const NO_COST: &str = "it is small";

/// Most bytes of a note.
const MOST: u64 = 4096;

/// Of this boot of the host.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// First bytes of a log (<https://sqlite.org/fileformat2.html#the_write_ahead_log>): a header, and the header of its first frame.
const HEADER: usize = 32;
const FRAME: usize = 24;

/// Why a database is to be checked, if it is. `path` is there.
pub(super) fn of(path: &Path) -> io::Result<Option<String>> {
    let found = fs::metadata(path)?;
    let log = log(path)?;
    if let Log::Odd(why) = log {
        return Ok(Some(format!("its log {why}")));
    }
    let note = read_note(&note(path))?;
    let mut words = note.split_whitespace();
    let why = match (words.next(), words.next(), words.next()) {
        (Some("open"), Some(boot), Some(inode)) => {
            if inode != found.ino().to_string() {
                Some("it is another file than the one that was in use".to_owned())
            } else if matches!(log, Log::Whole) && boot != boot_id() {
                Some("the host went down while it was in use".to_owned())
            } else {
                None
            }
        }
        (Some("failed"), ..) => Some(note.trim().to_owned()),
        _ => Some("nothing says how it was left".to_owned()),
    };
    Ok(why.or_else(|| (found.len() <= SMALL).then(|| NO_COST.to_owned())))
}

/// Notes that the database was found sound and is in use. What cannot be noted is checked again.
pub(super) fn note_open(path: &Path) {
    let written = fs::metadata(path)
        .and_then(|found| write_note(path, &format!("open {} {}\n", boot_id(), found.ino())));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "no note beside the database: it will be checked at the next start");
    }
}

/// Notes that it has failed.
pub(super) fn note_failed(path: &Path, error: &super::StoreError) {
    let why = chain(error).replace(char::is_control, " ");
    // On a disk that fails this may fail as well; without a note it is checked too.
    if write_note(path, &format!("failed {why}\n")).is_err() {
        let _ = fs::remove_file(note(path));
    }
}

fn note(path: &Path) -> PathBuf {
    super::open::sibling(path, ".note")
}

fn write_note(path: &Path, text: &str) -> io::Result<()> {
    let (fresh, note) = (super::open::sibling(path, ".note.new"), note(path));
    fs::write(&fresh, text)?;
    File::open(&fresh)?.sync_all()?;
    fs::rename(fresh, note)
}

fn read_note(note: &Path) -> io::Result<String> {
    match File::open(note) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(MOST).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

fn boot_id() -> String {
    fs::read_to_string(BOOT_ID)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Log {
    /// None, or nothing in it: the file is all there is.
    Empty,
    /// As far as its beginning tells.
    Whole,
    /// It will not be taken up again.
    Odd(&'static str),
}

fn log(path: &Path) -> io::Result<Log> {
    let mut file = match File::open(super::open::sibling(path, "-wal")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Log::Empty),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.by_ref()
        .take((HEADER + FRAME) as u64)
        .read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Ok(Log::Empty);
    }
    let word = |at: usize| bytes.get(at..at + 4);
    // The magic's last bit tells the byte order of the sums.
    let magic = word(0).is_some_and(|magic| matches!(magic, [0x37, 0x7f, 0x06, 0x82 | 0x83]));
    let Some(salt) = bytes.get(16..24).filter(|_| magic) else {
        return Ok(Log::Odd("does not begin as one"));
    };
    match bytes.get(HEADER + 8..HEADER + 16) {
        // A log that was begun anew and has no frame yet.
        None => Ok(Log::Empty),
        Some(frame) if frame != salt => Ok(Log::Odd("does not go with itself")),
        Some(_) => Ok(Log::Whole),
    }
}
