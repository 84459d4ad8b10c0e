//! Structures by the names of their fields only. serde's derived code takes a list as well, field by field in the order of
//! the source: `"resources": []` would mean all defaults.

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::forward_to_deserialize_any;

/// Reads a structure from an object, for `#[serde(deserialize_with = "…")]`.
pub fn object<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(Object(from))
}

/// The same where it may be left out (`null`).
pub fn optional_object<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let read = Option::<ByName<T>>::deserialize(from)?;
    Ok(read.map(|ByName(value)| value))
}

/// The same for a list of them that may be left out.
pub fn optional_objects<'de, D, T>(from: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let read = Option::<Vec<ByName<T>>>::deserialize(from)?;
    Ok(read.map(|all| all.into_iter().map(|ByName(value)| value).collect()))
}

struct ByName<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ByName<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        object(from).map(Self)
    }
}

struct Object<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Object<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        #[serde(default)]
        a: u8,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Outer {
        #[serde(deserialize_with = "super::object")]
        inner: Inner,
    }

    #[test]
    fn a_list_is_no_structure() {
        let read = |text: &str| serde_json::from_str::<Outer>(text).map(|outer| outer.inner.a);
        assert_eq!(read(r#"{"inner": {"a": 3}}"#).expect("an object"), 3);
        for bad in [
            r#"{"inner": []}"#,
            r#"{"inner": [3]}"#,
            r#"{"inner": null}"#,
        ] {
            let error = read(bad).expect_err(bad).to_string();
            assert!(error.contains("expected struct Inner"), "{error}");
        }
    }
}
