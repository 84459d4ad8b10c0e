//! The output of one session: a bounded file, the last lines in memory, and whoever follows.
//!
//! The file holds one JSON [`LogRecord`] a line. When it reaches [`FILE_BYTES`] it becomes `.1` (replacing the older one),
//! so a session keeps between one and two times that much. The broker made the directory and is the only writer; what an
//! agent wrote is data in the lines, never a name.
//!
//! The shim holds its agent to `limits.log_rate`. A shim that an agent has taken over holds to nothing, so what comes from it
//! is bounded here once more ([`allowance`]): such a flood costs neither the disk nor the followers, and is counted as dropped.

use allowance::Allowance;
use proto::api::LogRecord;
use proto::shim::{Log, LogStream};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tail::Newest;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

mod allowance;
mod tail;

pub use tail::{Tail, beginning};

/// Size at which the file is turned over.
pub const FILE_BYTES: u64 = 8 * 1024 * 1024;

/// Bytes of a file that [`read_last`] returns at most.
pub const READ_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of a file whose lines are known again when its session is.
const RECALLED: u64 = 64 * 1024;

/// How long nothing must come for [`SessionLog::settled`]: a shim sends output every 5 ms while there is some.
const SILENCE: Duration = Duration::from_millis(50);

/// How long [`SessionLog::settled`] takes at most.
const SETTLING: Duration = Duration::from_millis(500);

/// See [`SessionLog::append`].
const YEAR_MS: u64 = 366 * 24 * 60 * 60 * 1000;

/// Batches that a follower may lag behind before it loses some (it is told how many).
const FOLLOW_QUEUE: usize = 256;

/// See the module.
#[derive(Debug)]
pub struct SessionLog {
    path: PathBuf,
    started: SystemTime,
    inner: Mutex<Inner>,
    follow: broadcast::Sender<LogRecord>,
}

#[derive(Debug)]
struct Inner {
    file: Option<File>,
    written: u64,
    newest: Newest,
    /// Of the shim's words.
    allowance: Allowance,
    dropped: u64,
    /// Those of them that the log does not tell of yet.
    untold: u64,
    /// Set once writing has failed, so that the failure is logged once.
    broken: bool,
}

impl SessionLog {
    /// The log at `path` of a session that began at `started`, whose shim passes on `per_s` bytes a second and `burst` at
    /// once; the file is made with the first line, if it is not there.
    #[must_use]
    pub fn new(path: PathBuf, started: SystemTime, per_s: u64, burst: u64) -> Self {
        let (follow, _) = broadcast::channel(FOLLOW_QUEUE);
        Self {
            path,
            started,
            inner: Mutex::new(Inner {
                file: None,
                written: 0,
                newest: Newest::default(),
                allowance: Allowance::of_shim(per_s, burst, Instant::now()),
                dropped: 0,
                untold: 0,
                broken: false,
            }),
            follow,
        }
    }

    /// Knows again what an earlier daemon knew: how many lines were dropped, and the last ones that were not. Blocks, shortly.
    pub fn recall(&self, dropped: u64) {
        let last = last_bytes(&self.path, RECALLED).unwrap_or_default();
        let mut inner = self.inner();
        inner.dropped = dropped;
        for line in last.split(|byte| *byte == b'\n') {
            // The first one is cut.
            if let Ok(record) = serde_json::from_slice::<LogRecord>(line) {
                inner.newest.take(&record.text, record.stream.is_some());
            }
        }
    }

    /// Takes a batch from the shim. `false`: it says more than a shim does that holds to its rate, and lines were dropped.
    pub fn append(&self, log: Log, now: Instant) -> bool {
        let mut inner = self.inner();
        inner.lose(log.dropped);
        if inner.untold > 0 {
            let note = format!(
                "{} lines of output were dropped (over the rate limit)",
                inner.untold
            );
            if self.write_within(&mut inner, now, SystemTime::now(), None, note) {
                inner.untold = 0;
            }
        }
        let mut within = true;
        for line in log.lines {
            // The shim's word, so bounded: no session is a year old, and a date beyond the year 9999 cannot be written.
            let at = self.started + Duration::from_millis(line.at_ms.min(YEAR_MS));
            if !self.write_within(&mut inner, now, at, Some(line.stream), line.text) {
                inner.lose(1);
                within = false;
            }
        }
        within
    }

    /// Adds a line about the session that the shim has worded; the result is that of [`SessionLog::append`].
    pub fn report(&self, text: &str, now: Instant) -> bool {
        let mut inner = self.inner();
        let within = self.write_within(&mut inner, now, SystemTime::now(), None, text.to_owned());
        if !within {
            inner.lose(1);
        }
        within
    }

    /// Adds a line of the daemon's own.
    pub fn note(&self, text: &str) {
        if let Some(line) = Line::new(SystemTime::now(), None, text.to_owned()) {
            self.write(&mut self.inner(), line);
        }
    }

    /// Writes a line of the shim's, if its allowance has room for it.
    fn write_within(
        &self,
        inner: &mut Inner,
        now: Instant,
        at: SystemTime,
        stream: Option<LogStream>,
        text: String,
    ) -> bool {
        let Some(line) = Line::new(at, stream, text) else {
            return true;
        };
        let within = inner.allowance.take(line.bytes.len(), now);
        if within {
            self.write(inner, line);
        }
        within
    }

    fn write(&self, inner: &mut Inner, line: Line) {
        let record = &line.record;
        inner.newest.take(&record.text, record.stream.is_some());
        if let Err(error) = self.store(inner, &line.bytes)
            && !inner.broken
        {
            inner.broken = true;
            tracing::warn!(path = %self.path.display(), %error, "session log: writing failed; lines are lost");
        }
        // Nobody following is the usual case.
        let _ = self.follow.send(line.record);
    }

    fn store(&self, inner: &mut Inner, line: &[u8]) -> io::Result<()> {
        if inner.written >= FILE_BYTES {
            inner.file = None;
            std::fs::rename(&self.path, rotated(&self.path))?;
            inner.written = 0;
        }
        if inner.file.is_none() {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&self.path)?;
            inner.written = file.metadata()?.len();
            inner.file = Some(file);
        }
        if let Some(file) = inner.file.as_mut() {
            if inner.broken {
                // Some of a line may have been written: it must not swallow this one.
                file.write_all(b"\n")?;
            }
            file.write_all(line)?;
            inner.written += u64::try_from(line.len()).unwrap_or(u64::MAX);
            inner.broken = false;
        }
        Ok(())
    }

    /// The last lines, for a caller whose invocation failed.
    #[must_use]
    pub fn tail(&self) -> Tail {
        self.inner().newest.shown()
    }

    /// Waits until what the agent said before now is here, not long: its shim tells of output after it has told of an answer.
    pub async fn settled(&self) {
        let mut follow = self.follow();
        let settling = async {
            // Whoever lags hears that more has come, too.
            while let Ok(Ok(_) | Err(RecvError::Lagged(_))) =
                tokio::time::timeout(SILENCE, follow.recv()).await
            {}
        };
        let _ = tokio::time::timeout(SETTLING, settling).await;
    }

    /// Lines dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.inner().dropped
    }

    /// What comes from now on.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<LogRecord> {
        self.follow.subscribe()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it holds the lock; the state is whole in any case.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn lose(&mut self, lines: u64) {
        self.dropped = self.dropped.saturating_add(lines);
        self.untold = self.untold.saturating_add(lines);
    }
}

/// A record, and its line in the file.
struct Line {
    record: LogRecord,
    bytes: Vec<u8>,
}

impl Line {
    /// `None` never happens: a record is made of what JSON can say.
    fn new(at: SystemTime, stream: Option<LogStream>, text: String) -> Option<Self> {
        let record = LogRecord {
            at: crate::time::rfc3339(at),
            stream,
            text,
        };
        let mut bytes = serde_json::to_vec(&record).ok()?;
        bytes.push(b'\n');
        Some(Self { record, bytes })
    }
}

fn last_bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn rotated(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// Reads the last `count` records of a stored log (blocking), or, if those are more than [`READ_BYTES`], the last of them
/// with a note before. A session that said nothing has no file: no records.
pub fn read_last(path: &Path, count: usize) -> io::Result<Vec<LogRecord>> {
    let mut last = VecDeque::with_capacity(count.min(1024));
    let (mut bytes, mut more) = (0, false);
    for file in [rotated(path), path.to_path_buf()] {
        let file = match File::open(file) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in BufReader::new(file).lines() {
            let line = line?;
            bytes += line.len();
            last.push_back(line);
            while last.len() > count || bytes > READ_BYTES {
                more = true;
                bytes -= last.pop_front().map_or(0, |line| line.len());
            }
        }
    }
    // A line cut short by a crash is the last one; it is not a record.
    let records = last
        .iter()
        .filter_map(|line| serde_json::from_str::<LogRecord>(line).ok());
    if !more || last.len() >= count {
        return Ok(records.collect());
    }
    let mut records: VecDeque<_> = records.collect();
    if let Some(first) = records.front() {
        let note = LogRecord {
            at: first.at.clone(),
            stream: None,
            text: format!("earlier lines are left out: these are the last {READ_BYTES} bytes"),
        };
        records.push_front(note);
    }
    Ok(records.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::shim::LogLine;

    fn line(text: &str) -> Log {
        Log {
            lines: vec![LogLine {
                stream: LogStream::Stdout,
                at_ms: 5,
                text: text.to_owned(),
            }],
            dropped: 0,
        }
    }

    /// Of a shim whose rate is no matter.
    fn log_at(path: PathBuf) -> SessionLog {
        SessionLog::new(path, SystemTime::now(), FILE_BYTES, FILE_BYTES)
    }

    #[test]
    fn lines_are_stored_kept_and_followed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("s.log");
        let log = log_at(path.clone());
        let mut follower = log.follow();
        log.append(line("one\u{1b}[31m\ntwo"), Instant::now());
        let silent = Log {
            lines: Vec::new(),
            dropped: 7,
        };
        log.append(silent, Instant::now());
        assert_eq!(log.tail().lines[0], "one\u{1b}[31m\ntwo");
        assert_eq!(log.dropped(), 7);
        assert_eq!(
            follower.try_recv().expect("followed").text,
            "one\u{1b}[31m\ntwo"
        );
        let stored = read_last(&path, 10).expect("read");
        assert_eq!(stored.len(), 2);
        assert_eq!(stored[0].stream, Some(LogStream::Stdout));
        assert_eq!(stored[1].stream, None);
        let raw = std::fs::read_to_string(&path).expect("raw");
        assert!(
            !raw.contains('\u{1b}'),
            "escape bytes stay escaped in the file"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_still_coming_is_waited_for_but_not_for_ever() {
        let dir = tempfile::tempdir().expect("tempdir");
        let log = log_at(dir.path().join("s.log"));
        let begun = tokio::time::Instant::now();
        log.settled().await;
        assert_eq!(begun.elapsed(), SILENCE);
        let lines = async |count: u32| {
            for _ in 0..count {
                tokio::time::sleep(Duration::from_millis(5)).await;
                log.append(line("more"), Instant::now());
            }
        };
        for (count, waited) in [(3, 3 * Duration::from_millis(5) + SILENCE), (200, SETTLING)] {
            let begun = tokio::time::Instant::now();
            let settled = async {
                log.settled().await;
                begun.elapsed()
            };
            let (elapsed, ()) = tokio::join!(settled, lines(count));
            assert_eq!(elapsed, waited);
        }
    }

    #[test]
    fn an_earlier_daemons_lines_are_known_again_and_half_a_line_swallows_none() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("s.log");
        let before = log_at(path.clone());
        for number in 0..2000 {
            before.append(
                line(&format!("line {number} {}", "x".repeat(90))),
                Instant::now(),
            );
        }
        let after = log_at(path.clone());
        after.recall(7);
        assert_eq!(after.dropped(), 7);
        assert_eq!(after.tail(), before.tail());
        assert!(after.tail().last_words.is_some());
        // A disk that was full in the middle of a line.
        let mut file = OpenOptions::new().append(true).open(&path).expect("open");
        file.write_all(b"{\"at\":\"half").expect("written");
        after.inner().broken = true;
        after.append(line("whole"), Instant::now());
        let last = read_last(&path, 1).expect("read");
        assert_eq!(last[0].text, "whole");
    }

    #[test]
    fn a_shims_numbers_do_no_harm() {
        let dir = tempfile::tempdir().expect("tempdir");
        let log = log_at(dir.path().join("s.log"));
        for _ in 0..2 {
            let mut batch = line("x");
            batch.lines[0].at_ms = u64::MAX;
            batch.dropped = u64::MAX;
            log.append(batch, Instant::now());
        }
        assert_eq!(log.dropped(), u64::MAX);
        assert_eq!(log.tail().lines.len(), 4);
    }

    #[test]
    fn the_file_stays_within_twice_its_bound() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("s.log");
        let log = log_at(path.clone());
        let text = "x".repeat(16 * 1024);
        for _ in 0..(3 * FILE_BYTES / (16 * 1024)) {
            assert!(log.append(line(&text), Instant::now()));
        }
        let total: u64 = [path.clone(), rotated(&path)]
            .iter()
            .map(|path| std::fs::metadata(path).expect("both files").len())
            .sum();
        assert!(
            total > FILE_BYTES && total <= 2 * FILE_BYTES + 64 * 1024,
            "{total}"
        );
        assert_eq!(read_last(&path, 3).expect("read").len(), 3);
        let most = read_last(&path, 10_000).expect("read");
        let bytes: usize = most.iter().map(|record| record.text.len()).sum();
        assert!(
            bytes > READ_BYTES * 9 / 10 && bytes <= READ_BYTES,
            "{bytes} bytes read at once"
        );
        assert_eq!(most[0].stream, None);
        assert!(most[0].text.contains("left out"), "{:?}", most[0]);
        assert!(most[1..].iter().all(|record| record.text == text));
    }

    #[test]
    fn a_shim_that_holds_to_no_rate_fills_neither_disk_nor_followers() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("s.log");
        let (per_s, burst) = (64 << 10, 64 << 10);
        let log = SessionLog::new(path.clone(), SystemTime::now(), per_s, burst);
        let mut follower = log.follow();
        let size = || std::fs::metadata(&path).expect("file").len();
        let start = Instant::now();
        // What a shim at its rate may send at the worst: all it keeps and a burst, every byte escaped.
        let escaped = "\u{1}".repeat(1000);
        for _ in 0..2 * burst / 1016 {
            assert!(log.append(line(&escaped), start));
        }
        while follower.try_recv().is_ok() {}
        // One that floods, for ten seconds: lines, faults, and counts of lines that never were.
        let text = "x".repeat(1000);
        for step in 0..1000 {
            let now = start + Duration::from_millis(10) * step;
            for _ in 0..10 {
                let mut batch = line(&text);
                batch.dropped = 1;
                log.append(batch, now);
                log.report(&text, now);
            }
        }
        assert!(size() < 16 * burst + 10 * 8 * per_s, "{}", size());
        assert!(log.dropped() > 20_000, "{}", log.dropped());
        // The daemon's own words are in it whatever the shim does, and so is, in time, what was lost.
        log.note("the end");
        let tail = log.tail();
        assert_eq!(tail.lines.last().map(String::as_str), Some("the end"));
        assert_ne!(tail.last_words.as_deref(), Some("the end"));
        let later = start + Duration::from_secs(20);
        assert!(log.append(line("after"), later));
        let stored = read_last(&path, 3).expect("read");
        assert_eq!(stored[0].text, "the end");
        assert!(
            stored[1].text.contains("lines of output were dropped"),
            "{stored:?}"
        );
        assert_eq!(stored[2].text, "after");
    }
}
