//! The one table of what control-plane requests may say: `model.json`, the input shapes of the service's own model as
//! botocore publishes it (Apache-2.0), cut down to names, types, bounds and patterns. `tests/tests/control.rs` holds it to
//! the botocore that is installed there.
//!
//! Not for: rules between fields, and what this daemon does not offer ([`super::mapping`]).

use proto::api::FieldFault;
use regex_lite::Regex;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{LazyLock, OnceLock};

/// Most faults told of one request.
const MAX_FAULTS: usize = 64;

/// Longest text that a pattern is tried on: matching costs time in proportion, and no shape that has a pattern but no bound
/// of its own means to be longer.
const MAX_MATCHED: usize = 4096;

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    serde_json::from_str(include_str!("model.json")).expect("the table is part of this program")
});

#[derive(Debug, Deserialize)]
struct Model {
    operations: BTreeMap<String, String>,
    shapes: BTreeMap<String, Shape>,
}

/// What a value may be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shape {
    #[serde(rename = "type")]
    kind: Kind,
    min: Option<i64>,
    max: Option<i64>,
    pattern: Option<String>,
    #[serde(rename = "enum", default)]
    words: Vec<String>,
    #[serde(default)]
    required: Vec<String>,
    #[serde(default)]
    union: bool,
    /// Of a structure.
    #[serde(default)]
    members: BTreeMap<String, Member>,
    /// Of a list.
    member: Option<String>,
    /// Of a map.
    key: Option<String>,
    value: Option<String>,
    #[serde(skip)]
    compiled: OnceLock<Regex>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Structure,
    List,
    Map,
    String,
    Integer,
    Boolean,
}

/// A member of a structure.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Member {
    shape: String,
    #[serde(default)]
    location: Place,
    location_name: Option<String>,
}

/// Where a member of an input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Place {
    /// The body.
    #[default]
    Body,
    /// The path.
    Uri,
    /// The query.
    QueryString,
}

/// A member of an operation's input that is not in its body.
#[derive(Debug)]
pub(super) struct Outside<'a> {
    /// Its name in the model.
    pub name: &'a str,
    /// Its name on the wire.
    pub wire: &'a str,
    /// Where it is.
    pub place: Place,
    /// Whether it may be given several times.
    pub list: bool,
    /// Whether it is a number.
    pub number: bool,
}

/// The input shape of an operation.
pub(super) fn input(operation: &str) -> &'static Shape {
    MODEL
        .operations
        .get(operation)
        .and_then(|name| MODEL.shapes.get(name))
        .expect("every operation is in the table, which a test shows")
}

impl Shape {
    /// Members that come from path or query.
    pub(super) fn outside(&self) -> impl Iterator<Item = Outside<'_>> {
        self.members
            .iter()
            .filter(|(_, member)| member.location != Place::Body)
            .map(|(name, member)| {
                let kind = shape(&member.shape).kind;
                Outside {
                    name,
                    wire: member.location_name.as_deref().unwrap_or(name),
                    place: member.location,
                    list: kind == Kind::List,
                    number: kind == Kind::Integer,
                }
            })
    }

    /// Whether a body may have this member.
    pub(super) fn in_body(&self, name: &str) -> bool {
        self.members
            .get(name)
            .is_some_and(|member| member.location == Place::Body)
    }

    /// Every rule that a value breaks.
    pub(super) fn faults(&self, value: &Value) -> Vec<FieldFault> {
        let mut faults = Faults(Vec::new());
        self.check("", value, &mut faults);
        faults.0
    }

    fn check(&self, path: &str, value: &Value, faults: &mut Faults) {
        match (self.kind, value) {
            (Kind::Structure, Value::Object(fields)) => self.check_structure(path, fields, faults),
            (Kind::List, Value::Array(items)) => {
                self.check_size(path, items.len(), "items", faults);
                let of = self.member.as_deref().map(shape);
                for (at, item) in items.iter().enumerate() {
                    if let Some(of) = of
                        && !faults.full()
                    {
                        of.check(&format!("{path}[{at}]"), item, faults);
                    }
                }
            }
            (Kind::Map, Value::Object(entries)) => {
                self.check_size(path, entries.len(), "entries", faults);
                for (key, value) in entries {
                    if faults.full() {
                        break;
                    }
                    let at = format!("{path}.{}", cut(key));
                    if let Some(of) = self.key.as_deref().map(shape) {
                        of.check(&at, &Value::from(key.as_str()), faults);
                    }
                    if let Some(of) = self.value.as_deref().map(shape) {
                        of.check(&at, value, faults);
                    }
                }
            }
            (Kind::String, Value::String(text)) => self.check_text(path, text, faults),
            (Kind::Integer, Value::Number(number)) => self.check_number(path, number, faults),
            (Kind::Boolean, Value::Bool(_)) => {}
            (kind, _) => faults.add(path, format!("must be {}", kind.told())),
        }
    }

    fn check_structure(
        &self,
        path: &str,
        fields: &serde_json::Map<String, Value>,
        faults: &mut Faults,
    ) {
        let at = |name: &str| match path {
            "" => name.to_owned(),
            _ => format!("{path}.{name}"),
        };
        let mut given = Vec::new();
        for (name, value) in fields {
            match self.members.get(name) {
                // As everywhere in AWS's JSON: a null is a member that is not there.
                Some(_) if value.is_null() => {}
                Some(member) => {
                    given.push(name.as_str());
                    shape(&member.shape).check(&at(name), value, faults);
                }
                None => {
                    let known: Vec<&str> = self.members.keys().map(String::as_str).collect();
                    faults.add(
                        &at(&cut(name)),
                        format!("is not known here; known are {}", known.join(", ")),
                    );
                }
            }
        }
        for name in &self.required {
            if !given.contains(&name.as_str()) {
                faults.add(&at(name), "is required");
            }
        }
        if self.union && given.len() != 1 {
            let members: Vec<&str> = self.members.keys().map(String::as_str).collect();
            faults.add(
                if path.is_empty() { "body" } else { path },
                format!(
                    "must have exactly one of {}; has {}",
                    members.join(", "),
                    if given.is_empty() {
                        "none".to_owned()
                    } else {
                        given.join(" and ")
                    }
                ),
            );
        }
    }

    fn check_text(&self, path: &str, text: &str, faults: &mut Faults) {
        if !self.words.is_empty() && !self.words.iter().any(|word| word == text) {
            return faults.add(path, format!("must be one of {}", self.words.join(", ")));
        }
        let found = text.chars().count();
        self.check_size(path, found, "characters", faults);
        let Some(pattern) = &self.pattern else {
            return;
        };
        let most = self
            .max
            .map_or(MAX_MATCHED, |max| usize::try_from(max).unwrap_or(0));
        if found > most {
            if self.max.is_none() {
                faults.add(path, format!("must be at most {most} characters long"));
            }
            return;
        }
        let regex = self.compiled.get_or_init(|| {
            Regex::new(&format!("^(?:{pattern})$"))
                .expect("every pattern of the table is one, which a test shows")
        });
        if !regex.is_match(text) {
            faults.add(path, format!("must match the pattern {pattern}"));
        }
    }

    fn check_number(&self, path: &str, number: &serde_json::Number, faults: &mut Faults) {
        let Some(value) = number.as_i64().filter(|n| i32::try_from(*n).is_ok()) else {
            return faults.add(path, "must be a whole number of 32 bits");
        };
        match (self.min, self.max) {
            (Some(min), Some(max)) if !(min..=max).contains(&value) => {
                faults.add(path, format!("must be {min} to {max}, is {value}"));
            }
            (Some(min), None) if value < min => {
                faults.add(path, format!("must be at least {min}, is {value}"));
            }
            (None, Some(max)) if value > max => {
                faults.add(path, format!("must be at most {max}, is {value}"));
            }
            (_, _) => {}
        }
    }

    fn check_size(&self, path: &str, found: usize, what: &str, faults: &mut Faults) {
        let found = i64::try_from(found).unwrap_or(i64::MAX);
        let (min, max) = (self.min.unwrap_or(0), self.max.unwrap_or(i64::MAX));
        if (min..=max).contains(&found) {
            return;
        }
        let bounds = match self.max {
            Some(max) => format!("{min} to {max}"),
            None => format!("at least {min}"),
        };
        faults.add(path, format!("must have {bounds} {what}, has {found}"));
    }
}

impl Kind {
    const fn told(self) -> &'static str {
        match self {
            Self::Structure | Self::Map => "an object",
            Self::List => "a list",
            Self::String => "a string",
            Self::Integer => "a whole number",
            Self::Boolean => "true or false",
        }
    }
}

struct Faults(Vec<FieldFault>);

impl Faults {
    fn full(&self) -> bool {
        self.0.len() >= MAX_FAULTS
    }

    fn add(&mut self, name: &str, message: impl Into<String>) {
        if !self.full() {
            self.0.push(FieldFault {
                name: name.to_owned(),
                message: message.into(),
            });
        }
    }
}

fn shape(name: &str) -> &'static Shape {
    MODEL
        .shapes
        .get(name)
        .expect("every shape that is named is in the table, which a test shows")
}

/// A caller's name as it may appear in an answer.
fn cut(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(operation: &str, value: &Value) -> Vec<String> {
        let faults = input(operation).faults(value);
        faults.into_iter().map(|fault| fault.name).collect()
    }

    #[test]
    fn the_table_is_whole() {
        for input in MODEL.operations.values() {
            assert!(MODEL.shapes.contains_key(input), "{input}");
        }
        for (name, found) in &MODEL.shapes {
            let named = found.members.values().map(|member| &member.shape);
            for other in named
                .chain(&found.member)
                .chain(&found.key)
                .chain(&found.value)
            {
                assert!(MODEL.shapes.contains_key(other), "{name} {other}");
            }
            if let Some(pattern) = &found.pattern {
                Regex::new(&format!("^(?:{pattern})$")).expect(name);
            }
        }
    }

    #[test]
    fn every_kind_of_fault_names_its_field() {
        let sound = json!({
            "agentRuntimeName": "agent",
            "roleArn": "arn:aws:iam::123456789012:role/any",
            "agentRuntimeArtifact": {"codeConfiguration": {
                "code": {"s3": {"bucket": "code", "prefix": "agent.zip"}},
                "runtime": "PYTHON_3_11",
                "entryPoint": ["main.py"],
            }},
        });
        assert!(names("CreateAgentRuntime", &sound).is_empty());
        for (pointer, value, wanted) in [
            ("/agentRuntimeName", json!("a-b"), "agentRuntimeName"),
            ("/agentRuntimeName", json!(5), "agentRuntimeName"),
            ("/agentRuntimeName", Value::Null, "agentRuntimeName"),
            ("/nonsense", json!(1), "nonsense"),
            ("/agentRuntimeArtifact", json!({}), "agentRuntimeArtifact"),
            (
                "/agentRuntimeArtifact/codeConfiguration/runtime",
                json!("PYTHON_2_7"),
                "agentRuntimeArtifact.codeConfiguration.runtime",
            ),
            (
                "/agentRuntimeArtifact/codeConfiguration/entryPoint",
                json!(["a.py", ""]),
                "agentRuntimeArtifact.codeConfiguration.entryPoint[1]",
            ),
            (
                "/lifecycleConfiguration",
                json!({"maxLifetime": 59}),
                "lifecycleConfiguration.maxLifetime",
            ),
            (
                "/lifecycleConfiguration",
                json!({"maxLifetime": 60.5}),
                "lifecycleConfiguration.maxLifetime",
            ),
            (
                "/environmentVariables",
                json!({"A": 1}),
                "environmentVariables.A",
            ),
            ("/tags", json!({"a!": "b"}), "tags.a!"),
        ] {
            let mut faulty = sound.clone();
            let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
            faulty.pointer_mut(parent).expect("there")[name] = value;
            assert_eq!(names("CreateAgentRuntime", &faulty), [wanted], "{pointer}");
        }
    }

    #[test]
    fn a_long_text_costs_no_time() {
        let begun = std::time::Instant::now();
        let long = "a".repeat(1 << 20);
        let value =
            json!({"agentRuntimeName": long, "clientToken": "a".repeat(256), "roleArn": long});
        assert!(names("CreateAgentRuntime", &value).contains(&"agentRuntimeName".to_owned()));
        assert!(begun.elapsed() < std::time::Duration::from_secs(2));
    }
}
