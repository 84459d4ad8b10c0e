//! What a person or a script sees: results on standard output, everything else on standard error.
//!
//! For: `--json`, `-q`, colour, tables, progress. Not for: deciding what to show (the verbs do).
//! Colour only on a terminal and without `NO_COLOR`; progress bars only on a terminal, a line each otherwise.

use crate::failure::Failure;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
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
        let mut text = format!(
            "{} {}\n",
            self.paint_error(Tone::Bad, "error:"),
            failure.what
        );
        for line in &failure.details {
            text.push_str(&format!("  {line}\n"));
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
        bar.set_style(
            ProgressStyle::with_template("{spinner} {prefix} {msg:.dim} {elapsed:.dim}")
                .expect("a constant template"),
        );
        bar.set_prefix(text);
        bar.enable_steady_tick(Duration::from_millis(100));
        Stage(bar)
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
