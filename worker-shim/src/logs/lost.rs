//! The newest dropped lines of one stream. If its agent ends right after them they are its last words, often the reason for
//! its end, and are passed on after all.

/// Most bytes kept; also how much past the rate limit an ending agent may say.
pub(super) const KEPT: usize = 4096;

/// Dropped lines since the last one that was not, each followed by a newline.
#[derive(Debug, Default)]
pub(super) struct Lost(Vec<u8>);

impl Lost {
    /// A line was dropped, `rest` bytes before the end of what is known.
    pub(super) fn add(&mut self, line: &[u8], rest: usize) {
        // A flood comes in large pieces, of which only the end can be among the newest.
        if rest > KEPT || line.len() >= KEPT {
            self.0.clear();
            return;
        }
        self.0.extend_from_slice(line);
        self.0.push(b'\n');
        if self.0.len() > 2 * KEPT {
            let end = self.0.len() - KEPT;
            let whole = self.0[end..].iter().position(|&b| b == b'\n');
            self.0
                .drain(..whole.map_or(self.0.len(), |at| end + at + 1));
        }
    }

    /// A line was passed on.
    pub(super) fn clear(&mut self) {
        if !self.0.is_empty() {
            self.0 = Vec::new();
        }
    }

    /// Hands out what was kept.
    pub(super) fn take(&mut self, mut line: impl FnMut(&[u8])) {
        let kept = std::mem::take(&mut self.0);
        let kept = &kept[..kept.len().saturating_sub(1)];
        if !kept.is_empty() {
            let from = kept.len().saturating_sub(KEPT);
            // The first of too many may be torn.
            let skip = usize::from(from > 0);
            kept[from..]
                .split(|&b| b == b'\n')
                .skip(skip)
                .for_each(&mut line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(lost: &mut Lost) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        lost.take(|line| lines.push(line.to_vec()));
        lines
    }

    #[test]
    fn the_newest_are_kept_whole() {
        let mut lost = Lost::default();
        for n in 0..10_000 {
            lost.add(format!("line {n:05}").as_bytes(), 0);
        }
        let lines = taken(&mut lost);
        assert!(lines.len() > KEPT / 12 && lines.len() <= KEPT / 11);
        assert_eq!(lines.last().map(Vec::as_slice), Some(&b"line 09999"[..]));
        assert!(lines.iter().all(|line| line.len() == 10));
        assert!(taken(&mut lost).is_empty());
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let mut lost = Lost::default();
        lost.add(b"old", 0);
        lost.add(b"far from the end", KEPT + 1);
        assert!(taken(&mut lost).is_empty());
        lost.add(b"old", 0);
        lost.clear();
        lost.add(b"", 0);
        lost.add(b"new", 0);
        assert_eq!(taken(&mut lost), [b"".to_vec(), b"new".to_vec()]);
    }
}
