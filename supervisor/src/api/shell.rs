//! Interactive shells (contract §2.7): a login shell in a terminal of a session, on a WebSocket that ends here.
//!
//! A shell has a name and outlives its connections: whoever comes with the same name in the same session takes over, gets the
//! output of late once more, and goes on where the last one was. One task owns a shell ([`task`]), one its connection
//! ([`connection`]), and [`registry`] knows them by name.

pub(super) mod channel;
pub(super) mod connection;
pub mod registry;
mod replay;
pub(super) mod task;

use std::fmt;
use std::time::Duration;

/// Bounds of shells (contract §6), as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Shells of one runtime.
    pub per_runtime: u32,
    /// Age of a connection.
    pub duration: Duration,
    /// How long a connection may be silent, and a shell without one.
    pub idle: Duration,
}

/// A shell's name: 1 to 128 letters, digits, `-` and `_`, the first one a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ShellId(String);

impl ShellId {
    /// Checks it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let first = text.bytes().next()?;
        let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let good = text.len() <= 128 && first.is_ascii_alphanumeric() && text.bytes().all(rest);
        good.then(|| Self(text.to_owned()))
    }

    /// For a caller without one.
    #[must_use]
    pub fn fresh() -> Self {
        Self(uuid::Uuid::new_v4().to_string())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ShellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_contracts() {
        for good in [
            "a",
            "0",
            "a-b_c",
            ShellId::fresh().as_str(),
            &"x".repeat(128),
        ] {
            assert_eq!(ShellId::parse(good).expect(good).as_str(), good);
        }
        for bad in ["", "-a", "_a", "a b", "a\n", "ü", "a/b", &"x".repeat(129)] {
            assert_eq!(ShellId::parse(bad), None, "{bad:?}");
        }
    }
}
