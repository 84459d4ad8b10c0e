//! Invocations that have ended and are in no record yet: a line each, in a file, so that a daemon that is killed loses none.
//!
//! Records are made once a second ([`super::rounds`]). Until then an invocation that ended is in memory, and here: one write(2)
//! that nobody waits for on a disk, since what the kernel has survives the daemon (not a power cut, no more than a volatile
//! record does). A round begins a new file; the transaction that records what was in the old ones says so, by their number, and
//! then they are removed. The next daemon records what is in files of later numbers. An invocation knows the number of its file
//! ([`Journalled`]), and its record waits until that file is an old one: a round takes time, and what ends meanwhile is in the new
//! file. So each is recorded once, whenever the daemon is killed. What the reading of the session's counter would have given it, its CPU time, is then nobody's.
//!
//! **A full disk.** Work that is under way goes on, and ends. A file has its blocks before it has lines, as the database's log has
//! ([`crate::store`]'s reserve); one that is on record is kept as the spare, from which the next is made. A round for whose file there is
//! neither a spare nor room begins none, and leaves what is in this one to a later round.

use super::record::{Invocation, Subject};
use crate::owner::Owner;
use crate::store::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use proto::ids::{ClientSessionId, EndpointName, RuntimeId, RuntimeName, SessionId, VersionNumber};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Names of the files, before their number.
const PREFIX: &str = "ledger.journal.";

/// Bytes of each: the ends of some 4,000 invocations. On a full disk no new ones begin.
const ROOM: i64 = 1 << 20;

/// Most bytes of one that is kept as the spare.
const MOST_KEPT: usize = 4 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Journal {
    directory: PathBuf,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    /// Of the file that is written to now.
    number: i64,
    /// If it could be made.
    file: Option<File>,
    /// Where its next line begins.
    at: u64,
    /// There is something in it, or should be.
    begun: bool,
    /// It takes nothing, which was said.
    failing: bool,
    /// There is a file of nothing but zeros that can become the next.
    spare: bool,
}

/// An invocation that ended, and the file that it is in until its record is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Journalled {
    /// Its number.
    pub(super) file: i64,
    /// The invocation.
    pub(super) of: Invocation,
}

/// What an earlier daemon left.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// In no record.
    pub(super) invocations: Vec<Invocation>,
    /// The number of the last file that they are from.
    pub(super) until: i64,
}

impl Journal {
    /// Opens it. `recorded`: what is in files up to that number is on record.
    pub(super) fn open(directory: &Path, recorded: i64) -> io::Result<(Self, Left)> {
        let mut left = Left {
            until: recorded,
            ..Left::default()
        };
        for (number, path) in files(directory)? {
            if number > recorded {
                let text = fs::read(path)?;
                // Begun and not used: it is used now.
                if text.iter().all(|byte| *byte == 0) {
                    continue;
                }
                // A line that is not whole was written by a daemon that ended in the middle of it, or by a power cut.
                let lines = text.split(|byte| *byte == b'\n');
                left.invocations
                    .extend(lines.filter_map(|line| parsed(std::str::from_utf8(line).ok()?)));
                left.until = left.until.max(number);
            }
        }
        let number = left.until + 1;
        let spare = spare(directory);
        let journal = Self {
            directory: directory.to_owned(),
            current: Mutex::new(Current {
                number,
                file: begin(&path(directory, number)).ok(),
                at: 0,
                begun: false,
                failing: false,
                spare: emptied(&spare).or_else(|_| begin(&spare).map(drop)).is_ok(),
            }),
        };
        Ok((journal, left))
    }

    /// Writes one down. `prefix`: [`prefix`] of its session. Gives the number of its file.
    pub(super) fn add(&self, prefix: &str, ended: Line<'_>) -> i64 {
        let mut line = String::with_capacity(prefix.len() + 64);
        line.push_str(prefix);
        let Line {
            at,
            task,
            wall_ms,
            bytes_in,
            bytes_out,
        } = ended;
        let task = task.unwrap_or_default();
        // Into a string: it cannot fail.
        let _ = writeln!(line, "{}\t{task}\t{wall_ms}\t{bytes_in}\t{bytes_out}", at.0);
        let mut current = super::locked(&self.current);
        current.begun = true;
        if let Err(error) = self.write(&mut current, &line)
            && !std::mem::replace(&mut current.failing, true)
        {
            tracing::warn!(error = %error, "the ledger's journal takes nothing: records of the last second are lost if this daemon is killed now");
        }
        current.number
    }

    fn write(&self, current: &mut Current, line: &str) -> io::Result<()> {
        let file = match &mut current.file {
            Some(file) => file,
            none => none.insert(begin(&path(&self.directory, current.number))?),
        };
        file.write_all_at(line.as_bytes(), current.at)?;
        current.at += line.len() as u64;
        Ok(())
    }

    /// What comes from now on goes to another file, if there is room for one. Gives the number of the last one that is whole.
    pub(super) fn turn(&self) -> i64 {
        let mut current = super::locked(&self.current);
        if current.begun {
            let next = self.next(&mut current);
            let takes_more = current.file.is_some() && !current.failing;
            if next.is_ok() || !takes_more {
                *current = Current {
                    number: current.number + 1,
                    file: next.ok(),
                    at: 0,
                    begun: false,
                    failing: false,
                    spare: current.spare,
                };
            }
        }
        current.number - 1
    }

    fn next(&self, current: &mut Current) -> io::Result<File> {
        let path = path(&self.directory, current.number + 1);
        if std::mem::take(&mut current.spare) && fs::rename(spare(&self.directory), &path).is_ok() {
            return OpenOptions::new().write(true).open(path);
        }
        begin(&path)
    }

    /// What is in files up to this number is on record.
    pub(super) fn recorded(&self, until: i64) {
        let found = files(&self.directory).unwrap_or_default().into_iter();
        for (_, path) in found.filter(|(number, _)| *number <= until) {
            let spare = spare(&self.directory);
            if !super::locked(&self.current).spare
                && fs::rename(&path, &spare).is_ok()
                && emptied(&spare).is_ok()
            {
                super::locked(&self.current).spare = true;
            } else {
                // One that stays is known to be on record, and tried again.
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// An invocation that ended, as far as it is not its session's.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) at: Timestamp,
    pub(super) task: Option<&'a str>,
    pub(super) wall_ms: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

/// What all lines of a session begin with. No part of it can have a tab or a line's end in it: names are visible ASCII, and an
/// owner's key is JSON.
pub(super) fn prefix(of: &Subject) -> String {
    format!(
        "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t",
        of.session,
        of.client.as_str(),
        of.runtime,
        of.runtime_id.as_str(),
        of.version.0,
        of.endpoint.as_str(),
        of.owner.key(),
        of.created_at.0
    )
}

fn parsed(line: &str) -> Option<Invocation> {
    let mut parts = line.split('\t');
    let mut next = || parts.next();
    let subject = Subject {
        session: SessionId::parse(next()?).ok()?,
        client: ClientSessionId::parse(next()?).ok()?,
        runtime: RuntimeName::parse(next()?).ok()?,
        runtime_id: RuntimeId::parse(next()?).ok()?,
        version: VersionNumber(next()?.parse().ok()?),
        endpoint: EndpointName::parse(next()?).ok()?,
        owner: Owner::from_key(next()?)?,
        created_at: Timestamp(next()?.parse().ok()?),
    };
    let at = Timestamp(next()?.parse().ok()?);
    let task = next().filter(|task| !task.is_empty()).map(str::to_owned);
    let invocation = Invocation {
        subject,
        at,
        task,
        count: 1,
        wall_ms: next()?.parse().ok()?,
        bytes_in: next()?.parse().ok()?,
        bytes_out: next()?.parse().ok()?,
        cpu_us: 0,
    };
    next().is_none().then_some(invocation)
}

fn path(directory: &Path, number: i64) -> PathBuf {
    directory.join(format!("{PREFIX}{number}"))
}

fn spare(directory: &Path) -> PathBuf {
    directory.join(format!("{PREFIX}spare"))
}

/// Makes a file, with [`ROOM`], unless it is there, with nothing in it.
fn begin(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)?;
    match fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, ROOM) {
        // A file system that cannot; then there is none kept.
        Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(file),
        Err(errno) => {
            // Nothing is in it.
            let _ = fs::remove_file(path);
            Err(errno.into())
        }
    }
}

/// Overwrites all of a file, so that it keeps its blocks. One that has grown is not kept.
fn emptied(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let length = file.metadata()?.len();
    match usize::try_from(length) {
        Ok(length) if length <= MOST_KEPT => file.write_all_at(&vec![0; length], 0),
        _ => fs::remove_file(path).and(Err(io::ErrorKind::FileTooLarge.into())),
    }
}

/// Those that are there, in order.
fn files(directory: &Path) -> io::Result<Vec<(i64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.push((number, entry.path()));
        }
    }
    found.sort_unstable();
    Ok(found)
}
