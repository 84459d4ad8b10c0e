//! How large the code is: lines that are neither blank nor only a comment, tests apart.

use crate::command::root;
use std::fs;
use std::path::Path;

pub(crate) fn run() -> anyhow::Result<()> {
    println!(
        "{:<16} {:>7} {:>7} {:>9}  largest file",
        "", "code", "tests", "comments"
    );
    let mut all = Counted::default();
    for folder in [
        "proto",
        "core",
        "sandbox",
        "supervisor",
        "worker-shim",
        "cli",
        "python",
        "tests",
        "xtask",
        "examples",
        "fuzz",
    ] {
        let mut counted = Counted::default();
        walk(&root().join(folder), folder == "tests", &mut counted)?;
        counted.print(folder);
        all.code += counted.code;
        all.tests += counted.tests;
        all.comments += counted.comments;
    }
    all.print("all");
    Ok(())
}

#[derive(Default)]
struct Counted {
    code: usize,
    tests: usize,
    comments: usize,
    largest: (usize, String),
}

impl Counted {
    fn print(&self, name: &str) {
        let (lines, file) = &self.largest;
        let largest = if file.is_empty() {
            String::new()
        } else {
            format!("{lines} {file}")
        };
        println!(
            "{name:<16} {:>7} {:>7} {:>9}  {largest}",
            self.code, self.tests, self.comments
        );
    }
}

fn walk(dir: &Path, tests: bool, counted: &mut Counted) -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "target" || name == "__pycache__" || name.starts_with('.') {
            continue;
        }
        if entry.file_type()?.is_dir() {
            walk(&path, tests || name == "tests", counted)?;
            continue;
        }
        let Some(kind) = path.extension().and_then(|e| e.to_str()) else {
            continue;
        };
        let comment = match kind {
            "rs" => "//",
            "py" | "sh" => "#",
            _ => continue,
        };
        let text = fs::read_to_string(&path)?;
        let mut in_tests = tests;
        let mut lines = 0;
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
            in_tests |= line == "#[cfg(test)]";
            lines += 1;
            if line.starts_with(comment) {
                counted.comments += 1;
            } else if in_tests {
                counted.tests += 1;
            } else {
                counted.code += 1;
            }
        }
        if lines > counted.largest.0 {
            let shown = path
                .strip_prefix(root())
                .unwrap_or(&path)
                .display()
                .to_string();
            counted.largest = (lines, shown);
        }
    }
    Ok(())
}
