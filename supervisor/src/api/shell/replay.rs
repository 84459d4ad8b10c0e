//! The output of late, for who comes back: the last [`MOST`] bytes (contract §6).

use std::collections::VecDeque;

/// Bytes kept.
pub(super) const MOST: usize = 256 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Replay(VecDeque<u8>);

impl Replay {
    /// Keeps these too, and forgets the oldest.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(MOST)..];
        let over = (self.0.len() + bytes.len()).saturating_sub(MOST);
        self.0.drain(..over);
        self.0.extend(bytes);
    }

    /// All of it, in pieces of at most `most` bytes. It begins with a whole character where the output is UTF-8.
    pub(super) fn pieces(&mut self, most: usize) -> impl Iterator<Item = &[u8]> {
        let full = self.0.len() == MOST;
        let all = self.0.make_contiguous();
        let rest = |byte: &u8| full && byte & 0xc0 == 0x80;
        let cut = all.iter().take(3).take_while(|byte| rest(byte)).count();
        all[cut..].chunks(most.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(replay: &mut Replay) -> Vec<u8> {
        replay.pieces(1000).flatten().copied().collect()
    }

    #[test]
    fn the_last_bytes_are_kept() {
        let mut replay = Replay::default();
        replay.keep(b"first");
        assert_eq!(all(&mut replay), b"first");
        let much = b"abcdefg".iter().copied().cycle().take(MOST - 2);
        let much: Vec<u8> = much.collect();
        replay.keep(&much);
        let kept = all(&mut replay);
        assert_eq!(kept.len(), MOST);
        assert!(kept.starts_with(b"st") && kept.ends_with(&much));
        replay.keep(&vec![b'x'; MOST * 2]);
        assert_eq!(all(&mut replay), vec![b'x'; MOST]);
        assert!(replay.pieces(1000).all(|piece| piece.len() <= 1000));
    }

    #[test]
    fn it_does_not_begin_in_the_middle_of_a_character() {
        let mut replay = Replay::default();
        replay.keep("€".repeat(MOST / 3 + 1).as_bytes());
        let kept = all(&mut replay);
        assert!(std::str::from_utf8(&kept).is_ok());
        assert!(kept.len() > MOST - 3);
    }
}
