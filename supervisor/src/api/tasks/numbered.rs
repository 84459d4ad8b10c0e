//! Numbers the events of a stream on its way to a client that may come back: an event's `id` is the place in the agent's answer
//! where the next one begins, so that going on is reading on from there. What is kept, and what other clients get, stays as the
//! agent said it.
//!
//! The agent's bytes pass as they come; before the empty line that ends an event stands one line more. An `id` of the agent's
//! own comes before that, and the last one counts (WHATWG HTML §9.2.6).
//!
//! Pure.

use bytes::{BufMut as _, Bytes, BytesMut};

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Numbering {
    /// Where the next byte is in the agent's answer.
    at: u64,
    /// Nothing stands on this line yet.
    line_empty: bool,
    /// Nothing is in this event yet.
    event_empty: bool,
    /// The last byte ended a line, and a line feed would belong to it.
    after_return: bool,
}

impl Numbering {
    /// For bytes from this place on, where an event begins.
    #[must_use]
    pub const fn from(at: u64) -> Self {
        Self {
            at,
            line_empty: true,
            event_empty: true,
            after_return: false,
        }
    }

    /// The next bytes, with numbers.
    pub fn number(&mut self, bytes: &[u8]) -> Bytes {
        let mut told = BytesMut::with_capacity(bytes.len() + 32);
        for &byte in bytes {
            self.at += 1;
            match byte {
                b'\n' if std::mem::take(&mut self.after_return) => {}
                b'\n' | b'\r' => {
                    if self.line_empty && !self.event_empty {
                        told.put_slice(format!("id: {}\n", self.at).as_bytes());
                        self.event_empty = true;
                    }
                    self.line_empty = true;
                    self.after_return = byte == b'\r';
                }
                _ => {
                    self.line_empty = false;
                    self.event_empty = false;
                    self.after_return = false;
                }
            }
            told.put_u8(byte);
        }
        told.freeze()
    }
}

/// Bytes before a place that say whether an event ends there.
pub const BEFORE: u64 = 4;

/// Whether an event ends with these bytes: the last [`BEFORE`] before a place, or all of them.
#[must_use]
pub fn ends_event(before: &[u8]) -> bool {
    let ([line @ .., b'\r', b'\n'] | [line @ .., b'\n' | b'\r']) = before else {
        return before.is_empty();
    };
    matches!(line, [] | [.., b'\n' | b'\r'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(text: &str, pieces: usize, from: u64) -> String {
        let mut numbering = Numbering::from(from);
        let mut told = Vec::new();
        for piece in text.as_bytes().chunks(pieces) {
            told.extend_from_slice(&numbering.number(piece));
        }
        String::from_utf8(told).expect("text")
    }

    #[test]
    fn an_events_number_is_where_the_next_one_begins() {
        let text = "data: a\n\ndata: b\ndata: c\n\n: x\n\ndata: d";
        let told = "data: a\nid: 9\n\ndata: b\ndata: c\nid: 26\n\n: x\nid: 31\n\ndata: d";
        for pieces in 1..text.len() {
            assert_eq!(numbered(text, pieces, 0), told);
        }
        assert_eq!(
            numbered(&text[9..], 100, 9),
            told["data: a\nid: 9\n\n".len()..]
        );
    }

    #[test]
    fn lines_end_in_every_way_that_they_may() {
        assert_eq!(
            numbered("data: a\r\n\r\ndata: b\r\n\r\n", 1, 0),
            "data: a\r\nid: 10\n\r\ndata: b\r\nid: 21\n\r\n"
        );
        assert_eq!(
            numbered("data: a\r\rdata: b", 3, 0),
            "data: a\rid: 9\n\rdata: b"
        );
        // Empty lines alone are no event.
        assert_eq!(numbered("\n\n\r\n", 1, 0), "\n\n\r\n");
    }

    #[test]
    fn whoever_goes_on_from_a_number_misses_nothing_and_gets_nothing_twice() {
        for end in ["\n", "\r\n", "\r"] {
            let events: Vec<String> = (0..5).map(|n| format!("data: {n}{end}{end}")).collect();
            let text = events.concat();
            let told = numbered(&text, 7, 0);
            let numbers = told.split("id: ").skip(1);
            for (index, rest) in numbers.enumerate() {
                let number: usize = rest
                    .split('\n')
                    .next()
                    .expect("a number")
                    .parse()
                    .expect("one");
                assert!(
                    ends_event(&text.as_bytes()[number.saturating_sub(4)..number]),
                    "{number} of {text:?}"
                );
                let left = text[number..].trim_start_matches('\n');
                assert_eq!(left, events[index + 1..].concat());
            }
        }
    }

    #[test]
    fn a_place_within_an_event_is_none_to_go_on_from() {
        for (before, ends) in [
            ("", true),
            ("a\n\n", true),
            ("\n\r\n", true),
            ("\r\n\r", true),
            ("\n", true),
            ("a\n", false),
            ("data", false),
            ("a\r\n", false),
        ] {
            assert_eq!(ends_event(before.as_bytes()), ends, "{before:?}");
        }
    }
}
