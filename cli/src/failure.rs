//! How a verb fails: an exit code that scripts can rely on, what happened, and what to do next.
//!
//! For: the last stop of every error. Modules below have error enums of their own and say here, once per module, which
//! exit code and which advice belongs to each. Not for: printing (`screen`), nor for an `exec`'s own exit code, which is
//! not a failure of ours.

use std::process::ExitCode;

/// Exit codes of `agentcore`, as promised in the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The thing asked for did not work.
    Failed,
    /// The command line, a file that it names, or the configuration is wrong.
    Usage,
    /// Unknown runtime, version, session.
    NotFound,
    /// It exists already, or its state forbids the call.
    Conflict,
    /// No or wrong credentials, or not allowed.
    NotPermitted,
    /// No daemon answers.
    Unreachable,
    /// Load: the same call may work later.
    TryLater,
    /// Took too long.
    TimedOut,
    /// An `exec`'s own.
    Command(u8),
}

impl Exit {
    /// The number.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::NotPermitted => 5,
            Self::Unreachable => 69,
            Self::TryLater => 75,
            Self::TimedOut => 124,
            Self::Command(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// A failed verb.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Failure {
    /// Exit code.
    pub(crate) exit: Exit,
    /// What happened and what it means.
    pub(crate) what: String,
    /// Lines that show more (an agent's last words, faults field by field).
    pub(crate) details: Vec<String>,
    /// What to do next.
    pub(crate) advice: Option<String>,
    /// Nobody reads our output any more: end without a word.
    pub(crate) silent: bool,
}

impl Failure {
    /// A failure with this exit code and text.
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            details: Vec::new(),
            advice: None,
            silent: false,
        }
    }

    /// A wrong command line or file.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// The same with advice.
    #[must_use]
    pub(crate) fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// The same with lines of detail.
    #[must_use]
    pub(crate) fn details(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(lines);
        self
    }

    /// Writing to standard output failed. A closed pipe (`agentcore logs | head`) is how a reader says "enough".
    pub(crate) fn output(error: &std::io::Error) -> Self {
        let mut failure = Self::new(Exit::Failed, format!("cannot write the output: {error}"));
        failure.silent = error.kind() == std::io::ErrorKind::BrokenPipe;
        failure
    }
}

/// An error with all its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some libraries repeat their source in their own text.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let all = [
            (Exit::Failed, 1),
            (Exit::Usage, 2),
            (Exit::NotFound, 3),
            (Exit::Conflict, 4),
            (Exit::NotPermitted, 5),
            (Exit::Unreachable, 69),
            (Exit::TryLater, 75),
            (Exit::TimedOut, 124),
        ];
        for (exit, code) in all {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
    }

    #[test]
    fn a_closed_pipe_is_silent_and_a_full_disk_is_not() {
        let gone = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(Failure::output(&gone).silent);
        assert!(!Failure::output(&full).silent);
    }
}
