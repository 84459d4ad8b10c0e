//! Invocations that have ended and are in no record yet: a line each, in a file, so that a daemon that is killed loses none.
//!
//! Records are made once a second ([`super::rounds`]). Until then an invocation that ended is in memory, and here: one write(2)
//! that nobody waits for on a disk, since what the kernel has survives the daemon (not a power cut, no more than a volatile
//! record does). A round begins a new file; the transaction that records what was in the old ones says so, by their number, and
//! then they are removed. The next daemon records what is in files of later numbers. An invocation knows the number of its file
//! ([`Journalled`]), and its record waits until that file is an old one: a round takes time, and what ends meanwhile is in the new
//! file. So each is recorded once, whenever the daemon is killed. What the reading of the session's counter would have given it, its CPU time, is then nobody's.

use super::record::{Invocation, Subject};
use crate::owner::Owner;
use crate::store::Timestamp;
use proto::ids::{ClientSessionId, EndpointName, RuntimeId, RuntimeName, SessionId, VersionNumber};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Names of the files, before their number.
const PREFIX: &str = "ledger.journal.";

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
    /// Made with its first line.
    file: Option<File>,
    /// There is something in it, or should be.
    begun: bool,
    /// It takes nothing, which was said.
    failing: bool,
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
                // A line that is not whole was written by a daemon that ended in the middle of it, or by a power cut.
                let lines = text.split(|byte| *byte == b'\n');
                left.invocations
                    .extend(lines.filter_map(|line| parsed(std::str::from_utf8(line).ok()?)));
                left.until = left.until.max(number);
            }
        }
        let journal = Self {
            directory: directory.to_owned(),
            current: Mutex::new(Current {
                number: left.until + 1,
                file: None,
                begun: false,
                failing: false,
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
        if current.failing {
            // Half of an earlier one may be there.
            line.insert(0, '\n');
        }
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
            none => {
                let path = path(&self.directory, current.number);
                let file = OpenOptions::new().create(true).append(true).open(path)?;
                none.insert(file)
            }
        };
        file.write_all(line.as_bytes())
    }

    /// What comes from now on goes to another file. Gives the number of the last one that is whole.
    pub(super) fn turn(&self) -> i64 {
        let mut current = super::locked(&self.current);
        if std::mem::take(&mut current.begun) {
            current.file = None;
            current.number += 1;
            current.failing = false;
        }
        current.number - 1
    }

    /// What is in files up to this number is on record.
    pub(super) fn recorded(&self, until: i64) {
        let found = files(&self.directory).unwrap_or_default().into_iter();
        for (_, path) in found.filter(|(number, _)| *number <= until) {
            // One that stays is known to be on record, and tried again.
            let _ = fs::remove_file(path);
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
