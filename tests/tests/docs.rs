//! Documents say what is there: links resolve, named files and commands exist. Tier: files.

use anyhow::Context as _;
use e2e::{Result, ground, places};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every Markdown file of the repository.
fn documents() -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut queue = vec![places::source()];
    while let Some(dir) = queue.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') || name == "target" || name == "node_modules" {
                continue;
            }
            if entry.file_type()?.is_dir() {
                queue.push(entry.path());
            } else if name.ends_with(".md") {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Text outside of code fences, and the lines inside of them with the fence's language.
fn split(text: &str) -> (String, Vec<(String, String)>) {
    let (mut prose, mut code) = (String::new(), Vec::new());
    let mut fence: Option<String> = None;
    for line in text.lines() {
        if let Some(rest) = line.trim_start().strip_prefix("```") {
            fence = match fence {
                Some(_) => None,
                None => Some(rest.trim().to_owned()),
            };
        } else if let Some(language) = &fence {
            code.push((language.clone(), line.to_owned()));
        } else {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    (prose, code)
}

/// Targets of `[text](target)`.
fn links(prose: &str) -> Vec<String> {
    prose
        .match_indices("](")
        .filter_map(|(at, _)| {
            let rest = &prose[at + 2..];
            Some(rest[..rest.find(')')?].to_owned())
        })
        .collect()
}

/// As GitHub makes them.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

fn anchors(file: &Path) -> anyhow::Result<BTreeSet<String>> {
    let (prose, _) = split(&fs::read_to_string(file)?);
    Ok(prose
        .lines()
        .filter(|l| l.starts_with('#'))
        .map(anchor)
        .collect())
}

#[test]
fn every_link_inside_the_repository_resolves() -> Result {
    ground!(Files);
    let documents = documents()?;
    assert!(documents.len() >= 5, "found only {documents:?}");
    let mut broken = Vec::new();
    let mut checked = 0;
    for document in &documents {
        let (prose, _) = split(&fs::read_to_string(document)?);
        for link in links(&prose) {
            if link.starts_with("http://")
                || link.starts_with("https://")
                || link.starts_with("mailto:")
            {
                continue;
            }
            checked += 1;
            let (path, fragment) = link
                .split_once('#')
                .map_or((link.as_str(), None), |(p, f)| (p, Some(f)));
            let file = if path.is_empty() {
                document.clone()
            } else {
                document.parent().context("parent")?.join(path)
            };
            let there = file.exists()
                && fragment.is_none_or(|f| anchors(&file).is_ok_and(|known| known.contains(f)));
            if !there {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links: {broken:#?}");
    assert!(checked > 0, "no link was checked");
    Ok(())
}

#[test]
fn paths_named_in_readme_and_docs_exist() -> Result {
    ground!(Files);
    let root = places::source();
    let folders: BTreeSet<String> = fs::read_dir(&root)?
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| n != "target")
        .collect();
    let mut missing = Vec::new();
    for document in documents()? {
        let ours = document == root.join("README.md") || document.starts_with(root.join("docs"));
        if !ours {
            continue;
        }
        let (prose, _) = split(&fs::read_to_string(&document)?);
        // `folder/file` in backticks, where folder is one of ours.
        for (number, word) in prose.split('`').enumerate() {
            let plain = word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if number % 2 == 0 || !plain {
                continue;
            }
            let Some((folder, _)) = word.split_once('/') else {
                continue;
            };
            if folders.contains(folder) && !root.join(word.trim_end_matches('/')).exists() {
                missing.push(format!("{}: {word}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "named but not there: {missing:#?}");
    Ok(())
}

/// Words after `program` in the documents' shell examples, as far as they are verbs.
fn verbs(program: &str) -> anyhow::Result<BTreeSet<(String, String)>> {
    let mut found = BTreeSet::new();
    for document in documents()? {
        let (_, code) = split(&fs::read_to_string(&document)?);
        for (language, line) in code {
            if !matches!(language.as_str(), "sh" | "bash" | "console" | "") {
                continue;
            }
            let line = line.trim_start_matches("$ ").trim().to_owned();
            let mut words = line.split_whitespace().peekable();
            while words
                .peek()
                .is_some_and(|w| w.contains('=') || *w == "sudo")
            {
                words.next();
            }
            let mut expected = program.split(' ');
            if !expected.all(|w| words.next() == Some(w)) {
                continue;
            }
            if let Some(verb) = words.next()
                && verb.chars().all(|c| c.is_ascii_lowercase() || c == '-')
                && !verb.starts_with('-')
            {
                found.insert((verb.to_owned(), format!("{}: {line}", document.display())));
            }
        }
    }
    Ok(found)
}

/// The quick start builds its commands, so a line that says just `agentcore` needs the folder they are built into on the path.
#[test]
fn the_quick_start_finds_the_commands_that_it_builds() -> Result {
    ground!(Files);
    let (_, code) = split(&fs::read_to_string(places::source().join("README.md"))?);
    let at = |start: &str| code.iter().position(|(_, line)| line.starts_with(start));
    let built = at("cargo build --release").context("it builds")?;
    let found = at("export PATH=$PWD/target/release:").context("it sets the path")?;
    let moved = at("cd ").context("it goes to an example")?;
    let used = at("agentcore ").context("it uses the command")?;
    assert!(built < found && found < moved && moved < used);
    Ok(())
}

/// Through cargo: nothing else builds it, and a stale one would be judged instead.
fn xtask() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(places::source())
        .args(["run", "--quiet", "--locked", "-p", "xtask", "--"]);
    command
}

#[test]
fn verbs_in_examples_are_known_to_the_commands() -> Result {
    ground!(Daemon);
    for (program, mut command) in [
        (
            "agentcore",
            Command::new(places::binaries().join("agentcore")),
        ),
        ("cargo xtask", xtask()),
    ] {
        let output = command
            .arg("--help")
            .output()
            .with_context(|| program.to_owned())?;
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{program} --help: {}",
            output.status
        );
        for (verb, place) in verbs(program)? {
            let known = help.lines().any(|l| {
                l.split_whitespace().next() == Some(verb.as_str())
                    || l.contains(&format!("aliases: {verb}"))
                    || l.contains(&format!("[aliases: {verb}"))
            });
            assert!(known, "{program} has no {verb}, but {place}");
        }
    }
    Ok(())
}
