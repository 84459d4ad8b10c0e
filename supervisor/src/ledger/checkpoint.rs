//! Checkpoints: how long both chains were at a time, signed, in a file apart from the database
//! (`<state>/broker/ledger.checkpoints`, one JSON object per line, synced). A chain whose end was cut off holds by itself; it does
//! not hold with a checkpoint that knew more of it.
//!
//! A checkpoint tells only of records that are on disk, so a power cut never makes it look as if somebody had taken some away.
//! The same line goes to the daemon's log, from where it can be kept on another machine: whoever has key, database and this file
//! can put older copies of all three back, and nothing on this machine can tell.

use super::chain::{Chain, ChainKey, Mac};
use crate::store::{ChainHead, Timestamp};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Largest file that is read: some hundred thousand lines.
const MAX_FILE: u64 = 64 << 20;

/// Lines younger than this all stay; of older ones, one for each of [`SPARSE_MS`].
const DENSE_MS: i64 = 86_400_000;

/// See [`DENSE_MS`].
const SPARSE_MS: i64 = 3_600_000;

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// Milliseconds since 1970.
    at_ms: i64,
    sessions: i64,
    sessions_head: String,
    invocations: i64,
    invocations_head: String,
    mac: String,
}

/// What a checkpoint says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// When.
    pub at: Timestamp,
    /// In the order of [`Chain::ALL`].
    pub heads: [ChainHead; 2],
}

impl Checkpoint {
    /// Of one chain.
    #[must_use]
    pub fn of(&self, chain: Chain) -> ChainHead {
        let [sessions, invocations] = self.heads;
        match chain {
            Chain::Sessions => sessions,
            Chain::Invocations => invocations,
        }
    }

    fn mac(&self, key: &ChainKey) -> Mac {
        let [a, b] = self.heads;
        let text = format!(
            "{} {} {} {} {}",
            self.at.0,
            a.seq,
            hex(&a.mac),
            b.seq,
            hex(&b.mac)
        );
        key.other("checkpoint", text.as_bytes())
    }

    fn line(&self, key: &ChainKey) -> Line {
        let [sessions, invocations] = self.heads;
        Line {
            at_ms: self.at.0,
            sessions: sessions.seq,
            sessions_head: hex(&sessions.mac),
            invocations: invocations.seq,
            invocations_head: hex(&invocations.mac),
            mac: hex(&self.mac(key)),
        }
    }

    fn read(line: &str, key: &ChainKey) -> Option<Self> {
        let line: Line = serde_json::from_str(line).ok()?;
        let head = |seq, mac: &str| {
            Some(ChainHead {
                seq,
                mac: unhex(mac)?,
            })
        };
        let checkpoint = Self {
            at: Timestamp(line.at_ms),
            heads: [
                head(line.sessions, &line.sessions_head)?,
                head(line.invocations, &line.invocations_head)?,
            ],
        };
        (checkpoint.mac(key) == unhex(&line.mac)?).then_some(checkpoint)
    }
}

/// The file.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    path: PathBuf,
}

impl Checkpoints {
    /// The file of this name in the broker's directory.
    #[must_use]
    pub fn at(directory: &Path) -> Self {
        Self {
            path: directory.join("ledger.checkpoints"),
        }
    }

    /// The file, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All lines, oldest first; the error is the number of the first that is not this daemon's word.
    pub fn read(&self, key: &ChainKey) -> io::Result<Result<Vec<Checkpoint>, usize>> {
        let text = match fs::metadata(&self.path) {
            Ok(found) if found.len() > MAX_FILE => {
                return Err(io::Error::other(format!("is larger than {MAX_FILE} bytes")));
            }
            Ok(_) => fs::read(&self.path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(Vec::new())),
            Err(error) => return Err(error),
        };
        let text = String::from_utf8_lossy(&text);
        let mut found = Vec::new();
        for (number, line) in text.split_inclusive('\n').enumerate() {
            // A power cut may leave half of the last one.
            let Some(line) = line.strip_suffix('\n') else {
                break;
            };
            match Checkpoint::read(line, key) {
                Some(checkpoint) => found.push(checkpoint),
                None => return Ok(Err(number + 1)),
            }
        }
        Ok(Ok(found))
    }

    /// Adds one, and syncs it.
    pub fn add(&self, checkpoint: &Checkpoint, key: &ChainKey) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)?;
        mend(&file)?;
        let mut line = serde_json::to_vec(&checkpoint.line(key))?;
        line.push(b'\n');
        file.write_all(&line)?;
        file.sync_data()
    }

    /// Takes out most of the old ones. Nothing is changed if one does not hold.
    pub fn thin(&self, key: &ChainKey, now: Timestamp) -> io::Result<()> {
        let Ok(all) = self.read(key)? else {
            return Ok(());
        };
        let mut kept: Vec<&Checkpoint> = Vec::new();
        for (index, checkpoint) in all.iter().enumerate() {
            let next = all.get(index + 1);
            let old = now.0 - checkpoint.at.0 > DENSE_MS;
            // The last of its hour tells the most.
            let same = next.is_some_and(|next| {
                next.at.0.div_euclid(SPARSE_MS) == checkpoint.at.0.div_euclid(SPARSE_MS)
            });
            if !(old && same) {
                kept.push(checkpoint);
            }
        }
        if kept.len() == all.len() {
            return Ok(());
        }
        let fresh = self.path.with_extension("new");
        let _ = fs::remove_file(&fresh);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)?;
        for checkpoint in kept {
            serde_json::to_writer(&mut file, &checkpoint.line(key))?;
            file.write_all(b"\n")?;
        }
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// Takes half a line, which a power cut left, off the end.
fn mend(file: &File) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut end = file.metadata()?.len();
    let whole = end;
    let mut last = [0];
    while end > 0 {
        file.read_exact_at(&mut last, end - 1)?;
        if last == [b'\n'] {
            break;
        }
        end -= 1;
    }
    if end < whole {
        file.set_len(end)?;
    }
    Ok(())
}

/// In hexadecimal.
#[must_use]
pub fn hex(mac: &Mac) -> String {
    use std::fmt::Write as _;
    mac.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What [`hex`] wrote.
#[must_use]
pub fn unhex(text: &str) -> Option<Mac> {
    let mut mac = Mac::default();
    if text.len() != 2 * mac.len() || !text.is_ascii() {
        return None;
    }
    for (index, byte) in mac.iter_mut().enumerate() {
        let digits = text.get(2 * index..2 * index + 2)?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(at: i64, seq: i64) -> Checkpoint {
        let head = |byte| ChainHead {
            seq,
            mac: [byte; 32],
        };
        Checkpoint {
            at: Timestamp(at),
            heads: [head(1), head(2)],
        }
    }

    #[test]
    fn what_was_added_is_read_and_nothing_else_is_believed() {
        let ground = tempfile::tempdir().expect("directory");
        let key = ChainKey::open(&ground.path().join("ledger.key")).expect("key");
        let file = Checkpoints::at(ground.path());
        assert_eq!(file.read(&key).expect("read"), Ok(Vec::new()));
        let all = [checkpoint(1000, 1), checkpoint(2000, 2)];
        for each in &all {
            file.add(each, &key).expect("added");
        }
        assert_eq!(file.read(&key).expect("read"), Ok(all.to_vec()));
        let text = fs::read_to_string(&file.path).expect("text");
        // Half a line, as a power cut leaves it, is none; and the next one begins on its own.
        fs::write(&file.path, format!("{text}{{\"at_ms\":3")).expect("written");
        assert_eq!(file.read(&key).expect("read"), Ok(all.to_vec()));
        file.add(&checkpoint(3000, 3), &key).expect("added");
        assert_eq!(file.read(&key).expect("read").map(|all| all.len()), Ok(3));
        fs::write(&file.path, text.replace("\"sessions\":2", "\"sessions\":1")).expect("written");
        assert_eq!(file.read(&key).expect("read"), Err(2));
        let other = ChainKey::open(&ground.path().join("other.key")).expect("key");
        assert_eq!(file.read(&other).expect("read"), Err(1));
    }

    #[test]
    fn old_ones_are_thinned_to_the_last_of_each_hour() {
        let ground = tempfile::tempdir().expect("directory");
        let key = ChainKey::open(&ground.path().join("ledger.key")).expect("key");
        let file = Checkpoints::at(ground.path());
        for minute in 0..180 {
            file.add(&checkpoint(minute * 60_000, minute), &key)
                .expect("added");
        }
        file.thin(&key, Timestamp(DENSE_MS + 120 * 60_000))
            .expect("thinned");
        let left = file.read(&key).expect("read").expect("all hold");
        let seqs: Vec<i64> = left.iter().map(|c| c.of(Chain::Sessions).seq).collect();
        let wanted: Vec<i64> = [59, 119].into_iter().chain(120..180).collect();
        assert_eq!(seqs, wanted);
    }
}
