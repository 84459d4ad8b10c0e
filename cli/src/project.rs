//! A folder with an `agentcore.toml`.
//!
//! For: reading it ([`Project`]) and changing it ([`edit`]). Not for: what its values mean on a host (the daemon says).

use crate::failure::{Exit, Failure, chain};
use proto::config::{Language, RuntimeConfig};
use std::io;
use std::path::{Path, PathBuf};

pub(crate) mod edit;

/// The file's name.
pub(crate) const FILE: &str = "agentcore.toml";

/// A folder that can be launched.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    /// Holds the agent and its `agentcore.toml`.
    pub(crate) folder: PathBuf,
    /// What the file says.
    pub(crate) config: RuntimeConfig,
}

/// Why a project cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProjectError {
    /// No such file.
    #[error("there is no {}", .0.display())]
    Missing(PathBuf),
    /// It cannot be read or written.
    #[error("cannot {verb} {}", path.display())]
    File {
        /// `read` or `write`.
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not say what a runtime needs.
    #[error("{} is not valid:\n{}", path.display(), text.trim_end())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Line, column and rule.
        text: String,
    },
}

impl Project {
    /// The project at `path`: its folder, or the file itself.
    pub(crate) fn open(path: &Path) -> Result<Self, ProjectError> {
        let file = if path.is_dir() {
            path.join(FILE)
        } else {
            path.to_owned()
        };
        let text = read(&file)?;
        let config = parse(&file, &text)?;
        let folder = match file.parent() {
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) => parent.to_owned(),
            None => PathBuf::from("."),
        };
        Ok(Self { folder, config })
    }

    /// The project of the current directory, if there is one.
    pub(crate) fn here() -> Result<Option<Self>, ProjectError> {
        match Self::open(Path::new(FILE)) {
            Ok(project) => Ok(Some(project)),
            Err(ProjectError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What runs the entrypoint.
    pub(crate) fn language(&self) -> Language {
        let first = self
            .config
            .entrypoint
            .words()
            .first()
            .map_or("", String::as_str);
        self.config
            .language
            .or_else(|| language_of(Path::new(first)))
            .unwrap_or(Language::Binary)
    }
}

/// The language that a file's extension promises.
pub(crate) fn language_of(file: &Path) -> Option<Language> {
    match file.extension()?.to_str()? {
        "py" => Some(Language::Python),
        "js" | "mjs" | "cjs" => Some(Language::Node),
        _ => None,
    }
}

/// Reads `agentcore.toml`.
fn read(file: &Path) -> Result<String, ProjectError> {
    std::fs::read_to_string(file).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ProjectError::Missing(file.to_owned()),
        _ => ProjectError::File {
            verb: "read",
            path: file.to_owned(),
            source,
        },
    })
}

/// Checks `text` as the content of `file`.
fn parse(file: &Path, text: &str) -> Result<RuntimeConfig, ProjectError> {
    toml::from_str(text).map_err(|error| ProjectError::Invalid {
        path: file.to_owned(),
        text: error.to_string(),
    })
}

impl From<ProjectError> for Failure {
    fn from(error: ProjectError) -> Self {
        let failure = |exit| Self::new(exit, chain(&error));
        match &error {
            ProjectError::Missing(_) => failure(Exit::Usage).advice(
                "write one with `agentcore configure -e my_agent.py`, or name the folder with -f",
            ),
            ProjectError::File { .. } => failure(Exit::Failed),
            ProjectError::Invalid { .. } => failure(Exit::Usage)
                .advice("correct the line, or let `agentcore configure` write the keys"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_key_is_named_with_its_line() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let text = "name = \"a\"\nentrypoint = \"a.py\"\nidle = 3\n";
        std::fs::write(dir.path().join(FILE), text).expect("written");
        let error = Project::open(dir.path()).expect_err("refused").to_string();
        assert!(
            error.contains("line 3") && error.contains("idle"),
            "{error}"
        );
    }

    #[test]
    fn the_language_is_guessed_from_the_entrypoint() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (entry, language) in [
            ("\"a.py\"", Language::Python),
            ("[\"a.mjs\", \"--flag\"]", Language::Node),
            ("\"bin/agent\"", Language::Binary),
        ] {
            let text = format!("name = \"a\"\nentrypoint = {entry}\n");
            std::fs::write(dir.path().join(FILE), text).expect("written");
            let project = Project::open(dir.path()).expect("valid");
            assert_eq!(project.language(), language);
        }
    }
}
