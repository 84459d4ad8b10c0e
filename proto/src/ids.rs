//! Names, parsed once at the edge. A value of one of these types is known to be well-formed.
//!
//! [`ClientSessionId`] is the caller's (33–256 characters, contract §2.2) and never becomes a path; [`SessionId`] is ours
//! (at most 26 characters, safe as a path component, cgroup name and socket name).

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a name was refused. The text names the rule; the caller adds the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Too short or too long.
    #[error("must be {} characters long, has {found}", Bounds(*min, *max))]
    Length {
        /// Fewest characters allowed.
        min: usize,
        /// Most characters allowed.
        max: usize,
        /// Characters found.
        found: usize,
    },
    /// A character outside the allowed set.
    #[error("has a character that is not allowed at position {at}; allowed: {allowed}")]
    Character {
        /// Zero-based position of the first offending character.
        at: usize,
        /// The allowed set, in words.
        allowed: &'static str,
    },
}

/// `64`, or `33 to 256`.
struct Bounds(usize, usize);

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(min, max) if min == max => write!(f, "{min}"),
            Self(min, max) => write!(f, "{min} to {max}"),
        }
    }
}

fn check(
    text: &str,
    min: usize,
    max: usize,
    allowed: &'static str,
    ok: impl Fn(usize, char) -> bool,
) -> Result<(), IdError> {
    let found = text.chars().count();
    if found < min || found > max {
        return Err(IdError::Length { min, max, found });
    }
    match text.chars().enumerate().position(|(at, c)| !ok(at, c)) {
        Some(at) => Err(IdError::Character { at, allowed }),
        None => Ok(()),
    }
}

macro_rules! text_id {
    ($(#[$meta:meta])* $name:ident, $pattern:literal, $check:expr) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text` and takes it.
            pub fn parse(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                let check: fn(&str) -> Result<(), IdError> = $check;
                check(&text)?;
                Ok(Self(text))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        #[cfg(feature = "schema")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                utoipa::openapi::schema::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .pattern(Some($pattern))
                    .into()
            }
        }

        #[cfg(feature = "schema")]
        impl utoipa::ToSchema for $name {}

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// A session as the host knows it: names its cgroup, socket and directory. 4–26 of `[a-z0-9]`, first a letter.
    SessionId, r"^[a-z][a-z0-9]{3,25}$", |t| check(t, 4, 26, "a-z and 0-9, a letter first", |at, c| {
        c.is_ascii_lowercase() || (at > 0 && c.is_ascii_digit())
    })
}

text_id! {
    /// A session as its caller names it (`X-Amzn-Bedrock-AgentCore-Runtime-Session-Id`): 33–256 visible ASCII characters.
    ClientSessionId, r"^[!-~]{33,256}$", |t| check(t, 33, 256, "visible ASCII", |_, c| c.is_ascii_graphic())
}

text_id! {
    /// A runtime's name, contract §3.2: `[a-zA-Z][a-zA-Z0-9_]{0,47}`.
    RuntimeName, r"^[a-zA-Z][a-zA-Z0-9_]{0,47}$", |t| check(t, 1, 48, "a-z, A-Z, 0-9 and _, a letter first", |at, c| {
        c.is_ascii_alphabetic() || (at > 0 && (c.is_ascii_digit() || c == '_'))
    })
}

text_id! {
    /// A runtime's id: its name, a hyphen, and ten characters of `[a-zA-Z0-9]`.
    RuntimeId, r"^[a-zA-Z][a-zA-Z0-9_]{0,47}-[a-zA-Z0-9]{10}$", |t| check(t, 12, 59, "<name>-<10 letters or digits>", |_, c| {
        c.is_ascii_alphanumeric() || c == '_' || c == '-'
    }).and_then(|()| match t.rsplit_once('-') {
        Some((name, tail)) if tail.len() == 10 && tail.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            RuntimeName::parse(name).map(|_| ())
        }
        Some(_) | None => Err(IdError::Character { at: 0, allowed: "<name>-<10 letters or digits>" }),
    })
}

text_id! {
    /// An endpoint's name (`qualifier`): same form as a runtime's name.
    EndpointName, r"^[a-zA-Z][a-zA-Z0-9_]{0,47}$", |t| check(t, 1, 48, "a-z, A-Z, 0-9 and _, a letter first", |at, c| {
        c.is_ascii_alphabetic() || (at > 0 && (c.is_ascii_digit() || c == '_'))
    })
}

text_id! {
    /// One daemon on this host; part of its cgroup and directory names. 4–12 of `[a-z0-9]`, first a letter.
    InstanceId, r"^[a-z][a-z0-9]{3,11}$", |t| check(t, 4, 12, "a-z and 0-9, a letter first", |at, c| {
        c.is_ascii_lowercase() || (at > 0 && c.is_ascii_digit())
    })
}

text_id! {
    /// A task: `t` and 25 of `[0-9a-v]`; those made later sort later, and nobody guesses one.
    TaskId, r"^t[0-9a-v]{25}$", |t| check(t, 26, 26, "t, then 0-9 and a-v", |at, c| {
        if at == 0 { c == 't' } else { c.is_ascii_digit() || ('a'..='v').contains(&c) }
    })
}

text_id! {
    /// Content address of an uploaded bundle: the SHA-256 of its packed bytes, 64 lower-case hex digits.
    ArtifactId, r"^[0-9a-f]{64}$", |t| check(t, 64, 64, "0-9 and a-f", |_, c| c.is_ascii_digit() || ('a'..='f').contains(&c))
}

impl RuntimeId {
    /// The name part.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0
            .rsplit_once('-')
            .map_or(self.0.as_str(), |(name, _)| name)
    }
}

impl EndpointName {
    /// The endpoint that always follows the newest version.
    #[must_use]
    pub fn default_endpoint() -> Self {
        Self("DEFAULT".to_owned())
    }
}

/// Number of one invocation within its session's link. That of one that is kept is never used again while the shim lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InvocationId(pub u64);

/// Number of one `exec` within its session's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExecId(pub u64);

/// A runtime's version: 1, 2, 3, … Immutable once made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct VersionNumber(pub u32);

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_session_ids_are_33_to_256_visible_ascii() {
        assert!(ClientSessionId::parse("a".repeat(33)).is_ok());
        assert!(ClientSessionId::parse("a".repeat(256)).is_ok());
        assert_eq!(
            ClientSessionId::parse("a".repeat(32)),
            Err(IdError::Length {
                min: 33,
                max: 256,
                found: 32
            })
        );
        assert!(ClientSessionId::parse("a".repeat(257)).is_err());
        assert!(matches!(
            ClientSessionId::parse(format!("{} b", "a".repeat(40))),
            Err(IdError::Character { at: 40, .. })
        ));
    }

    #[test]
    fn session_ids_are_safe_path_components() {
        for bad in [
            "..",
            "a/b1",
            "abc\0",
            "Abcd",
            "1abc",
            "",
            "abcdefghijklmnopqrstuvwxyz0",
        ] {
            assert!(SessionId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(SessionId::parse("s0123456789").is_ok());
    }

    #[test]
    fn runtime_ids_carry_their_name() {
        let id = RuntimeId::parse("my_agent-AbCdEf1234").expect("well-formed");
        assert_eq!(id.name(), "my_agent");
        for bad in [
            "my-agent-AbCdEf1234",
            "x-short",
            "9x-AbCdEf1234",
            "my_agent-AbCdEf123_",
        ] {
            assert!(RuntimeId::parse(bad).is_err(), "{bad}");
        }
    }
}
