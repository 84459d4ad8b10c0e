//! Bytes ▸ lines, the same for any split into reads.

use proto::shim::MAX_LOG_LINE;

/// An unfinished line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes bytes and hands out every line that is finished by a newline or by its length, without its newline, and with
    /// how many bytes come after it.
    pub(super) fn take(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8], usize)) {
        while !bytes.is_empty() {
            let room = MAX_LOG_LINE - self.partial.len();
            // One byte beyond the room may be the newline of a line that just fits.
            let window = &bytes[..bytes.len().min(room + 1)];
            match window.iter().position(|&b| b == b'\n') {
                Some(end) if self.partial.is_empty() => {
                    line(&bytes[..end], bytes.len() - end - 1);
                    bytes = &bytes[end + 1..];
                }
                Some(end) => {
                    self.partial.extend_from_slice(&bytes[..end]);
                    line(&self.partial, bytes.len() - end - 1);
                    // A fresh vector, so that an idle session does not keep 16 KiB for a long line of long ago.
                    self.partial = Vec::new();
                    bytes = &bytes[end + 1..];
                }
                None if window.len() <= room => {
                    self.partial.extend_from_slice(window);
                    bytes = &bytes[window.len()..];
                }
                None => {
                    self.partial.extend_from_slice(&bytes[..room]);
                    let cut = whole_characters(&self.partial);
                    line(&self.partial[..cut], bytes.len() - room);
                    self.partial.drain(..cut);
                    bytes = &bytes[room..];
                }
            }
        }
    }

    /// Whether no line is unfinished.
    pub(super) fn is_between(&self) -> bool {
        self.partial.is_empty()
    }

    /// Hands out what has no newline yet.
    pub(super) fn end(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            line(&std::mem::take(&mut self.partial));
        }
    }
}

/// Where to cut so that no UTF-8 character is torn; all of it if that is not the trouble.
fn whole_characters(bytes: &[u8]) -> usize {
    (bytes.len().saturating_sub(3)..bytes.len())
        .rev()
        .find(|&at| !(0x80..0xC0).contains(&bytes[at]))
        .filter(|&at| {
            let width = match bytes[at] {
                0xC0..0xE0 => 2,
                0xE0..0xF0 => 3,
                0xF0.. => 4,
                _ => 1,
            };
            at + width > bytes.len()
        })
        .unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for piece in pieces {
            lines.take(piece, |line, _| found.push(line.to_vec()));
        }
        lines.end(|line| found.push(line.to_vec()));
        found
    }

    #[test]
    fn newlines_end_lines() {
        assert_eq!(split(&[b"a\n\nb"]), [&b"a"[..], b"", b"b"]);
        assert_eq!(split(&[b"a", b"b", b"\n"]), [b"ab"]);
        assert!(split(&[b""]).is_empty());
    }

    #[test]
    fn a_line_that_just_fits_stays_whole() {
        let mut text = vec![b'x'; MAX_LOG_LINE];
        text.push(b'\n');
        assert_eq!(split(&[&text]), [&text[..MAX_LOG_LINE]]);
        text.insert(0, b'x');
        let found = split(&[&text]);
        assert_eq!(
            found.iter().map(Vec::len).collect::<Vec<_>>(),
            [MAX_LOG_LINE, 1]
        );
    }

    #[test]
    fn characters_are_not_torn() {
        let text = format!("{}é", "x".repeat(MAX_LOG_LINE - 1));
        let found = split(&[text.as_bytes()]);
        assert_eq!(found[1], "é".as_bytes());
    }

    #[test]
    fn what_comes_after_a_line_is_told() {
        let mut rests = Vec::new();
        Lines::default().take(b"a\nbc\nd", |_, rest| rests.push(rest));
        assert_eq!(rests, [4, 1]);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_lines(
            pieces in proptest::collection::vec(
                (prop_oneof![Just(b"\n".to_vec()), Just(vec![0xE2, 0x82]), Just(b"text".to_vec()),
                    Just(vec![b'y'; 9000]), Just(vec![0xF0; 5000])], 1usize..3), 0..12),
            cuts in proptest::collection::vec(1usize..20_000, 1..20),
        ) {
            let whole: Vec<u8> = pieces.iter().flat_map(|(p, n)| p.repeat(*n)).collect();
            let mut parts = Vec::new();
            let mut rest = &whole[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (part, after) = rest.split_at((*cut).min(rest.len()));
                parts.push(part);
                rest = after;
            }
            let found = split(&parts);
            prop_assert_eq!(&found, &split(&[&whole]));
            prop_assert!(found.iter().all(|line| line.len() <= MAX_LOG_LINE));
            let bytes: usize = found.iter().map(Vec::len).sum();
            prop_assert_eq!(bytes, whole.iter().filter(|b| **b != b'\n').count());
        }
    }
}
