//! The newest lines of a session's output, for a caller whose call its agent has failed: few, and bounded however long the
//! lines are.

use std::collections::VecDeque;

/// Lines kept.
const LINES: usize = 40;

/// Most bytes of one of them; of a longer one its beginning is.
const LINE_BYTES: usize = 2 * 1024;

/// Most bytes of them shown.
const SHOWN_BYTES: usize = 8 * 1024;

/// What a caller is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    /// The last lines, the daemon's own among them; of at most 8 KiB.
    pub lines: Vec<String>,
    /// The last line that the agent itself has said, at most 2 KiB of it.
    pub last_words: Option<String>,
}

/// The lines that there are.
#[derive(Debug, Default)]
pub(super) struct Newest {
    lines: VecDeque<String>,
    last_words: Option<String>,
}

impl Newest {
    /// Takes the next line; `words`: the agent's own.
    pub(super) fn take(&mut self, text: &str, words: bool) {
        let line = shortened(text);
        // A blank line says nothing.
        if words && !line.trim().is_empty() {
            self.last_words = Some(line.clone());
        }
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub(super) fn shown(&self) -> Tail {
        let mut bytes = 0;
        let newest = self.lines.iter().rev().take_while(|line| {
            bytes += line.len();
            bytes <= SHOWN_BYTES
        });
        let mut lines: Vec<String> = newest.cloned().collect();
        lines.reverse();
        Tail {
            lines,
            last_words: self.last_words.clone(),
        }
    }
}

fn shortened(text: &str) -> String {
    if text.len() <= LINE_BYTES {
        return text.to_owned();
    }
    let mark = "…";
    format!("{}{mark}", beginning(text, LINE_BYTES - mark.len()))
}

/// At most so many bytes of a text, in whole characters.
#[must_use]
pub fn beginning(text: &str, most: usize) -> &str {
    let most = most.min(text.len());
    let cut = (0..=most).rev().find(|at| text.is_char_boundary(*at));
    &text[..cut.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_shown_whatever_their_length() {
        let mut newest = Newest::default();
        for number in 0..10_000 {
            newest.take(&format!("line {number}"), true);
        }
        let shown = newest.shown();
        assert_eq!(shown.lines.len(), LINES);
        assert_eq!(shown.lines[LINES - 1], "line 9999");
        for text in ["x", "é"].map(|text| text.repeat(16 * 1024)) {
            newest.take(&text, true);
            let shown = newest.shown();
            let last = shown.lines.last().expect("shown");
            assert!(last.len() <= LINE_BYTES && last.len() > LINE_BYTES - 3);
            assert!(last.ends_with('…') && text.starts_with(last.trim_end_matches('…')));
        }
        for _ in 0..LINES {
            newest.take(&"y".repeat(1500), false);
        }
        let shown = newest.shown();
        assert_eq!(shown.lines.len(), SHOWN_BYTES / 1500);
        assert!(newest.lines.iter().map(String::len).sum::<usize>() <= LINES * LINE_BYTES);
    }

    #[test]
    fn the_agents_last_words_are_its_own() {
        let mut newest = Newest::default();
        assert_eq!(newest.shown(), Tail::default());
        newest.take("reason", true);
        newest.take("  ", true);
        newest.take("session ends: of that", false);
        let shown = newest.shown();
        assert_eq!(shown.last_words.as_deref(), Some("reason"));
        assert_eq!(shown.lines, ["reason", "  ", "session ends: of that"]);
    }
}
