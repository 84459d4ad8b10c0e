//! Changing `agentcore.toml` and keeping what a person wrote there: comments, order, keys that we were not asked about.
//!
//! For: `agentcore configure`. The text is checked as a [`RuntimeConfig`] before it replaces the file, and it replaces
//! the file whole (a temporary file, then rename).

use super::{FILE, ProjectError, parse, read};
use proto::config::RuntimeConfig;
use std::io::Write;
use std::path::{Path, PathBuf};
use toml_edit::{DocumentMut, Item, Table, Value, value};

/// An `agentcore.toml` being changed.
#[derive(Debug)]
pub(crate) struct Draft {
    file: PathBuf,
    document: DocumentMut,
    existed: bool,
}

impl Draft {
    /// Of the file in `folder`, empty if there is none yet.
    pub(crate) fn open(folder: &Path) -> Result<Self, ProjectError> {
        let file = folder.join(FILE);
        let (text, existed) = match read(&file) {
            Ok(text) => (text, true),
            Err(ProjectError::Missing(_)) => (String::new(), false),
            Err(error) => return Err(error),
        };
        let document =
            text.parse()
                .map_err(|error: toml_edit::TomlError| ProjectError::Invalid {
                    path: file.clone(),
                    text: error.to_string(),
                })?;
        Ok(Self {
            file,
            document,
            existed,
        })
    }

    /// Whether the file was there before.
    pub(crate) fn existed(&self) -> bool {
        self.existed
    }

    /// Whether `key` of `table` (the root if empty) has a value.
    pub(crate) fn has(&self, table: &str, key: &str) -> bool {
        let root = self.document.as_table();
        let table = match table {
            "" => Some(root),
            name => root.get(name).and_then(Item::as_table),
        };
        table.is_some_and(|table| table.contains_key(key))
    }

    /// Sets `key` of `table` (the root if empty). A comment at the end of the key's line stays.
    pub(crate) fn set(&mut self, table: &str, key: &str, new: impl Into<Value>) {
        let mut new = new.into();
        let target = match table {
            "" => self.document.as_table_mut(),
            name => {
                let item = self
                    .document
                    .entry(name)
                    .or_insert(Item::Table(Table::new()));
                // An inline table (`resources = { … }`) becomes a section: same meaning, and it can be written to.
                if let Item::Value(Value::InlineTable(inline)) = item {
                    *item = Item::Table(std::mem::take(inline).into_table());
                }
                match item.as_table_mut() {
                    Some(table) => table,
                    // Of another type altogether: `check` will name it.
                    None => return,
                }
            }
        };
        // In place: inserting anew would lose the comment above the key.
        match target.get_mut(key) {
            Some(item) => {
                if let Item::Value(old) = item {
                    *new.decor_mut() = old.decor().clone();
                }
                *item = value(new);
            }
            None => {
                target.insert(key, value(new));
            }
        }
    }

    /// Checks the whole file as the daemon would read it.
    pub(crate) fn check(&self) -> Result<RuntimeConfig, ProjectError> {
        parse(&self.file, &self.document.to_string())
    }

    /// Replaces the file.
    pub(crate) fn save(self) -> Result<PathBuf, ProjectError> {
        let write = || -> std::io::Result<()> {
            let folder = match self.file.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            let mut file = tempfile::Builder::new()
                .prefix(".agentcore.toml.")
                .tempfile_in(folder)?;
            file.write_all(self.document.to_string().as_bytes())?;
            // Temporary files are 0600; this one is meant to be committed and read by others, or keeps what it had.
            let permissions = match std::fs::metadata(&self.file) {
                Ok(old) => old.permissions(),
                Err(_) => std::os::unix::fs::PermissionsExt::from_mode(0o644),
            };
            file.as_file().set_permissions(permissions)?;
            file.persist(&self.file)?;
            Ok(())
        };
        write().map_err(|source| ProjectError::File {
            verb: "write",
            path: self.file.clone(),
            source,
        })?;
        Ok(self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_foreign_keys_survive() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let before = "# my agent\nname = \"a\" # short\nentrypoint = \"a.py\"\ndescription = \"d\"\n\n\
                      # limits\n[resources]\nmemory = \"64M\" # tiny\n";
        std::fs::write(dir.path().join(FILE), before).expect("written");
        let mut draft = Draft::open(dir.path()).expect("valid");
        draft.set("", "name", "b");
        draft.set("resources", "memory", "1G");
        draft.set("lifecycle", "idle_timeout", 60);
        draft.check().expect("valid");
        let file = draft.save().expect("saved");
        let after = std::fs::read_to_string(file).expect("readable");
        let expected = "# my agent\nname = \"b\" # short\nentrypoint = \"a.py\"\ndescription = \"d\"\n\n\
                        # limits\n[resources]\nmemory = \"1G\" # tiny\n\n[lifecycle]\nidle_timeout = 60\n";
        assert_eq!(after, expected);
    }

    #[test]
    fn a_fault_leaves_the_file_alone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut draft = Draft::open(dir.path()).expect("empty");
        draft.set("", "name", "not a name");
        draft.set("", "entrypoint", "a.py");
        let error = draft.check().expect_err("refused").to_string();
        assert!(error.contains("position 3"), "{error}");
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn inline_tables_can_be_written_to() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let text = "name = \"a\"\nentrypoint = \"a.py\"\nresources = { memory = \"64M\" }\n";
        std::fs::write(dir.path().join(FILE), text).expect("written");
        let mut draft = Draft::open(dir.path()).expect("valid");
        draft.set("resources", "pids", 9);
        let config = draft.check().expect("valid");
        assert_eq!(config.resources.pids, Some(9));
        assert!(config.resources.memory.is_some());
    }
}
