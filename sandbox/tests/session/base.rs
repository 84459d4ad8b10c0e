//! The smallest base root file system that this (dynamically linked) program runs in.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Directories that a plan mounts on, or that the system expects.
const DIRECTORIES: [&str; 11] = [
    "proc",
    "dev",
    "tmp",
    "app",
    "home/agent",
    "mnt",
    "etc",
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/bin",
    "run",
];

/// Shared libraries (and the loader) that this program runs with.
fn libraries() -> BTreeSet<PathBuf> {
    fs::read_to_string("/proc/self/maps")
        .expect("maps")
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|path| path.contains(".so"))
        .map(PathBuf::from)
        .collect()
}

/// Fills `root`.
pub(crate) fn build(root: &Path) {
    for directory in DIRECTORIES {
        fs::create_dir_all(root.join(directory)).expect("create directory");
    }
    symlink("usr/lib64", root.join("lib64")).expect("symlink");
    symlink("usr/lib", root.join("lib")).expect("symlink");
    for library in libraries() {
        let name = library.file_name().expect("file name");
        let to = root.join("usr/lib/x86_64-linux-gnu").join(name);
        fs::copy(&library, to).expect("copy library");
    }
    let loader = "ld-linux-x86-64.so.2";
    symlink(
        format!("../lib/x86_64-linux-gnu/{loader}"),
        root.join("usr/lib64").join(loader),
    )
    .expect("symlink");
    fs::write(
        root.join("etc/passwd"),
        "agent:x:1000:1000::/home/agent:/bin/sh\n",
    )
    .expect("write");
}
