//! What on this machine can install for a session's Python: uv, the same Python's pip, or another Python's pip that
//! fetches wheels for it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// `major.minor`: what compiled modules depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PythonVersion {
    /// 3.
    pub(crate) major: u32,
    /// 11, 12, …
    pub(crate) minor: u32,
}

impl PythonVersion {
    /// Of `3.11.2`, `Python 3.11.2` or `3.11`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut parts = text.strip_prefix("Python ").unwrap_or(text).split('.');
        let digits = |part: &str| {
            let end = part
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(part.len());
            part[..end].parse().ok()
        };
        Some(Self {
            major: parts.next()?.parse().ok()?,
            minor: digits(parts.next()?)?,
        })
    }
}

impl fmt::Display for PythonVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A Python of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Python {
    path: PathBuf,
    version: PythonVersion,
    pip: bool,
}

/// A way to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installer {
    tool: Tool,
    /// The session's version of Python on this machine, if it is there.
    same: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Tool {
    Uv(PathBuf),
    /// pip of the same version.
    Pip(PathBuf),
    /// pip of another version: wheels only, since a source package would be built for the wrong Python.
    OtherPip(PathBuf),
}

impl Installer {
    /// The best that this machine has for `wanted`.
    pub(crate) async fn find(wanted: PythonVersion) -> Option<Self> {
        let mut pythons = Vec::new();
        for path in candidates(wanted, &path_folders()) {
            if let Some(python) = probe(&path).await {
                // Good enough: no need to ask the rest.
                let done = python.version == wanted && python.pip;
                pythons.push(python);
                if done {
                    break;
                }
            }
        }
        let uv = path_folders()
            .iter()
            .map(|folder| folder.join("uv"))
            .find(|path| path.is_file());
        Self::choose(wanted, uv, &pythons)
    }

    fn choose(wanted: PythonVersion, uv: Option<PathBuf>, pythons: &[Python]) -> Option<Self> {
        let path = |want: &dyn Fn(&Python) -> bool| {
            let found = pythons.iter().find(|python| want(python));
            found.map(|python| python.path.clone())
        };
        let pip = || path(&|python| python.version == wanted && python.pip).map(Tool::Pip);
        let other = || path(&|python| python.pip).map(Tool::OtherPip);
        let tool = uv.map(Tool::Uv).or_else(pip).or_else(other)?;
        let same = path(&|python| python.version == wanted);
        Some(Self { tool, same })
    }

    /// For people.
    pub(crate) fn name(&self) -> String {
        match &self.tool {
            Tool::Uv(_) => "uv".to_owned(),
            Tool::Pip(path) | Tool::OtherPip(path) => format!("{} -m pip", path.display()),
        }
    }

    /// The interpreter that runs and compiles for `python`, if it is on this machine.
    pub(crate) fn same_python(&self) -> Option<&Path> {
        self.same.as_deref()
    }

    /// The command that installs `file` for `python` into `target`.
    pub(crate) fn command(&self, file: &Path, python: PythonVersion, target: &Path) -> Command {
        let mut command = match &self.tool {
            Tool::Uv(uv) => {
                let mut command = Command::new(uv);
                command.args(["pip", "install", "--no-progress"]);
                match &self.same {
                    Some(interpreter) => command.arg("--python").arg(interpreter),
                    None => command.args([
                        "--only-binary",
                        ":all:",
                        "--python-version",
                        &python.to_string(),
                    ]),
                };
                command
            }
            Tool::Pip(interpreter) | Tool::OtherPip(interpreter) => {
                let mut command = Command::new(interpreter);
                command
                    .args([
                        "-m",
                        "pip",
                        "install",
                        "--progress-bar",
                        "off",
                        "--no-compile",
                    ])
                    .args([
                        "--disable-pip-version-check",
                        "--no-input",
                        "--no-warn-conflicts",
                    ])
                    .env("PIP_ROOT_USER_ACTION", "ignore")
                    // A user's `install.user = true` contradicts --target.
                    .env("PIP_USER", "0");
                if matches!(self.tool, Tool::OtherPip(_)) {
                    command.args([
                        "--only-binary=:all:",
                        "--python-version",
                        &python.to_string(),
                    ]);
                }
                command
            }
        };
        command.arg("--target").arg(target).arg("-r").arg(file);
        command
    }
}

fn path_folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).collect()
}

/// Where a Python of this version may be, best first; the last ones may be of any version.
fn candidates(wanted: PythonVersion, path: &[PathBuf]) -> Vec<PathBuf> {
    let well_known = ["/usr/bin", "/usr/local/bin"].map(PathBuf::from);
    let folders: Vec<&PathBuf> = path.iter().chain(&well_known).collect();
    let mut found: Vec<PathBuf> = Vec::new();
    for name in [
        format!("python{wanted}"),
        "python3".to_owned(),
        "python".to_owned(),
    ] {
        for folder in &folders {
            let candidate = folder.join(&name);
            if candidate.is_file() && !found.contains(&candidate) {
                found.push(candidate);
            }
        }
    }
    found
}

/// Asks the interpreter itself: a name on the PATH may be a shim for a version that is not installed.
async fn probe(path: &Path) -> Option<Python> {
    const QUESTION: &str = "import sys, importlib.util as u; \
        print('%d.%d' % sys.version_info[:2], u.find_spec('pip') is not None)";
    let output = Command::new(path)
        .args(["-c", QUESTION])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (version, pip) = text.trim().split_once(' ')?;
    Some(Python {
        path: path.to_owned(),
        version: PythonVersion::parse(version)?,
        pip: pip == "True",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: PythonVersion = PythonVersion {
        major: 3,
        minor: 11,
    };

    fn python(path: &str, minor: u32, pip: bool) -> Python {
        Python {
            path: path.into(),
            version: PythonVersion { major: 3, minor },
            pip,
        }
    }

    fn words(installer: &Installer) -> String {
        let command = installer.command(Path::new("r.txt"), WANTED, Path::new("/t"));
        let command = command.as_std();
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn versions_are_read_in_every_spelling() {
        for text in ["3.11.2", "Python 3.11.2", "3.11", "3.11+\n", " 3.11.0rc1"] {
            assert_eq!(PythonVersion::parse(text), Some(WANTED), "{text}");
        }
        for text in ["", "three", "3", "3.x"] {
            assert_eq!(PythonVersion::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_same_python_with_pip_is_preferred_to_another() {
        let all = [
            python("/a", 12, true),
            python("/b", 11, false),
            python("/c", 11, true),
        ];
        let chosen = Installer::choose(WANTED, None, &all).expect("one");
        assert_eq!(chosen.tool, Tool::Pip("/c".into()));
        assert_eq!(chosen.same_python(), Some(Path::new("/b")));
        assert!(!words(&chosen).contains("--python-version"));
    }

    #[test]
    fn another_pythons_pip_fetches_wheels_for_the_wanted_one() {
        let all = [python("/a", 12, true), python("/b", 11, false)];
        let chosen = Installer::choose(WANTED, None, &all).expect("one");
        let line = words(&chosen);
        assert!(line.starts_with("/a -m pip install"), "{line}");
        assert!(
            line.contains("--only-binary=:all: --python-version 3.11"),
            "{line}"
        );
        assert!(line.ends_with("--target /t -r r.txt"), "{line}");
    }

    #[test]
    fn uv_comes_first_and_needs_no_python() {
        let alone = Installer::choose(WANTED, Some("/uv".into()), &[]).expect("one");
        assert!(words(&alone).contains("--python-version 3.11"));
        let with = Installer::choose(WANTED, Some("/uv".into()), &[python("/b", 11, false)]);
        assert!(words(&with.expect("one")).contains("--python /b"));
        assert_eq!(
            Installer::choose(WANTED, None, &[python("/b", 11, false)]),
            None
        );
    }

    #[tokio::test]
    async fn a_real_interpreter_answers_and_a_broken_shim_does_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let script = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("written");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, mode).expect("set");
            path
        };
        let good = script("python3.11", "#!/bin/sh\necho 3.11 True\n");
        let broken = script(
            "python3",
            "#!/bin/sh\necho 'command not found' >&2\nexit 127\n",
        );
        assert_eq!(
            probe(&good).await,
            Some(python(good.to_str().expect("text"), 11, true))
        );
        assert_eq!(probe(&broken).await, None);
        let found = candidates(WANTED, &[dir.path().to_owned()]);
        assert_eq!(found[0], good);
        assert!(found.contains(&broken));
    }
}
