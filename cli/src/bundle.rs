//! An agent's folder as one archive.
//!
//! For: choosing the files ([`Selection`]) and packing them ([`pack`]). Not for: dependencies (`vendor` makes an archive
//! of those, which [`pack`] merges in). The same files always give the same bytes, so an unchanged folder keeps its
//! artifact id and is not uploaded again.

use crate::failure::{Exit, Failure, chain};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use proto::config::Language;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

pub(crate) mod pack;

/// A user's own rules, in the language of `.gitignore`; `!pattern` takes back a rule of ours.
pub(crate) const IGNORE_FILE: &str = ".agentcoreignore";

/// What no agent needs: histories, caches, editors' folders, environments of the developer's machine, and files that
/// usually hold a developer's secrets.
const LEFT_OUT: &str = "\
.git
.hg
.svn
__pycache__/
*.py[co]
.venv/
.tox/
.nox/
.pytest_cache/
.mypy_cache/
.ruff_cache/
.ipynb_checkpoints/
.idea/
.vscode/
.DS_Store
.env
.env.*
/.agentcoreignore
";

/// The files of a bundle, in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selection {
    /// What goes in.
    pub(crate) entries: Vec<Entry>,
    /// `.env` files that were left out: worth a word, since an agent may miss them.
    pub(crate) secrets: Vec<String>,
}

/// One file or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Path in the bundle, `/` between its parts.
    pub(crate) name: String,
    /// Where it is now.
    pub(crate) source: PathBuf,
    /// What it is.
    pub(crate) kind: Kind,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file.
    File {
        /// Its mode has an execute bit.
        executable: bool,
        /// Bytes.
        length: u64,
        /// For noticing changes; never packed.
        modified: SystemTime,
    },
    /// A symbolic link inside of the bundle.
    Link {
        /// As it stands in the link.
        target: String,
    },
}

/// Why a folder cannot be bundled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    /// A file cannot be read or written.
    #[error("cannot {verb} {}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("cannot pack {name}")]
    Pack {
        /// Which entry.
        name: String,
        /// Why.
        source: zip::result::ZipError,
    },
    /// A name that is not UTF-8.
    #[error("the name of {} is not UTF-8", .0.display())]
    Name(PathBuf),
    /// A link that leads out.
    #[error(
        "{name} is a link to {target}, outside of the agent's folder, which a session cannot see"
    )]
    LinkOut {
        /// The link.
        name: String,
        /// Where it leads.
        target: String,
    },
    /// A rule that cannot be read.
    #[error("{IGNORE_FILE} is not valid")]
    Rule(#[source] ignore::Error),
}

impl Selection {
    /// The files of `root` that a bundle for `language` holds.
    pub(crate) fn of(root: &Path, language: Language) -> Result<Self, BundleError> {
        let rules = rules(root, language)?;
        let mut selection = Self {
            entries: Vec::new(),
            secrets: Vec::new(),
        };
        selection.walk(root, "", &rules)?;
        selection.entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(selection)
    }

    /// Whether a file of this name is in it, and executable.
    pub(crate) fn find(&self, name: &str) -> Option<&Entry> {
        let name = name.strip_prefix("./").unwrap_or(name);
        self.entries.iter().find(|entry| entry.name == name)
    }

    fn walk(&mut self, folder: &Path, prefix: &str, rules: &Gitignore) -> Result<(), BundleError> {
        let file_error = |verb, path: &Path| {
            let path = path.to_owned();
            move |source| BundleError::File { verb, path, source }
        };
        for item in std::fs::read_dir(folder).map_err(file_error("read", folder))? {
            let path = item.map_err(file_error("read", folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| BundleError::Name(path.clone()))?;
            let name = format!("{prefix}{name}");
            let meta = std::fs::symlink_metadata(&path).map_err(file_error("read", &path))?;
            // Always in: it says what the bundle is.
            let manifest = name == crate::project::FILE;
            if !manifest && rules.matched(&name, meta.is_dir()).is_ignore() {
                if path
                    .file_name()
                    .is_some_and(|file| file.as_encoded_bytes().starts_with(b".env"))
                {
                    self.secrets.push(name);
                }
                continue;
            }
            if meta.is_dir() {
                // A virtual environment by any other name.
                if !path.join("pyvenv.cfg").exists() {
                    self.walk(&path, &format!("{name}/"), rules)?;
                }
            } else if meta.is_symlink() {
                let target = std::fs::read_link(&path).map_err(file_error("read", &path))?;
                let target = target
                    .to_str()
                    .ok_or_else(|| BundleError::Name(path.clone()))?;
                let target = target.to_owned();
                if !stays_inside(&name, &target) {
                    return Err(BundleError::LinkOut { name, target });
                }
                self.entries.push(Entry {
                    name,
                    source: path,
                    kind: Kind::Link { target },
                });
            } else if meta.is_file() {
                self.entries.push(Entry {
                    name,
                    kind: Kind::File {
                        executable: meta.permissions().mode() & 0o111 != 0,
                        length: meta.len(),
                        modified: meta.modified().map_err(file_error("read", &path))?,
                    },
                    source: path,
                });
            }
            // Sockets, pipes and devices have no content that could be packed.
        }
        Ok(())
    }
}

fn rules(root: &Path, language: Language) -> Result<Gitignore, BundleError> {
    // Patterns are matched against names relative to the root, so the builder's own root is "".
    let mut builder = GitignoreBuilder::new("");
    let own = root.join(IGNORE_FILE);
    let users = match std::fs::read_to_string(&own) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => {
            return Err(BundleError::File {
                verb: "read",
                path: own,
                source,
            });
        }
    };
    let modules = match language {
        Language::Node => "",
        Language::Python | Language::Binary => "node_modules/\n",
    };
    // The user's rules last: the last match wins.
    for line in LEFT_OUT.lines().chain(modules.lines()).chain(users.lines()) {
        builder.add_line(None, line).map_err(BundleError::Rule)?;
    }
    builder.build().map_err(BundleError::Rule)
}

/// Whether a relative link at `name` stays below the bundle's root.
fn stays_inside(name: &str, target: &str) -> bool {
    let mut depth = name.matches('/').count();
    for part in Path::new(target).components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return false,
            },
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

impl From<BundleError> for Failure {
    fn from(error: BundleError) -> Self {
        let failure = |exit| Self::new(exit, chain(&error));
        match &error {
            BundleError::File { .. } | BundleError::Pack { .. } => failure(Exit::Failed),
            BundleError::Name(_) => {
                failure(Exit::Usage).advice(format!("rename it, or leave it out in {IGNORE_FILE}"))
            }
            BundleError::LinkOut { .. } => failure(Exit::Usage).advice(format!(
                "put a copy in its place, or leave it out in {IGNORE_FILE}"
            )),
            BundleError::Rule(_) => failure(Exit::Usage),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, file).expect("written");
        }
        dir
    }

    fn names(root: &Path, language: Language) -> Vec<String> {
        let selection = Selection::of(root, language).expect("selected");
        selection
            .entries
            .into_iter()
            .map(|entry| entry.name)
            .collect()
    }

    #[test]
    fn caches_environments_and_secrets_stay_behind() {
        let dir = folder(&[
            "a.py",
            "agentcore.toml",
            "pkg/b.py",
            "pkg/__pycache__/b.cpython-311.pyc",
            ".git/config",
            ".venv/bin/python",
            "my env/pyvenv.cfg",
            "my env/lib/x.py",
            ".env",
            "conf/.env.local",
            "node_modules/x/index.js",
        ]);
        let kept = ["a.py", "agentcore.toml", "pkg/b.py"];
        assert_eq!(names(dir.path(), Language::Python), kept);
        let node = names(dir.path(), Language::Node);
        assert!(
            node.contains(&"node_modules/x/index.js".to_owned()),
            "{node:?}"
        );
        let mut secrets = Selection::of(dir.path(), Language::Python)
            .expect("selected")
            .secrets;
        secrets.sort();
        assert_eq!(secrets, [".env", "conf/.env.local"]);
    }

    #[test]
    fn the_users_rules_come_last() {
        let dir = folder(&[
            "a.py",
            "data/big.bin",
            "data/keep.bin",
            ".env",
            "sub/notes.md",
            "agentcore.toml",
        ]);
        let rules = "# mine\ndata/*\n!data/keep.bin\n*.md\n!.env\nagentcore.toml\n";
        std::fs::write(dir.path().join(IGNORE_FILE), rules).expect("written");
        assert_eq!(
            names(dir.path(), Language::Python),
            [".env", "a.py", "agentcore.toml", "data/keep.bin"]
        );
    }

    #[test]
    fn links_inside_are_kept_and_links_out_are_refused() {
        let dir = folder(&["a.py", "sub/b.py"]);
        std::os::unix::fs::symlink("../a.py", dir.path().join("sub/link.py")).expect("linked");
        let selection = Selection::of(dir.path(), Language::Python).expect("selected");
        let link = selection.find("sub/link.py").expect("there");
        assert_eq!(
            link.kind,
            Kind::Link {
                target: "../a.py".into()
            }
        );
        for out in ["/etc/passwd", "../../x", "../sub/../../x"] {
            let path = dir.path().join("sub/out");
            let _ = std::fs::remove_file(&path);
            std::os::unix::fs::symlink(out, &path).expect("linked");
            let error = Selection::of(dir.path(), Language::Python).expect_err("refused");
            assert!(
                matches!(error, BundleError::LinkOut { .. }),
                "{out}: {error}"
            );
        }
    }
}
