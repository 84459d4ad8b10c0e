//! The daemon's own log: its form, and its level, which a reload changes. Not for what agents say (`session::log`).
//!
//! Under systemd it goes to the journal in the journal's own form, so that its fields can be asked for:
//! `journalctl AGENTCORE_SESSION_ID=…`. Elsewhere it is lines on standard error.

use crate::config::{Log, LogFormat};
use std::os::fd::AsFd as _;
use std::sync::OnceLock;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// Level names, least first.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Before the names of fields in the journal, so that they are nobody else's.
pub(crate) const PREFIX: &str = "AGENTCORE";

/// What is logged from now on; broker and launcher have one each, and a reload reaches the broker's.
#[derive(Debug, Clone)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

/// The connection to the journal, to be let go and taken up again.
type Journal = Option<tracing_journald::Layer>;
type JournalHandle = reload::Handle<Journal, Layered<reload::Layer<EnvFilter, Registry>, Registry>>;

/// There where the log goes to the journal.
static JOURNAL: OnceLock<JournalHandle> = OnceLock::new();

impl LogLevel {
    /// Puts a checked level in force.
    pub fn set(&self, level: &str) {
        // Fails only if the subscriber is gone, which it never is.
        let _ = self.0.reload(filter(level));
    }
}

/// Begins to log, in the form that is wanted; without a journal that is wanted, in lines.
#[must_use]
pub fn begin(log: &Log) -> LogLevel {
    let (level, handle) = reload::Layer::new(filter(&log.level));
    let registry = tracing_subscriber::registry().with(level);
    let lines = || {
        fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
    };
    let unsaid = || match stderr_is_the_journals() {
        true => LogFormat::Journal,
        false => LogFormat::Json,
    };
    // Fails only if a subscriber is set already, which nothing does before this.
    let set = match log.format.unwrap_or_else(unsaid) {
        LogFormat::Text => registry.with(lines()).try_init(),
        LogFormat::Json => registry.with(lines().json()).try_init(),
        LogFormat::Journal => match journal() {
            Ok(journal) => {
                let (journal, handle) = reload::Layer::new(Some(journal));
                let _ = JOURNAL.set(handle);
                registry.with(journal).try_init()
            }
            Err(error) => {
                let set = registry.with(lines()).try_init();
                tracing::warn!(%error, "the journal cannot be reached; logging to standard error");
                set
            }
        },
    };
    drop(set);
    LogLevel(handle)
}

/// Does something that closes descriptors which it does not know. The journal's would be one of them, and its number would
/// soon be another's, who would get the messages.
pub fn away_from<T>(closing: impl FnOnce() -> T) -> T {
    let Some(handle) = JOURNAL.get() else {
        return closing();
    };
    // Both fail only if the subscriber is gone, which it never is.
    let _ = handle.reload(None);
    let done = closing();
    let _ = handle.reload(journal().ok());
    done
}

/// What is no error is no cause for a look, either.
pub(crate) fn priorities() -> PriorityMappings {
    PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        ..PriorityMappings::new()
    }
}

fn journal() -> std::io::Result<tracing_journald::Layer> {
    Ok(tracing_journald::layer()?
        .with_field_prefix(Some(PREFIX.to_owned()))
        .with_syslog_identifier("agentcored".to_owned())
        .with_priority_mappings(priorities()))
}

/// Whether what is written to standard error comes to the journal (systemd.exec(5), `$JOURNAL_STREAM`).
fn stderr_is_the_journals() -> bool {
    let Ok(found) = nix::sys::stat::fstat(std::io::stderr().as_fd()) else {
        return false;
    };
    std::env::var("JOURNAL_STREAM")
        .is_ok_and(|stream| stream == format!("{}:{}", found.st_dev, found.st_ino))
}

/// Checks `log.level`: levels and `target=level`, separated by commas. (The library would read a misspelt level as the name
/// of a target, and log nothing.)
pub fn check_level(text: &str) -> Result<(), String> {
    for directive in text.split(',').map(str::trim) {
        let level = directive.rsplit_once('=').map_or(directive, |(_, l)| l);
        if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
            return Err(format!(
                "{level:?} is no level; levels are {}",
                LEVELS.join(", ")
            ));
        }
    }
    EnvFilter::try_new(text)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

fn filter(level: &str) -> EnvFilter {
    EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who looks for a task or an invocation in the journal knows one name for each.
    #[test]
    fn a_task_and_an_invocation_have_one_name_each_as_fields() {
        let mut calls = 0;
        let mut queue = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
        while let Some(path) = queue.pop() {
            if path.is_dir() {
                let entries = std::fs::read_dir(&path).expect("reads");
                queue.extend(entries.map(|entry| entry.expect("entry").path()));
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("reads");
            for call in text.split("tracing::").skip(1) {
                let call = call.split(");").next().unwrap_or_default();
                let Some((_, fields)) = call.split_once("!(") else {
                    continue;
                };
                calls += 1;
                for field in ["task", "invocation", "session"] {
                    let told = format!("{field} =");
                    let named = fields
                        .split([',', '('])
                        .any(|each| each.trim_start().starts_with(&told));
                    assert!(!named, "{}: {fields} ({field}_id)", path.display());
                }
            }
        }
        assert!(calls > 100, "{calls}");
    }

    #[test]
    fn a_misspelt_level_is_told_and_not_taken_for_a_target() {
        for sound in ["info", "WARN", "off", "info,supervisor::egress=debug"] {
            assert_eq!(check_level(sound), Ok(()), "{sound}");
        }
        for wrong in [
            "loud",
            "",
            "info,",
            "info,supervisor::egress=loud",
            "supervisor",
        ] {
            assert!(check_level(wrong).is_err(), "{wrong}");
        }
    }
}
