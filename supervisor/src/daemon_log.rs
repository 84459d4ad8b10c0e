//! The daemon's own log: its form, and its level, which a reload changes. Not for what agents say (`session::log`).

use crate::config::{Log, LogFormat};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// Level names, least first.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What is logged from now on; broker and launcher have one each, and a reload reaches the broker's.
#[derive(Debug, Clone)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// Puts a checked level in force.
    pub fn set(&self, level: &str) {
        // Fails only if the subscriber is gone, which it never is.
        let _ = self.0.reload(filter(level));
    }
}

/// Begins to log to stderr.
#[must_use]
pub fn begin(log: &Log) -> LogLevel {
    let (level, handle) = reload::Layer::new(filter(&log.level));
    let lines = fmt::layer()
        // To a file on a full disk a line cannot be written, nor that it could not: that would be a panic.
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let registry = tracing_subscriber::registry().with(level);
    // Fails only if a subscriber is set already, which nothing does before this.
    let set = match log.format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    };
    drop(set);
    LogLevel(handle)
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
