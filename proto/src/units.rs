//! Quantities with their unit in the type. No bare integer crosses a crate boundary as memory, CPU or time.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::time::Duration;

/// An amount of memory or storage. Text form: `512M`, `1.5G`, `65536` (bytes); K, M, G, T are powers of 1024, `KiB`, `MB` … mean the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemoryBytes(pub u64);

/// A share of CPU time in thousandths of one CPU: 1500 is one and a half CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuMillis(pub u32);

/// Whole seconds, as users write durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seconds(pub u32);

/// Why a quantity was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a number with an optional unit.
    #[error("`{0}` is not an amount of memory; write for example 512M, 1.5G or a number of bytes")]
    Memory(String),
    /// Not a positive number of CPUs.
    #[error("`{0}` is not a number of CPUs between 0.01 and 1024")]
    Cpus(String),
}

impl MemoryBytes {
    /// `n` mebibytes.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// Reads `512M`, `1.5GiB`, `65536`, …
    pub fn parse(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError::Memory(text.to_owned());
        let trimmed = text.trim();
        let split = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(bad()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.len() > 6 {
            return Err(bad());
        }
        let whole: u64 = whole.parse().map_err(|_| bad())?;
        let mut bytes = whole
            .checked_shl(shift)
            .filter(|b| b >> shift == whole)
            .ok_or_else(bad)?;
        if !fraction.is_empty() {
            let digits: u64 = fraction.parse().map_err(|_| bad())?;
            let scale = 10u64.pow(u32::try_from(fraction.len()).map_err(|_| bad())?);
            let part = (u128::from(digits) << shift) / u128::from(scale);
            bytes = bytes
                .checked_add(u64::try_from(part).map_err(|_| bad())?)
                .ok_or_else(bad)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for MemoryBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
            if self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl Serialize for MemoryBytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MemoryBytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = MemoryBytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of memory such as \"512M\" or a number of bytes")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<MemoryBytes, E> {
                MemoryBytes::parse(text).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<MemoryBytes, E> {
                Ok(MemoryBytes(bytes))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<MemoryBytes, E> {
                u64::try_from(bytes)
                    .map(MemoryBytes)
                    .map_err(|_| E::custom("must not be negative"))
            }
        }
        from.deserialize_any(Visitor)
    }
}

impl CpuMillis {
    /// From a number of CPUs, as users write it: `1`, `0.5`.
    pub fn from_cpus(cpus: f64) -> Result<Self, UnitError> {
        let millis = (cpus * 1000.0).round();
        if !(10.0..=1_024_000.0).contains(&millis) {
            return Err(UnitError::Cpus(cpus.to_string()));
        }
        // In range by the check above, so the conversion is exact.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked range"
        )]
        Ok(Self(millis as u32))
    }

    /// As a number of CPUs.
    #[must_use]
    pub fn cpus(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

impl Serialize for CpuMillis {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(self.cpus())
    }
}

impl<'de> Deserialize<'de> for CpuMillis {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::from_cpus(f64::deserialize(from)?).map_err(de::Error::custom)
    }
}

impl Seconds {
    /// As a standard duration.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(u64::from(self.0))
    }
}

#[cfg(feature = "schema")]
mod schema {
    use super::{CpuMillis, MemoryBytes, Seconds};
    use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
    use utoipa::openapi::{RefOr, Schema};
    use utoipa::{PartialSchema, ToSchema};

    impl PartialSchema for MemoryBytes {
        fn schema() -> RefOr<Schema> {
            let text = ObjectBuilder::new()
                .schema_type(Type::String)
                .pattern(Some(r"^[0-9]{1,9}(\.[0-9]{1,6})?([KMG]i?B?)?$"));
            let bytes = ObjectBuilder::new()
                .schema_type(Type::Integer)
                .minimum(Some(0));
            OneOfBuilder::new()
                .item(text)
                .item(bytes)
                .description(Some("`512M`, `1.5G`, or a number of bytes"))
                .into()
        }
    }

    impl PartialSchema for CpuMillis {
        fn schema() -> RefOr<Schema> {
            ObjectBuilder::new()
                .schema_type(Type::Number)
                .minimum(Some(0.01))
                .maximum(Some(1024))
                .description(Some("A number of CPUs: `1`, `0.5`"))
                .into()
        }
    }

    impl PartialSchema for Seconds {
        fn schema() -> RefOr<Schema> {
            ObjectBuilder::new()
                .schema_type(Type::Integer)
                .minimum(Some(0))
                .maximum(Some(u32::MAX))
                .description(Some("Whole seconds"))
                .into()
        }
    }

    impl ToSchema for MemoryBytes {}
    impl ToSchema for CpuMillis {}
    impl ToSchema for Seconds {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_with_and_without_units() {
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("1.5G", 3 << 29),
            ("65536", 65536),
            ("64 KiB", 64 << 10),
            ("1mb", 1 << 20),
        ] {
            assert_eq!(MemoryBytes::parse(text), Ok(MemoryBytes(bytes)), "{text}");
        }
        for bad in [
            "",
            "M",
            "-1M",
            "1.2.3G",
            "1X",
            "99999999999999999999",
            "18446744073709551615T",
        ] {
            assert!(MemoryBytes::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_prints_what_it_reads() {
        for bytes in [1, 1023, 1024, 1 << 20, 512 << 20, 3 << 30, (1 << 30) + 1] {
            assert_eq!(
                MemoryBytes::parse(&MemoryBytes(bytes).to_string()),
                Ok(MemoryBytes(bytes))
            );
        }
    }

    #[test]
    fn cpus_are_bounded() {
        assert_eq!(CpuMillis::from_cpus(1.5), Ok(CpuMillis(1500)));
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 2000.0] {
            assert!(CpuMillis::from_cpus(bad).is_err(), "{bad}");
        }
    }
}
