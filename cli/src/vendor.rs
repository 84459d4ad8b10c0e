//! Python dependencies, installed beside the agent so that a session needs no network to import them.
//!
//! For: `requirements.txt` ▸ an archive of what pip (or uv) installs for the session's Python, kept by content: the same
//! requirements for the same Python are installed once. Modules are compiled ahead, since a session cannot write
//! bytecode beside its read-only bundle and would compile everything at every start.
//! Not for: choosing versions; whoever wants the same ones tomorrow pins them.

use crate::bundle::pack::{hex, pack_into};
use crate::bundle::{BundleError, Entry, Kind};
use crate::failure::{Exit, Failure, chain};
use crate::screen::Screen;
use interpreter::{Installer, PythonVersion};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;

pub(crate) mod interpreter;

/// Bump it when what an archive holds changes.
const GENERATION: &str = "agentcore dependencies 2";

/// Lines of the installer's output that are shown when it fails.
const SHOWN: usize = 25;

/// Why dependencies could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VendorError {
    /// A file or folder cannot be read or written.
    #[error("cannot {verb} {}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing here can install.
    #[error("neither uv nor a python3 with pip is on this machine, and {} needs one", .0.display())]
    NoInstaller(PathBuf),
    /// The installer cannot be run.
    #[error("cannot run {program}")]
    Run {
        /// Which program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The installer said no.
    #[error("{program} could not install {}", file.display())]
    Install {
        /// Which program.
        program: String,
        /// The requirements.
        file: PathBuf,
        /// The end of its output.
        lines: Vec<String>,
    },
    /// The archive cannot be made.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Where archives are kept: `$AGENTCORE_CACHE`, else `$XDG_CACHE_HOME/agentcore`, else `~/.cache/agentcore`.
pub(crate) fn cache() -> Result<PathBuf, VendorError> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let path = set("AGENTCORE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|base| base.join("agentcore")))
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache/agentcore")))
        .unwrap_or_else(|| std::env::temp_dir().join("agentcore-cache"));
    std::fs::create_dir_all(&path).map_err(file_error("make", &path))?;
    Ok(path)
}

/// An archive of what the requirements `file` installs for `python`. `again`: even if it is in the cache.
pub(crate) async fn dependencies(
    screen: &Screen,
    file: &Path,
    python: PythonVersion,
    again: bool,
) -> Result<PathBuf, VendorError> {
    let cache = cache()?.join("dependencies");
    std::fs::create_dir_all(&cache).map_err(file_error("make", &cache))?;
    let requirements = Requirements::read(file)?;
    let kept = cache.join(format!("{}.zip", requirements.key(python)));
    if kept.exists() && !again && !requirements.local {
        screen.note(format!("{}: from the cache", file.display()));
        return Ok(kept);
    }
    let installer = Installer::find(python).await;
    let installer = installer.ok_or_else(|| VendorError::NoInstaller(file.to_owned()))?;
    let target = tempfile::Builder::new()
        .prefix("installing-")
        .tempdir_in(&cache);
    let target = target.map_err(file_error("write in", &cache))?;
    let stage = screen.stage(format!(
        "Installing {} for Python {python} with {}",
        file.display(),
        installer.name()
    ));
    install(&stage, &installer, file, python, target.path()).await?;
    portable_scripts(target.path())?;
    if let Some(interpreter) = installer.same_python() {
        stage.now("compiling");
        compile(interpreter, target.path()).await?;
    } else {
        screen.note(format!(
            "no Python {python} here to compile the modules with: sessions will import them more slowly"
        ));
    }
    stage.now("packing");
    let archive = NamedTempFile::with_prefix_in("packing-", &cache);
    let archive = archive.map_err(file_error("write in", &cache))?;
    pack_into(
        &installed(target.path())?,
        archive.as_file(),
        archive.path(),
    )?;
    // Complete or not at all; two launches at once make the same thing.
    archive
        .persist(&kept)
        .map_err(|error| file_error("write", &kept)(error.error))?;
    Ok(kept)
}

/// A requirements file and those that it includes.
#[derive(Debug)]
struct Requirements {
    /// Path as written and content, in the order of their first mention.
    files: Vec<(String, String)>,
    /// It names a folder or file of this machine, whose content we do not follow: never from the cache.
    local: bool,
}

impl Requirements {
    fn read(file: &Path) -> Result<Self, VendorError> {
        let mut all = Self {
            files: Vec::new(),
            local: false,
        };
        all.include(file, &mut BTreeSet::new())?;
        Ok(all)
    }

    fn include(&mut self, file: &Path, seen: &mut BTreeSet<PathBuf>) -> Result<(), VendorError> {
        // By its real path: files that include each other spell it differently every time.
        let real = file.canonicalize().map_err(file_error("read", file))?;
        if !seen.insert(real) {
            return Ok(());
        }
        let text = std::fs::read_to_string(file).map_err(file_error("read", file))?;
        let folder = file.parent().unwrap_or(Path::new(""));
        let lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
        self.files.push((file.display().to_string(), text));
        for line in lines {
            if let Some(other) = included(&line) {
                // pip reads an included file relative to the one that includes it.
                if !other.contains("://") {
                    self.include(&folder.join(other), seen)?;
                }
            } else if names_a_path(&line) {
                self.local = true;
            }
        }
        Ok(())
    }

    fn key(&self, python: PythonVersion) -> String {
        let mut hash = Sha256::new();
        let mut part = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        part(GENERATION);
        part(&python.to_string());
        part(std::env::consts::ARCH);
        for (_, text) in &self.files {
            part(text);
        }
        hex(&hash.finalize())
    }
}

/// The file of `-r FILE`, `--requirement FILE`, `-c FILE`, `--constraint=FILE`.
fn included(line: &str) -> Option<&str> {
    let short = ["-r", "-c"].iter().find_map(|flag| line.strip_prefix(flag));
    let long = || {
        let rest = ["--requirement", "--constraint"]
            .iter()
            .find_map(|flag| line.strip_prefix(flag));
        rest.filter(|rest| rest.starts_with([' ', '=', '\t']))
    };
    let rest = short.or_else(long)?.trim_start_matches(['=', ' ', '\t']);
    Some(rest.split(" #").next().unwrap_or(rest).trim())
}

/// `.`, `./pkg`, `/abs/pkg.whl`, `-e …`, `name @ file:…`
fn names_a_path(line: &str) -> bool {
    line.starts_with(['.', '/'])
        || line.starts_with("-e")
        || line.starts_with("--editable")
        || line.contains("file:")
        || (!line.starts_with(['#', '-'])
            && line
                .split(['#', ';', '@'])
                .next()
                .is_some_and(|name| name.contains('/')))
}

async fn install(
    stage: &crate::screen::Stage,
    installer: &Installer,
    file: &Path,
    python: PythonVersion,
    target: &Path,
) -> Result<(), VendorError> {
    let mut command = installer.command(file, python, target);
    let program = installer.name();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // Ctrl-C reaches it through the terminal; if we end otherwise, so must it.
    command.kill_on_drop(true);
    let run_error = |source| VendorError::Run {
        program: program.clone(),
        source,
    };
    let mut child = command.spawn().map_err(run_error)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (out, err) = tokio::join!(follow(out, stage), follow(err, stage));
    let status = child.wait().await.map_err(run_error)?;
    if status.success() {
        return Ok(());
    }
    let mut lines = out;
    lines.extend(err);
    let skip = lines.len().saturating_sub(SHOWN);
    Err(VendorError::Install {
        program,
        file: file.to_owned(),
        lines: lines.split_off(skip),
    })
}

/// Shows each line while it lasts and returns the last ones.
async fn follow(
    stream: Option<impl AsyncRead + Unpin>,
    stage: &crate::screen::Stage,
) -> Vec<String> {
    let mut kept = Vec::new();
    let Some(stream) = stream else { return kept };
    let mut lines = BufReader::new(stream).lines();
    // Output that is not text ends the display, not the installation.
    while let Ok(Some(line)) = lines.next_line().await {
        let short: String = line.trim().chars().take(60).collect();
        stage.now(&short);
        kept.push(line);
        if kept.len() > SHOWN {
            kept.remove(0);
        }
    }
    kept
}

/// Console scripts begin with the path of the Python that installed them, which a session does not have.
fn portable_scripts(target: &Path) -> Result<(), VendorError> {
    let folder = target.join("bin");
    if !folder.is_dir() {
        return Ok(());
    }
    for item in std::fs::read_dir(&folder).map_err(file_error("read", &folder))? {
        let path = item.map_err(file_error("read", &folder))?.path();
        if !path.is_file() {
            continue;
        }
        let content = std::fs::read(&path).map_err(file_error("read", &path))?;
        if let Some(rest) = after_python_shebang(&content) {
            let portable = [b"#!/usr/bin/env python3".as_slice(), rest].concat();
            // Written in place, so that the mode stays.
            std::fs::write(&path, portable).map_err(file_error("write", &path))?;
        }
    }
    Ok(())
}

/// What follows the first line of a Python script, if that line names an interpreter by its path.
fn after_python_shebang(content: &[u8]) -> Option<&[u8]> {
    let end = content.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(content.get(..end)?).ok()?;
    let program = line.strip_prefix("#!")?.split_whitespace().next()?;
    let name = Path::new(program).file_name()?.to_str()?;
    name.starts_with("python").then(|| &content[end..])
}

/// Compiles ahead. `unchecked-hash`: the bundle never changes under its bytecode, so nothing needs to be compared at
/// import, and no time stamp makes two archives differ.
async fn compile(interpreter: &Path, target: &Path) -> Result<(), VendorError> {
    let run_error = |source| VendorError::Run {
        program: interpreter.display().to_string(),
        source,
    };
    let mut command = Command::new(interpreter);
    command
        .args([
            "-m",
            "compileall",
            "-q",
            "-j",
            "0",
            "--invalidation-mode",
            "unchecked-hash",
        ])
        // Tracebacks name the path in the session.
        .arg("-s")
        .arg(target)
        .args(["-p", "/app"])
        .arg(target)
        .env("PYTHONHASHSEED", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    // A file that does not compile (a template, code for another Python) fails it; such a file is left as source.
    command.status().await.map(|_| ()).map_err(run_error)
}

/// Everything that was installed, bytecode included.
fn installed(root: &Path) -> Result<Vec<Entry>, VendorError> {
    fn walk(folder: &Path, prefix: &str, into: &mut Vec<Entry>) -> Result<(), VendorError> {
        for item in std::fs::read_dir(folder).map_err(file_error("read", folder))? {
            let path = item.map_err(file_error("read", folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| BundleError::Name(path.clone()))?;
            // The installers' own marks: a lock, and a record that changes with every run.
            if prefix.is_empty() && (name == ".lock" || name == "uv_cache.json") {
                continue;
            }
            let name = format!("{prefix}{name}");
            let meta = std::fs::metadata(&path).map_err(file_error("read", &path))?;
            if meta.is_dir() {
                walk(&path, &format!("{name}/"), into)?;
            } else {
                into.push(Entry {
                    name,
                    kind: Kind::File {
                        executable: meta.permissions().mode() & 0o111 != 0,
                        length: meta.len(),
                        modified: SystemTime::UNIX_EPOCH,
                    },
                    source: path,
                });
            }
        }
        Ok(())
    }
    let mut entries = Vec::new();
    walk(root, "", &mut entries)?;
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn file_error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VendorError + use<> {
    let path = path.to_owned();
    move |source| VendorError::File { verb, path, source }
}

impl From<VendorError> for Failure {
    fn from(error: VendorError) -> Self {
        let failure = |exit| Self::new(exit, chain(&error));
        match &error {
            VendorError::File { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                failure(Exit::Usage).advice("correct `requirements` in agentcore.toml")
            }
            VendorError::File { .. } | VendorError::Run { .. } | VendorError::Bundle(_) => {
                failure(Exit::Failed)
            }
            VendorError::NoInstaller(_) => failure(Exit::Failed)
                .advice("`apt-get install python3-pip`, or install uv, then launch again"),
            VendorError::Install { lines, .. } => failure(Exit::Failed)
                .details(lines.iter().cloned())
                .advice("correct the requirements, or check that the package index is reachable"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn included_files_are_part_of_the_key() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("requirements.txt");
        let more = dir.path().join("sub/more.txt");
        std::fs::create_dir(dir.path().join("sub")).expect("made");
        std::fs::write(&file, "requests\n-r sub/more.txt # more\n").expect("written");
        std::fs::write(&more, "--constraint=../requirements.txt\nsix==1.16\n").expect("written");
        let python = PythonVersion {
            major: 3,
            minor: 11,
        };
        let key = |python| Requirements::read(&file).expect("read").key(python);
        let first = key(python);
        assert_eq!(first, key(python));
        assert_ne!(
            first,
            key(PythonVersion {
                major: 3,
                minor: 12
            })
        );
        std::fs::write(&more, "--constraint=../requirements.txt\nsix==1.17\n").expect("written");
        assert_ne!(first, key(python));
    }

    #[test]
    fn only_python_scripts_get_another_first_line() {
        let script = b"#!/root/.pyenv/versions/3.11.7/bin/python3.11\nimport x\n";
        assert_eq!(
            after_python_shebang(script),
            Some(b"\nimport x\n".as_slice())
        );
        assert_eq!(after_python_shebang(b"#!/bin/sh\nexec python3\n"), None);
        assert_eq!(after_python_shebang(b"\x7fELF\x01\n"), None);
        assert_eq!(after_python_shebang(b"#!/usr/bin/python3"), None);
    }

    #[test]
    fn paths_of_this_machine_are_noticed() {
        for line in [
            ".",
            "./pkg",
            "../x",
            "/opt/x.whl",
            "-e .",
            "a @ file:///x",
            "wheels/x.whl",
        ] {
            assert!(names_a_path(line), "{line}");
        }
        for line in [
            "requests",
            "a[b]>=1 ; python_version<'4'",
            "# a/b",
            "a @ https://h/x.whl",
            "--no-binary a/b",
            "a==1 # b/c",
        ] {
            assert!(!names_a_path(line), "{line}");
        }
    }
}
