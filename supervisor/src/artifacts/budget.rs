//! What a bundle may cost: counted while it is unpacked, refused at the first byte too many.

use super::{ArtifactError, Measures, Refusal};
use std::time::{Duration, Instant};

/// Bounds of one bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Packed bytes.
    pub packed: u64,
    /// Bytes of all files.
    pub unpacked: u64,
    /// Files, directories and links, those included that are only implied by a path.
    pub entries: u64,
    /// Unpacked by packed bytes, once [`Bounds::ratio_floor`] is exceeded.
    pub ratio: u64,
    /// Unpacked bytes below which the ratio does not matter: a small file of zeros is no bomb.
    pub ratio_floor: u64,
    /// Time to unpack.
    pub time: Duration,
    /// How long the upload may take, whatever its size …
    pub upload_time: Duration,
    /// … and for each so many bytes one second more. Few are received at once, so one that trickles keeps others waiting.
    pub upload_pace: u64,
}

impl Bounds {
    /// How long after its beginning an upload of which this many bytes came must have gone on.
    pub(super) fn arrival(&self, bytes: u64) -> Duration {
        self.upload_time + Duration::from_secs(bytes / self.upload_pace.max(1))
    }
}

impl Default for Bounds {
    /// The point 7; the time is the security bar's (§4.1).
    fn default() -> Self {
        Self {
            packed: 250 << 20,
            unpacked: 750 << 20,
            entries: 200_000,
            ratio: 100,
            ratio_floor: 10 << 20,
            time: Duration::from_secs(120),
            upload_time: Duration::from_secs(60),
            upload_pace: 64 << 10,
        }
    }
}

/// What is left of the bounds while one bundle is unpacked.
#[derive(Debug)]
pub(super) struct Budget {
    bounds: Bounds,
    packed: u64,
    unpacked: u64,
    entries: u64,
    files: u64,
    descriptions: u64,
    began: Instant,
}

impl Budget {
    pub(super) fn new(bounds: &Bounds, packed: u64) -> Self {
        Self {
            bounds: bounds.clone(),
            packed,
            unpacked: 0,
            entries: 0,
            files: 0,
            descriptions: 0,
            began: Instant::now(),
        }
    }

    /// Another one that begins at the same moment with the same bounds.
    pub(super) fn alike(&self) -> Self {
        Self {
            unpacked: 0,
            entries: 0,
            files: 0,
            descriptions: 0,
            bounds: self.bounds.clone(),
            ..*self
        }
    }

    /// One more directory or link.
    pub(super) fn entry(&mut self) -> Result<(), ArtifactError> {
        self.entries += 1;
        self.count()
    }

    /// One more header that only describes the entry to come: no entry, but a flood of them costs as much.
    pub(super) fn description(&mut self) -> Result<(), ArtifactError> {
        self.descriptions += 1;
        self.count()
    }

    fn count(&self) -> Result<(), ArtifactError> {
        // A long name and attributes for every entry are usual.
        if self.entries > self.bounds.entries || self.descriptions / 3 > self.bounds.entries {
            return Err(Refusal::Entries(self.bounds.entries).whole());
        }
        self.time()
    }

    /// One more file.
    pub(super) fn file(&mut self) -> Result<(), ArtifactError> {
        self.files += 1;
        self.entry()
    }

    /// Whether this many more entries could fit, before memory is spent on them.
    pub(super) fn foresee_entries(&self, count: u64) -> Result<(), ArtifactError> {
        match self.entries.saturating_add(count) <= self.bounds.entries {
            true => Ok(()),
            false => Err(Refusal::Entries(self.bounds.entries).whole()),
        }
    }

    /// Bytes that a file announces or delivers.
    pub(super) fn bytes(&mut self, count: u64) -> Result<(), ArtifactError> {
        self.unpacked = self.unpacked.saturating_add(count);
        self.expansion(self.unpacked, self.bounds.unpacked)?;
        self.time()
    }

    /// Bytes of the whole inflated stream, headers and padding included. It may be larger than the files by what the
    /// headers of the most entries take.
    pub(super) fn stream(&self, total: u64) -> Result<(), ArtifactError> {
        // Name, long name, attributes and the file itself: four headers with a block of content each.
        const HEADERS_OF_AN_ENTRY: u64 = 8 * 512;
        let headers = self.bounds.entries.saturating_mul(HEADERS_OF_AN_ENTRY);
        self.expansion(total, self.bounds.unpacked.saturating_add(headers))?;
        self.time()
    }

    fn expansion(&self, bytes: u64, most: u64) -> Result<(), ArtifactError> {
        if bytes > most {
            return Err(Refusal::Unpacked(self.bounds.unpacked).whole());
        }
        let expanded = self.packed.saturating_mul(self.bounds.ratio);
        if bytes > self.bounds.ratio_floor && bytes > expanded {
            return Err(Refusal::Ratio(self.bounds.ratio).whole());
        }
        Ok(())
    }

    fn time(&self) -> Result<(), ArtifactError> {
        match self.began.elapsed() <= self.bounds.time {
            true => Ok(()),
            false => Err(Refusal::Time(self.bounds.time.as_secs()).whole()),
        }
    }

    /// The measures, once all is unpacked.
    pub(super) fn finish(self) -> Result<Measures, ArtifactError> {
        if self.files == 0 {
            return Err(Refusal::Empty.whole());
        }
        Ok(Measures {
            unpacked_bytes: self.unpacked,
            entries: self.entries,
        })
    }
}
