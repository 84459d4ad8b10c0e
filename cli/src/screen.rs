//! What a person or a script sees: results on standard output, everything else on standard error.
//!
//! For: `--json`, `-q`, colour, tables, progress. Not for: deciding what to show (the verbs do).
//! Colour only on a terminal and without `NO_COLOR`; progress bars only on a terminal, a line each otherwise.

use crate::failure::Failure;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// How to speak.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    /// JSON instead of tables.
    pub(crate) json: bool,
    /// Names and ids only; no notes.
    pub(crate) quiet: bool,
    /// Standard output is a terminal.
    pub(crate) out_terminal: bool,
    /// Standard error is a terminal.
    pub(crate) err_terminal: bool,
    no_colour: bool,
}

/// Emphasis of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// All is well.
    Good,
    /// Look at this.
    Warn,
    /// Broken.
    Bad,
    /// Less important than its neighbours.
    Faint,
}

impl Tone {
    const fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
            Self::Faint => "2",
        }
    }
}

impl Screen {
    /// From the flags, the environment and what the descriptors are.
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self {
            json,
            quiet,
            out_terminal: std::io::stdout().is_terminal(),
            err_terminal: std::io::stderr().is_terminal(),
            // https://no-color.org: present and not empty.
            no_colour: std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
                || std::env::var_os("TERM").is_some_and(|value| value == "dumb"),
        }
    }

    /// `text` in this tone, for standard output.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        Self::painted(self.out_terminal && !self.no_colour, tone, text)
    }

    fn paint_error(&self, tone: Tone, text: &str) -> String {
        Self::painted(self.err_terminal && !self.no_colour, tone, text)
    }

    fn painted(colour: bool, tone: Tone, text: &str) -> String {
        if colour {
            format!("\x1b[{}m{text}\x1b[0m", tone.code())
        } else {
            text.to_owned()
        }
    }

    /// Somebody else's text for standard output: on a terminal, without what could move its cursor or set its title.
    pub(crate) fn foreign<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.out_terminal {
            harmless(text, !self.no_colour)
        } else {
            Cow::Borrowed(text)
        }
    }

    /// A line of the result.
    pub(crate) fn line(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.bytes(format!("{}\n", text.as_ref()).as_bytes())
    }

    /// Bytes of the result, at once.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(|error| Failure::output(&error))
    }

    /// The result as one JSON document.
    pub(crate) fn document(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .expect("our types have string keys and serialise without fail");
        self.line(text)
    }

    /// The result as one line of JSON among others.
    pub(crate) fn record(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value)
            .expect("our types have string keys and serialise without fail");
        self.line(text)
    }

    /// A note for a person, on standard error; nothing with `-q`.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            // A closed standard error must not end the work.
            let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
        }
    }

    /// A note that quotes somebody else.
    pub(crate) fn quote(&self, mark: &str, text: &str) {
        if self.err_terminal {
            self.note(format!("{mark} {}", harmless(text, !self.no_colour)));
        } else {
            self.note(format!("{mark} {text}"));
        }
    }

    /// Something that the user should know although the verb goes on.
    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        let label = self.paint_error(Tone::Warn, "warning:");
        let _ = writeln!(std::io::stderr().lock(), "{label} {}", text.as_ref());
    }

    /// The verb's failure.
    pub(crate) fn failure(&self, failure: &Failure) {
        if failure.silent {
            return;
        }
        // Both may hold an agent's words.
        let shown = |text: &str| match self.err_terminal {
            true => harmless(text, false).into_owned(),
            false => text.to_owned(),
        };
        let mut text = format!(
            "{} {}\n",
            self.paint_error(Tone::Bad, "error:"),
            shown(&failure.what)
        );
        for line in &failure.details {
            text.push_str(&format!("  {}\n", shown(line)));
        }
        if let Some(advice) = &failure.advice {
            text.push_str(&format!(
                "{} {advice}\n",
                self.paint_error(Tone::Faint, "hint:")
            ));
        }
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// Begins a stage that takes a while: a spinner on a terminal, else one line.
    pub(crate) fn stage(&self, text: impl Into<String>) -> Stage {
        let text = text.into();
        if self.quiet {
            return Stage(ProgressBar::hidden());
        }
        if !self.err_terminal {
            self.note(&text);
            return Stage(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        bar.set_style(self.spinner_style());
        bar.set_prefix(text);
        bar.enable_steady_tick(Duration::from_millis(100));
        Stage(bar)
    }

    /// Begins to show how far something is.
    pub(crate) fn progress(&self, text: impl Into<String>) -> Progress<'_> {
        let bar = if self.quiet || !self.err_terminal {
            ProgressBar::hidden()
        } else {
            let bar = ProgressBar::new_spinner();
            bar.set_style(self.spinner_style());
            bar.set_prefix(text.into());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        };
        Progress {
            screen: self,
            bar,
            measured: false,
            said: String::new(),
        }
    }

    fn spinner_style(&self) -> ProgressStyle {
        ProgressStyle::with_template(self.plain(
            "{spinner} {prefix} {msg:.dim} {elapsed:.dim}",
            "{spinner} {prefix} {msg} {elapsed}",
        ))
        .expect("a constant template")
    }

    fn bar_style(&self) -> ProgressStyle {
        ProgressStyle::with_template(self.plain(
            "{spinner} {prefix} {bar:30} {percent:>3}% {msg:.dim} {elapsed:.dim}",
            "{spinner} {prefix} {bar:30} {percent:>3}% {msg} {elapsed}",
        ))
        .expect("a constant template")
    }

    /// `plain` where colours are not wanted.
    const fn plain<'a>(&self, coloured: &'a str, plain: &'a str) -> &'a str {
        if self.no_colour { plain } else { coloured }
    }

    /// Begins a transfer of `total` bytes.
    pub(crate) fn transfer(&self, text: impl Into<String>, total: u64) -> Stage {
        let text = text.into();
        if self.quiet {
            return Stage(ProgressBar::hidden());
        }
        if !self.err_terminal {
            self.note(format!("{text} ({})", crate::table::bytes(total)));
            return Stage(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(total);
        bar.set_style(
            ProgressStyle::with_template("{prefix} {bar:30} {bytes}/{total_bytes}")
                .expect("a constant template"),
        );
        bar.set_prefix(text);
        Stage(bar)
    }
}

/// `text` as one line, without anything that could steer a terminal.
fn one_line(text: &str) -> String {
    harmless(text, false).replace(['\n', '\t'], " ")
}

/// `text` with control characters made visible, but for tabs, line ends and (if `colour`) colours: ECMA-48 `SGR`.
fn harmless(text: &str, colour: bool) -> Cow<'_, str> {
    let bad = |c: char| c.is_control() && c != '\t' && c != '\n';
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(bad) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let sgr = rest.strip_prefix("\x1b[").and_then(|tail| {
            let end = tail.find(|c: char| !c.is_ascii_digit() && c != ';')?;
            tail[end..]
                .starts_with('m')
                .then_some("\x1b[".len() + end + 1)
        });
        match sgr.filter(|_| colour) {
            Some(length) => {
                out.push_str(&rest[..length]);
                rest = &rest[length..];
            }
            None => {
                out.push('\u{fffd}');
                let mut characters = rest.chars();
                characters.next();
                rest = characters.as_str();
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Steps of a bar that shows a fraction.
const STEPS: u64 = 1000;

/// How far something is that somebody else reports: a bar or a spinner on a terminal, else a line for each change.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    screen: &'a Screen,
    bar: ProgressBar,
    /// Whether the bar knows how much is done.
    measured: bool,
    said: String,
}

impl Progress<'_> {
    /// How much is done, if that is known, and in words.
    pub(crate) fn report(&mut self, fraction: Option<f64>, words: &str) {
        let words = one_line(words);
        if !self.screen.err_terminal {
            let percent = fraction.map(|fraction| format!("{:.0}%", 100.0 * fraction));
            let parts = [percent.as_deref().unwrap_or(""), &words];
            let text = parts.join(" ").trim().to_owned();
            if !text.is_empty() && text != self.said {
                self.screen.note(&text);
                self.said = text;
            }
            return;
        }
        if let Some(fraction) = fraction {
            if !std::mem::replace(&mut self.measured, true) {
                self.bar.set_length(STEPS);
                self.bar.set_style(self.screen.bar_style());
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "from 0 to STEPS"
            )]
            self.bar
                .set_position((fraction.clamp(0.0, 1.0) * STEPS as f64) as u64);
        }
        self.bar.set_message(words);
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A running stage; its line goes away when it is dropped.
#[derive(Debug)]
pub(crate) struct Stage(ProgressBar);

impl Stage {
    /// What it is doing just now.
    pub(crate) fn now(&self, text: &str) {
        self.0.set_message(text.to_owned());
    }

    /// So many bytes are through.
    pub(crate) fn at(&self, bytes: u64) {
        self.0.set_position(bytes);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_wrote_cannot_steer_the_terminal() {
        let title = "a\x1b]0;evil\x07b\x1b[2Jc\rd\u{9b}e";
        let shown = harmless(title, true);
        assert_eq!(
            shown,
            "a\u{fffd}]0;evil\u{fffd}b\u{fffd}[2Jc\u{fffd}d\u{fffd}e"
        );
        let coloured = "\x1b[1;31mred\x1b[0m\tplain\n";
        assert_eq!(harmless(coloured, true), coloured);
        assert!(!harmless(coloured, false).contains('\x1b'));
        assert_eq!(harmless("\x1b[", true), "\u{fffd}[");
        assert_eq!(one_line("a\nb\x1b[31mc"), "a b\u{fffd}[31mc");
    }
}
