//! A length of time as people write it in the configuration.

use serde::{Deserialize, Deserializer, de};
use std::fmt;
use std::time::Duration;

/// `900` (seconds), `"500ms"`, `"2s"`, `"15m"`, `"8h"`, `"14d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interval(pub(super) Duration);

/// Longest interval: anything above is a typing error, and sums of a few of these overflow nothing.
const MAX_SECONDS: u64 = 366 * 86_400;

impl Interval {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at(split);
        let number: u64 = number.parse().ok()?;
        let millis = match unit.trim() {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        Self::bounded(Duration::from_millis(number.checked_mul(millis)?))
    }

    fn bounded(duration: Duration) -> Option<Self> {
        (duration <= Duration::from_secs(MAX_SECONDS)).then_some(Self(duration))
    }
}

/// The same in a query, where a number of seconds is text too.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let interval = match text.parse() {
        Ok(seconds) => Interval::bounded(Duration::from_secs(seconds)),
        Err(_) => Interval::parse(text),
    };
    interval.map(|Interval(duration)| duration)
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Interval;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds, or text such as \"500ms\", \"15m\" or \"8h\", at most 366 days")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Interval, E> {
                Interval::parse(text)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Interval, E> {
                u64::try_from(seconds)
                    .ok()
                    .and_then(|s| Interval::bounded(Duration::from_secs(s)))
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(seconds), &self))
            }
        }
        from.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_with_their_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("2s", 2000),
            ("15m", 900_000),
            ("8h", 28_800_000),
            ("14 d", 1_209_600_000),
        ] {
            assert_eq!(
                Interval::parse(text),
                Some(Interval(Duration::from_millis(millis))),
                "{text}"
            );
        }
        for bad in [
            "",
            "m",
            "-2s",
            "1.5h",
            "2 weeks",
            "99999999999999999999s",
            "400d",
            "7",
        ] {
            assert_eq!(Interval::parse(bad), None, "{bad}");
        }
    }
}
