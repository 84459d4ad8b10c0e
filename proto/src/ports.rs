//! Ports of a session, as users write them: one, or a range.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// A port (`8001`) or an inclusive range of ports (`"9000-9010"`). Which ports there may be, and that a range does not run
/// backwards, is for `session_core::spec` to say; one that does holds no port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    /// The first.
    pub from: u16,
    /// The last.
    pub to: u16,
}

/// What is neither a port nor a range of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a port such as 8001, or a range of ports such as \"9000-9010\"")]
pub struct NoPorts(String);

impl Ports {
    /// Reads `8001` or `9000-9010`: decimal digits only.
    pub fn parse(text: &str) -> Result<Self, NoPorts> {
        let port = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u16>().ok()).flatten()
        };
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        match (port(from.trim()), port(to.trim())) {
            (Some(from), Some(to)) => Ok(Self { from, to }),
            (Some(_) | None, _) => Err(NoPorts(text.chars().take(32).collect())),
        }
    }

    /// One port.
    #[must_use]
    pub const fn one(port: u16) -> Self {
        Self {
            from: port,
            to: port,
        }
    }

    /// Whether a port is one of these.
    #[must_use]
    pub fn hold(&self, port: u16) -> bool {
        (self.from..=self.to).contains(&port)
    }

    /// Whether a port is one of these and of `other`.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> bool {
        self.from.max(other.from) <= self.to.min(other.to)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from == self.to {
            true => self.from.fmt(f),
            false => write!(f, "{}-{}", self.from, self.to),
        }
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.from == self.to {
            true => to.serialize_u16(self.from),
            false => to.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Ports;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port such as 8001, or a range of ports such as \"9000-9010\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ports, E> {
                Ports::parse(text).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, port: u64) -> Result<Ports, E> {
                u16::try_from(port)
                    .map(Ports::one)
                    .map_err(|_| E::custom(NoPorts(port.to_string())))
            }
            fn visit_i64<E: de::Error>(self, port: i64) -> Result<Ports, E> {
                u16::try_from(port)
                    .map(Ports::one)
                    .map_err(|_| E::custom(NoPorts(port.to_string())))
            }
        }
        from.deserialize_any(Visitor)
    }
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for Ports {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
        let one = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(0))
            .maximum(Some(u16::MAX));
        let range = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(r"^[0-9]{1,5}(-[0-9]{1,5})?$"));
        OneOfBuilder::new().item(one).item(range).into()
    }
}

#[cfg(feature = "schema")]
impl utoipa::ToSchema for Ports {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_and_a_range_are_read_as_they_are_written() {
        for (text, from, to) in [
            ("8001", 8001, 8001),
            ("\"8001\"", 8001, 8001),
            ("\"9000-9010\"", 9000, 9010),
            ("\"9000 - 9010\"", 9000, 9010),
            ("\"2-1\"", 2, 1),
        ] {
            let ports: Ports = serde_json::from_str(text).expect(text);
            assert_eq!(ports, Ports { from, to }, "{text}");
            let again = serde_json::to_string(&ports).expect("json");
            let again: Ports = serde_json::from_str(&again).expect("what is written is read");
            assert_eq!(again, ports);
        }
        assert_eq!(
            serde_json::to_string(&Ports::one(8001)).expect("json"),
            "8001"
        );
        for text in [
            "-1",
            "65536",
            "8001.5",
            "true",
            "{}",
            "[8001]",
            "\"\"",
            "\"+8001\"",
            "\"8001-\"",
            "\"-8001\"",
            "\"1-2-3\"",
            "\"99999\"",
            "\"http\"",
        ] {
            assert!(serde_json::from_str::<Ports>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_range_holds_its_ends_and_nothing_beyond() {
        let ports = Ports {
            from: 9000,
            to: 9010,
        };
        for (port, held) in [(8999, false), (9000, true), (9010, true), (9011, false)] {
            assert_eq!(ports.hold(port), held, "{port}");
        }
        let backwards = Ports { from: 2, to: 1 };
        assert!(!backwards.hold(1) && !backwards.hold(2));
        for (from, to, overlaps) in [
            (9010, 9020, true),
            (8000, 9000, true),
            (9005, 9005, true),
            (8000, 12000, true),
            (9011, 9020, false),
            (8000, 8999, false),
        ] {
            assert_eq!(ports.overlap(&Ports { from, to }), overlaps, "{from}-{to}");
        }
    }
}
