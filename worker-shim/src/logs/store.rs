//! Lines that wait for the link: one ring of bytes, so that a thousand short lines do not cost a thousand allocations.

use proto::jsonrpc::MAX_PACKET;
use proto::shim::{LogLine, LogStream, MAX_LOG_LINE};
use std::collections::VecDeque;

/// Bytes before each line: stream, time, length.
const HEADER: usize = 1 + 8 + 4;

/// Room for lines in a packet; the rest is for the envelope.
const MOST_ENCODED: usize = MAX_PACKET - 512;

/// Most lines in a packet, so that one packet does not keep the loop busy for long.
const MOST_LINES: usize = 512;

/// What a line costs in a packet beside its text: names, quotes, a number of 20 digits.
const PER_LINE_ENCODED: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    ring: VecDeque<u8>,
    most: usize,
    /// What is left of a line that did not fit a packet.
    rest: Option<LogLine>,
}

impl Store {
    /// For at most so many bytes, but at least for one line.
    pub(super) fn new(most: usize) -> Self {
        Self {
            ring: VecDeque::new(),
            most: most.max(MAX_LOG_LINE + HEADER),
            rest: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ring.is_empty() && self.rest.is_none()
    }

    pub(super) fn has_room(&self, line: usize) -> bool {
        self.ring.len() + HEADER + line <= self.most
    }

    /// Adds a line of at most [`MAX_LOG_LINE`] bytes.
    pub(super) fn put(&mut self, stream: LogStream, at_ms: u64, line: &[u8]) {
        self.ring.push_back(match stream {
            LogStream::Stdout => 1,
            LogStream::Stderr => 2,
        });
        self.ring.extend(at_ms.to_le_bytes());
        let length = u32::try_from(line.len()).unwrap_or(u32::MAX);
        self.ring.extend(length.to_le_bytes());
        self.ring.extend(line);
    }

    /// Takes as many lines as fit one packet.
    pub(super) fn take(&mut self) -> Vec<LogLine> {
        let mut lines = Vec::new();
        let mut room = MOST_ENCODED;
        while lines.len() < MOST_LINES {
            let Some(mut line) = self.rest.take().or_else(|| self.pop()) else {
                break;
            };
            let fits = fitting(&line.text, room.saturating_sub(PER_LINE_ENCODED));
            if fits < line.text.len() {
                if !lines.is_empty() {
                    self.rest = Some(line);
                    break;
                }
                let rest = line.text.split_off(fits);
                self.rest = Some(LogLine {
                    text: rest,
                    ..line.clone()
                });
            }
            room = room.saturating_sub(PER_LINE_ENCODED + encoded(&line.text));
            lines.push(line);
        }
        if self.ring.is_empty() {
            // Memory of a flood goes back when the flood is over.
            self.ring = VecDeque::new();
        }
        lines
    }

    fn pop(&mut self) -> Option<LogLine> {
        let stream = match self.ring.pop_front()? {
            1 => LogStream::Stdout,
            _ => LogStream::Stderr,
        };
        let mut header = [0; HEADER - 1];
        for (slot, byte) in header.iter_mut().zip(self.ring.drain(..HEADER - 1)) {
            *slot = byte;
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l] = header;
        let at_ms = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let length = u32::from_le_bytes([i, j, k, l]) as usize;
        let bytes: Vec<u8> = self.ring.drain(..length.min(self.ring.len())).collect();
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        Some(LogLine {
            stream,
            at_ms,
            text,
        })
    }
}

/// Bytes of a character in JSON.
fn encoded_char(c: char) -> usize {
    match c {
        '"' | '\\' => 2,
        c if u32::from(c) < 0x20 => 6,
        c => c.len_utf8(),
    }
}

fn encoded(text: &str) -> usize {
    text.chars().map(encoded_char).sum()
}

/// How many bytes of `text` fit: into `room` when encoded, and into one line.
fn fitting(text: &str, room: usize) -> usize {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += encoded_char(c);
        if used > room || at + c.len_utf8() > MAX_LOG_LINE {
            return at;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::jsonrpc;
    use proto::shim::Log;

    fn packet_len(lines: Vec<LogLine>) -> usize {
        jsonrpc::notification(
            "log",
            &Log {
                lines,
                dropped: u64::MAX,
            },
        )
        .len()
    }

    proptest! {
        #[test]
        fn everything_comes_out_in_packets_that_fit(
            lines in proptest::collection::vec(
                (prop_oneof![Just(0u8), Just(b'"'), Just(b'a'), Just(0xFFu8)], 0..=MAX_LOG_LINE), 0..20),
        ) {
            let mut store = Store::new(usize::MAX);
            for (byte, n) in &lines {
                store.put(LogStream::Stderr, u64::MAX, &vec![*byte; *n]);
            }
            let mut text = String::new();
            while !store.is_empty() {
                let taken = store.take();
                prop_assert!(!taken.is_empty());
                for line in &taken {
                    prop_assert!(line.text.len() <= MAX_LOG_LINE);
                    prop_assert_eq!(line.stream, LogStream::Stderr);
                    text.push_str(&line.text);
                }
                prop_assert!(packet_len(taken) <= MAX_PACKET);
            }
            let wanted: String = lines.iter()
                .map(|(byte, n)| String::from_utf8_lossy(&vec![*byte; *n]).into_owned())
                .collect();
            prop_assert!(text == wanted);
        }
    }

    #[test]
    fn a_full_store_takes_no_more() {
        let mut store = Store::new(0);
        assert!(store.has_room(MAX_LOG_LINE));
        store.put(LogStream::Stdout, 1, &[b'x'; MAX_LOG_LINE]);
        assert!(!store.has_room(0));
        assert_eq!(store.take().len(), 1);
        assert!(store.has_room(MAX_LOG_LINE) && store.is_empty());
    }
}
