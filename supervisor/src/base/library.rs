//! Shared libraries that the files of a base need and that no dependency of their packages brought: found as the host's
//! loader finds them, and copied.

use super::build::Tree;
use super::command::run;
use super::{Result, elf, io_at};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Completes a tree. Returns the libraries that the host does not have either, each with one file that wants it.
pub(super) fn complete(tree: &mut Tree) -> Result<Vec<String>> {
    let host = host_libraries()?;
    let mut have: BTreeSet<String> = tree.file_names().collect();
    let mut open = tree.objects();
    let mut missing = Vec::new();
    while let Some(path) = open.pop() {
        let file = File::open(&path).map_err(io_at("open", &path))?;
        for name in elf::needed(&file).map_err(io_at("read", &path))? {
            if !have.insert(name.clone()) {
                continue;
            }
            match host.get(&name) {
                Some(source) => open.push(tree.add_library(&name, source)?),
                None => missing.push(format!(
                    "{name} (wanted by {})",
                    tree.inside(&path).display()
                )),
            }
        }
    }
    Ok(missing)
}

/// What the loader's cache has, by name. Where one name has several files the first is what the loader takes.
fn host_libraries() -> Result<HashMap<String, PathBuf>> {
    let printed = run("ldconfig", &["-p"])?;
    Ok(parse(&printed))
}

/// Lines like `libz.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libz.so.1`.
fn parse(printed: &str) -> HashMap<String, PathBuf> {
    let mut found = HashMap::new();
    for line in printed.lines() {
        let Some((left, path)) = line.split_once(" => ") else {
            continue;
        };
        let Some((name, kind)) = left.trim().split_once(' ') else {
            continue;
        };
        let ours = if cfg!(target_arch = "x86_64") {
            "x86-64"
        } else {
            "AArch64"
        };
        if kind.contains(ours) {
            found
                .entry(name.to_owned())
                .or_insert_with(|| Path::new(path.trim()).to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_loaders_cache_is_understood() {
        let found = parse(
            "2 libs found in cache `/etc/ld.so.cache'\n\
             \tlibz.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libz.so.1\n\
             \tlibz.so.1 (libc6,x86-64) => /usr/local/lib/libz.so.1\n\
             \tlibz.so.1 (libc6) => /lib/i386-linux-gnu/libz.so.1\n\
             \tlibm.so.6 (libc6,x86-64, OS ABI: Linux 3.2.0) => /lib/libm.so.6\n",
        );
        assert_eq!(found.len(), 2);
        assert_eq!(
            found["libz.so.1"],
            Path::new("/lib/x86_64-linux-gnu/libz.so.1")
        );
        assert_eq!(found["libm.so.6"], Path::new("/lib/libm.so.6"));
    }
}
