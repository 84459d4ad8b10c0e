//! A base that the operator prepared: checked whole, every fault told at once, nothing changed.

use super::{BUILTIN_PYTHON, Base, BaseError, MOUNT_POINTS, Result, versions};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Directories whose owner decides what runs in sessions.
const TRUSTED: [&str; 5] = ["", "usr", "usr/bin", "usr/lib", "etc"];

/// Checks it. What a session would stumble over is a fault; what only some agents miss is a note.
pub(super) fn check(root: &Path) -> Result<Base> {
    let problems = problems(root);
    if !problems.is_empty() {
        return Err(BaseError::Given {
            root: root.to_owned(),
            problems,
        });
    }
    let mut notes = Vec::new();
    if !root
        .join(inside(BUILTIN_PYTHON))
        .join("bedrock_agentcore")
        .is_dir()
    {
        notes.push(format!(
            "{} has no {BUILTIN_PYTHON}: agents must bring `bedrock_agentcore` in their bundle",
            root.display()
        ));
    }
    Ok(Base {
        root: root.to_owned(),
        versions: versions(root),
        notes,
    })
}

fn problems(root: &Path) -> Vec<String> {
    if !root.is_absolute() {
        return vec!["its path must be absolute".to_owned()];
    }
    match fs::symlink_metadata(root) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return vec!["it is not a directory (a symbolic link is not followed)".to_owned()],
        Err(error) => return vec![format!("it cannot be looked at: {error}")],
    }
    let mut problems = Vec::new();
    for folder in TRUSTED {
        // A link is followed in /usr/lib and the like; where it leads is the operator's.
        if let Ok(found) = fs::metadata(root.join(folder))
            && (found.uid() != 0 || found.mode() & 0o022 != 0)
        {
            problems.push(format!(
                "/{folder} must belong to root and be writable by nobody else"
            ));
        }
    }
    if !root.join("usr/bin").is_dir() {
        problems.push("it has no /usr/bin".to_owned());
    }
    let missing: Vec<String> = MOUNT_POINTS
        .into_iter()
        .filter(|point| !is_real_directory(root, Path::new(point)))
        .map(|point| format!("/{point}"))
        .collect();
    if !missing.is_empty() {
        problems.push(format!(
            "these must be directories, because sessions mount something on them: {} (mkdir -p makes them)",
            missing.join(", ")
        ));
    }
    problems
}

/// No part of it is a link: a mount would land where the link leads.
fn is_real_directory(root: &Path, point: &Path) -> bool {
    let mut path = root.to_owned();
    point.iter().all(|part| {
        path.push(part);
        fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir())
    })
}

fn inside(path: &str) -> PathBuf {
    PathBuf::from(path.trim_start_matches('/'))
}
