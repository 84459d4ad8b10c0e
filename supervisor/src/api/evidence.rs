//! What AWS hides and its users ask for most: the agent's own words, beside an error of its making and, of those the most
//! telling ones, in the error's message: botocore shows its callers nothing else.
//!
//! They are somebody else's bytes: bounded, and in a message one line without anything that a terminal would obey.

use crate::session::log::{Tail, beginning};
use serde_json::{Map, Value, json};

/// How much of a failing agent's answer is read, and shown.
pub const BODY_BYTES: usize = 4096;

/// How much of it stands in the message, and how much of a line of the log.
const MESSAGE_CHARS: usize = 512;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentEvidence {
    /// The agent's status, if it answered.
    pub status: Option<u16>,
    /// The beginning of its answer.
    pub body: Option<String>,
    /// The end of its output.
    pub log: Tail,
}

impl AgentEvidence {
    /// What an agent answered (the first bytes of its body), and what it had logged by then.
    #[must_use]
    pub fn answered(status: u16, body: &[u8], log: Tail) -> Self {
        Self {
            status: Some(status),
            body: Some(text(body)),
            log,
        }
    }

    /// What an agent had logged that gave no answer.
    #[must_use]
    pub fn logged(log: Tail) -> Self {
        Self {
            log,
            ..Self::default()
        }
    }

    /// Its answer, for a message.
    #[must_use]
    pub fn said(&self) -> String {
        let body = self.body.as_deref().unwrap_or_default();
        match one_line(body.trim()) {
            said if said.is_empty() => "nothing".to_owned(),
            said => said,
        }
    }

    /// The last line of its log, for a message.
    #[must_use]
    pub fn last_words(&self) -> Option<String> {
        let words = self.log.last_words.as_deref()?;
        Some(one_line(words.trim()))
    }

    /// As members of an error.
    pub fn tell(&self, members: &mut Map<String, Value>) {
        if let Some(status) = self.status {
            members.insert("agentStatus".to_owned(), json!(status));
        }
        if let Some(text) = &self.body {
            members.insert("agentBody".to_owned(), json!(text));
        }
        if !self.log.lines.is_empty() {
            members.insert("agentLog".to_owned(), json!(self.log.lines));
        }
    }

    /// Bytes that it takes to keep it.
    #[must_use]
    pub fn weight(&self) -> usize {
        let log: usize = self.log.lines.iter().map(String::len).sum();
        let words = self.log.last_words.as_ref().map_or(0, String::len);
        self.body.as_ref().map_or(0, String::len) + log + words
    }
}

/// At most [`BODY_BYTES`] of it as text; what is not UTF-8 is marked, and takes more room as such.
fn text(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(BODY_BYTES)];
    // A character that the bound has torn is no fault of the agent's.
    let whole = match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Ok(_) | Err(_) => bytes.len(),
    };
    let text = String::from_utf8_lossy(&bytes[..whole]);
    beginning(&text, BODY_BYTES).to_owned()
}

/// Its beginning, with everything escaped that would not stay on the line or would change how it is read.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for (index, letter) in text.chars().enumerate() {
        if index == MESSAGE_CHARS {
            line.push('…');
            break;
        }
        let turns = matches!(letter,
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if letter.is_control() || turns {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_answers_is_text_within_its_bound() {
        for (body, shown) in [
            (&b"plain"[..], "plain"),
            (b"\xff\xfe bad", "\u{fffd}\u{fffd} bad"),
            // Torn, as by the bound.
            ("a€".as_bytes().get(..3).expect("bytes"), "a"),
        ] {
            let evidence = AgentEvidence::answered(500, body, Tail::default());
            assert_eq!(evidence.body.as_deref(), Some(shown));
        }
        for large in [
            vec![b'x'; 1 << 20],
            vec![0xff; 1 << 20],
            "€".repeat(5000).into_bytes(),
        ] {
            let text = text(&large);
            assert!(
                text.len() <= BODY_BYTES && text.len() > BODY_BYTES - 4,
                "{}",
                text.len()
            );
        }
    }

    #[test]
    fn a_message_stays_on_its_line_and_is_obeyed_by_no_terminal() {
        assert_eq!(
            one_line("a\u{1b}[2J\r\n\tb\u{0}\u{9b}\u{202e}é \"c\""),
            r#"a\u{1b}[2J\r\n\tb\u{0}\u{9b}\u{202e}é "c""#
        );
        let long = one_line(&"\u{7}".repeat(10_000));
        assert_eq!(long.len(), r"\u{7}".len() * MESSAGE_CHARS + "…".len());
        let silent = AgentEvidence::answered(500, b" \n", Tail::default());
        assert_eq!(
            (silent.said().as_str(), silent.last_words()),
            ("nothing", None)
        );
    }
}
