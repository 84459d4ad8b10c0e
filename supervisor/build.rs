//! Lists the built-in Python packages so that the daemon carries it: the base root file system gets its files from the
//! binary, not from a folder that may not be installed.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

const PACKAGES: [&str; 2] = ["agentcore_template", "bedrock_agentcore"];

fn main() -> io::Result<()> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?);
    let python = here.join("../python").canonicalize()?;
    let mut files = Vec::new();
    for package in PACKAGES.map(|name| python.join(name)) {
        println!("cargo::rerun-if-changed={}", package.display());
        collect(&package, &mut files)?;
    }
    files.sort();
    let mut list = String::from("&[\n");
    for file in &files {
        let name = file.strip_prefix(&python).map_err(io::Error::other)?;
        // Debug form is a Rust string literal, whatever is in the path.
        writeln!(list, "    ({name:?}, include_bytes!({file:?})),").map_err(io::Error::other)?;
    }
    list.push_str("]\n");
    let out = PathBuf::from(env::var("OUT_DIR").map_err(io::Error::other)?);
    fs::write(out.join("python_files.rs"), list)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && name != "__pycache__" {
            collect(&path, files)?;
        } else if name == "py.typed" || path.extension().is_some_and(|e| e == "py") {
            files.push(path);
        }
    }
    Ok(())
}
