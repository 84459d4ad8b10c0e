//! What was typed, from every source, before anyone asks what it means.

use super::faults::{Faults, Origin};
use super::{Args, KEYS, keys};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::Value;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// Largest configuration file (security-bar §4.1).
const MAX_FILE: u64 = 256 * 1024;

/// Prefix of environment variables.
const PREFIX: &str = "AGENTCORED_";

/// Values by key, in the order of precedence: the last one counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Given {
    values: BTreeMap<&'static str, Vec<Sourced>>,
    /// Environment variables with our prefix that are no key.
    pub(super) strangers: Vec<String>,
}

/// A value and where it was typed.
#[derive(Debug, Clone)]
struct Sourced {
    origin: Origin,
    typed: Typed,
}

/// A value as typed.
#[derive(Debug, Clone, PartialEq)]
enum Typed {
    /// In a file or by a flag: TOML.
    Toml(Value),
    /// In the environment: text that may be a string, TOML, or a comma-separated list, whichever the key can take.
    Text(String),
}

/// Reads all sources, lowest precedence first.
pub(super) fn gather(
    args: &Args,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    etc: &Path,
    faults: &mut Faults,
) -> Given {
    let mut given = Given::default();
    for path in files(args, etc, faults) {
        given.read_file(&path, faults);
    }
    for (name, value) in environment {
        given.read_variable(&name, &value, faults);
    }
    given.read_flags(args, faults);
    given
}

/// The files to read: the one that was named, or the default ones that exist.
fn files(args: &Args, etc: &Path, faults: &mut Faults) -> Vec<PathBuf> {
    if let Some(path) = &args.config {
        return vec![path.clone()];
    }
    let mut files = Vec::new();
    let main = etc.join("agentcored.toml");
    if main.symlink_metadata().is_ok() {
        files.push(main);
    }
    let drop_ins = etc.join("conf.d");
    match std::fs::read_dir(&drop_ins) {
        Ok(entries) => {
            let mut found = Vec::new();
            for entry in entries {
                match entry {
                    Ok(entry) => found.push(entry.path()),
                    Err(error) => faults.add(
                        Origin::File(drop_ins.clone()),
                        None,
                        format!("cannot be listed: {error}"),
                    ),
                }
            }
            found.retain(|path| path.extension().is_some_and(|e| e == "toml"));
            found.sort();
            files.extend(found);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => faults.add(
            Origin::File(drop_ins),
            None,
            format!("cannot be listed: {error}"),
        ),
    }
    files
}

fn read_bounded(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|e| format!("cannot be opened: {e}"))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("cannot be read: {e}"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("is larger than {MAX_FILE} bytes"));
    }
    String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        format!("is not UTF-8 in line {}", newlines(before) + 1)
    })
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|b| **b == b'\n').count()
}

impl Given {
    fn read_file(&mut self, path: &Path, faults: &mut Faults) {
        let text = match read_bounded(path) {
            Ok(text) => text,
            Err(message) => return faults.add(Origin::File(path.to_owned()), None, message),
        };
        let origin = |at: usize| {
            let before = &text.as_bytes()[..at.min(text.len())];
            Origin::Line(path.to_owned(), newlines(before) + 1)
        };
        let (table, errors) = DeTable::parse_recoverable(&text);
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            faults.add(origin(at), None, error.message());
        }
        self.read_table("", table.into_inner(), &origin, faults);
    }

    fn read_table(
        &mut self,
        section: &str,
        table: DeTable<'_>,
        origin: &dyn Fn(usize) -> Origin,
        faults: &mut Faults,
    ) {
        for (name, value) in table {
            let place = origin(name.span().start);
            let path = match section {
                "" => name.get_ref().to_string(),
                _ => format!("{section}.{}", name.get_ref()),
            };
            if let Some(key) = keys::find(&path) {
                self.read_value(key.path, place, value, faults);
            } else if keys::is_section(&path) {
                match value.into_inner() {
                    DeValue::Table(inner) => self.read_table(&path, inner, origin, faults),
                    _ => faults.add(
                        place,
                        Some(&path),
                        "is a section: write its keys below a line `[section]`",
                    ),
                }
            } else {
                let known = keys::below(section).join(", ");
                faults.add(
                    place,
                    Some(&path),
                    format!("is not a key; known here: {known}"),
                );
            }
        }
    }

    fn read_value(
        &mut self,
        key: &'static str,
        origin: Origin,
        value: Spanned<DeValue<'_>>,
        faults: &mut Faults,
    ) {
        match <Value as serde::Deserialize>::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => self.push(key, origin, Typed::Toml(value)),
            Err(error) => faults.add(origin, Some(key), error.message()),
        }
    }

    fn read_variable(&mut self, name: &OsString, value: &OsString, faults: &mut Faults) {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
            return;
        };
        let Some(key) = KEYS.iter().find(|key| variable(key.path) == name) else {
            // Not a fault: a cluster that has a service called "agentcored" sets AGENTCORED_PORT and the like.
            return self.strangers.push(name.to_owned());
        };
        let origin = Origin::Variable(name.to_owned());
        match value.to_str() {
            Some(text) => self.push(key.path, origin, Typed::Text(text.to_owned())),
            None => faults.add(origin, Some(key.path), "is not UTF-8"),
        }
    }

    fn read_flags(&mut self, args: &Args, faults: &mut Faults) {
        for (key, flag, path) in [
            ("state_dir", "--state-dir", &args.state_dir),
            ("runtime_dir", "--runtime-dir", &args.runtime_dir),
            ("socket", "--socket", &args.socket),
        ] {
            let Some(path) = path else { continue };
            match path.to_str() {
                Some(text) => self.push(key, Origin::Flag(flag), Typed::Toml(text.into())),
                None => faults.add(Origin::Flag(flag), Some(key), "is not UTF-8"),
            }
        }
        if !args.listen.is_empty() {
            let addresses = args.listen.iter().map(|a| Value::from(a.to_string()));
            let list = Value::Array(addresses.collect());
            self.push("listen", Origin::Flag("--listen"), Typed::Toml(list));
        }
        if args.dev {
            self.push("dev", Origin::Flag("--dev"), Typed::Toml(true.into()));
        }
    }

    fn push(&mut self, key: &'static str, origin: Origin, typed: Typed) {
        self.values
            .entry(key)
            .or_default()
            .push(Sourced { origin, typed });
    }

    /// Types every value of a key and gives the one that counts. A broken value is a fault even where a later source
    /// overrides it: it would surprise whoever removes that source.
    pub(super) fn take<T: DeserializeOwned>(
        &self,
        key: &'static str,
        faults: &mut Faults,
    ) -> Option<T> {
        debug_assert!(
            keys::find(key).is_some(),
            "{key} is not in the table of keys"
        );
        let mut taken = None;
        for Sourced { origin, typed } in self.values.get(key).into_iter().flatten() {
            match typed.deserialize() {
                Ok(value) => taken = Some(value),
                Err(message) => faults.add(origin.clone(), Some(key), message),
            }
        }
        taken
    }

    /// Where the value that counts was typed.
    pub(super) fn origin(&self, key: &str) -> Origin {
        self.values
            .get(key)
            .and_then(|values| values.last())
            .map_or(Origin::Nowhere, |sourced| sourced.origin.clone())
    }

    /// Keys whose value that counts differs: those that a reload takes, and those that it does not.
    pub(super) fn changes(&self, newer: &Self) -> (Vec<&'static str>, Vec<&'static str>) {
        let last = |given: &Self, key: &str| {
            given
                .values
                .get(key)
                .and_then(|values| values.last())
                .map(|s| s.typed.clone())
        };
        let (live, fixed): (Vec<_>, Vec<_>) = KEYS
            .iter()
            .filter(|key| last(self, key.path) != last(newer, key.path))
            .partition(|key| key.reload);
        let paths = |keys: Vec<&keys::Key>| keys.into_iter().map(|key| key.path).collect();
        (paths(live), paths(fixed))
    }

    /// Takes over an older value of a key.
    pub(super) fn keep(&mut self, key: &'static str, older: &Self) {
        match older.values.get(key) {
            Some(values) => self.values.insert(key, values.clone()),
            None => self.values.remove(key),
        };
    }
}

/// Name of a key's environment variable.
fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "_").to_ascii_uppercase())
}

impl Typed {
    fn deserialize<T: DeserializeOwned>(&self) -> Result<T, String> {
        let typed = |value: Value| T::deserialize(value).map_err(|e| e.message().to_owned());
        match self {
            Self::Toml(value) => typed(value.clone()),
            Self::Text(text) => {
                let as_string = typed(Value::from(text.as_str()));
                if as_string.is_ok() {
                    return as_string;
                }
                if let Ok(value) = ValueDeserializer::parse(text)
                    .and_then(<Value as serde::Deserialize>::deserialize)
                {
                    return typed(value);
                }
                let words = text.split(',').map(|word| Value::from(word.trim()));
                typed(Value::Array(words.collect())).or(as_string)
            }
        }
    }
}
