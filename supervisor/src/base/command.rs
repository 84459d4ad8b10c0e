//! Programs that help to build a base, and programs of the base that are asked for their version.

use super::{BaseError, Result};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs a program of the host with a clean environment. Returns what it wrote, if it succeeded.
pub(super) fn run(program: &'static str, args: &[&str]) -> Result<String> {
    let output = output(program, args).map_err(|source| BaseError::Run { program, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = said.trim().lines().rev().take(5).collect();
    Err(BaseError::Command {
        program,
        status: output.status,
        said: last.into_iter().rev().collect::<Vec<_>>().join(" / "),
    })
}

/// Runs a program of a base, in it, as root. For bases of our own making only.
pub(super) fn run_inside(root: &Path, program: &'static str, args: &[&str]) -> Result<String> {
    let root = root.to_string_lossy();
    let mut all = vec![root.as_ref(), program];
    all.extend(args);
    run("chroot", &all)
}

/// Whether `dpkg-query` can be run at all.
pub(super) fn exists(program: &'static str) -> bool {
    !matches!(output(program, &["--version"]), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

fn output(program: &str, args: &[&str]) -> io::Result<Output> {
    Command::new(program)
        .args(args)
        .env_clear()
        // Messages in English, names in any encoding.
        .env("LC_ALL", "C.UTF-8")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
}

/// Versions of the interpreters that a root file system has. They are run to learn it (as nobody: an operator's base is
/// not ours), so what is in the list works.
pub(super) fn versions(root: &Path) -> BTreeMap<String, String> {
    let programs = [
        ("bash", "/usr/bin/bash"),
        ("node", "/usr/bin/node"),
        ("python3", "/usr/bin/python3"),
    ];
    let root = root.to_string_lossy();
    let version = |program: &str| {
        let args = [
            "--userspec=65534:65534",
            "--groups=",
            &root,
            program,
            "--version",
        ];
        let said = output("chroot", &args)
            .ok()
            .filter(|o| o.status.success())?;
        number(&String::from_utf8_lossy(&said.stdout))
    };
    programs
        .into_iter()
        .filter_map(|(name, program)| Some((name.to_owned(), version(program)?)))
        .collect()
}

/// The first word of the first line that begins like a version number: `v20.1.0`, `Python 3.11.2`,
/// `GNU bash, version 5.2.15(1)-release (…)`.
fn number(said: &str) -> Option<String> {
    let words = said.lines().next()?.split_whitespace();
    let version = words
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let end = version
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '.')
        .unwrap_or(version.len());
    Some(version[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn version_numbers_are_found_in_what_programs_say() {
        for (said, wanted) in [
            ("Python 3.11.2\n", Some("3.11.2")),
            ("v20.20.2\n", Some("20.20.2")),
            (
                "GNU bash, version 5.2.15(1)-release (x86_64-pc-linux-gnu)\nfoo",
                Some("5.2.15"),
            ),
            ("", None),
            ("no number here\n1.0", None),
        ] {
            assert_eq!(number(said).as_deref(), wanted, "{said:?}");
        }
    }
}
