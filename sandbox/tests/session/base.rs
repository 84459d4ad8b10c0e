//! The smallest base root file system that this (dynamically linked) program runs in.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Directories that a plan mounts on, or that the system expects.
const DIRECTORIES: [&str; 10] = [
    "proc",
    "dev",
    "tmp",
    "app",
    "home/agent",
    "etc",
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/bin",
    "run",
];

const LIBRARIES: [&str; 3] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/x86_64-linux-gnu/libgcc_s.so.1",
];

/// Fills `root`.
pub(crate) fn build(root: &Path) {
    for directory in DIRECTORIES {
        fs::create_dir_all(root.join(directory)).expect("create directory");
    }
    symlink("usr/lib64", root.join("lib64")).expect("symlink");
    symlink("usr/lib", root.join("lib")).expect("symlink");
    for library in LIBRARIES {
        let to = format!("usr{library}");
        fs::copy(library, root.join(to)).expect("copy library");
    }
    fs::write(
        root.join("etc/passwd"),
        "agent:x:1000:1000::/home/agent:/bin/sh\n",
    )
    .expect("write");
}
