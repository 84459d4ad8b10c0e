//! Which of the packages' files go into a base, and under which name.

use std::path::{Path, PathBuf};

/// Folders that are one with those of `/usr`.
pub(super) const MERGED: [&str; 5] = ["bin", "sbin", "lib", "lib32", "lib64"];

/// Below these nothing is taken, though the general rules would.
const LEFT_OUT: [&str; 7] = [
    "usr/lib/node_modules",
    "usr/lib/valgrind",
    "usr/lib/mime",
    "usr/lib/tmpfiles.d",
    "usr/lib/sysusers.d",
    "usr/lib/systemd",
    "usr/lib/ssl",
];

/// Below these something is taken; of `/usr/share`, most is documentation, translations and files for installers.
const TAKEN: [&str; 9] = [
    "usr/bin",
    "usr/lib",
    "usr/lib32",
    "usr/lib64",
    "usr/share/ca-certificates",
    "usr/share/nodejs",
    "usr/share/terminfo",
    "usr/share/zoneinfo",
    "etc/ld.so.conf.d",
];

/// Single files of `/etc` that programs look into; the rest of `/etc` is generated.
const SETTINGS: [&str; 6] = [
    "etc/gai.conf",
    "etc/ld.so.conf",
    "etc/mime.types",
    "etc/protocols",
    "etc/rpc",
    "etc/services",
];

/// The name below the base's root of a path that a package lists, or `None` if it is not taken.
pub(super) fn place(listed: &str) -> Option<PathBuf> {
    let path = Path::new(listed.strip_prefix('/')?);
    let first = path.iter().next()?.to_str()?;
    let path = if MERGED.contains(&first) {
        Path::new("usr").join(path)
    } else {
        path.to_owned()
    };
    let below = |folders: &[&str]| folders.iter().any(|folder| path.starts_with(folder));
    let taken = below(&TAKEN) || SETTINGS.iter().any(|file| path == Path::new(file));
    (taken && !below(&LEFT_OUT) && !is_for_developers(&path)).then_some(path)
}

/// Test suites, debugger scripts, compiled files of other versions; and the hook by which a host changes its own Python.
fn is_for_developers(path: &Path) -> bool {
    let mut parts = path.iter().skip(2).filter_map(|part| part.to_str());
    let Some(library) = parts.next() else {
        return false;
    };
    let python = path.starts_with("usr/lib") && library.starts_with("python3");
    let inside = parts.next().unwrap_or_default();
    python && (matches!(inside, "test" | "sitecustomize.py") || inside.starts_with("config-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_placed_as_on_a_host_with_merged_usr() {
        for (listed, wanted) in [
            ("/bin/bash", Some("usr/bin/bash")),
            ("/usr/bin/python3", Some("usr/bin/python3")),
            (
                "/lib64/ld-linux-x86-64.so.2",
                Some("usr/lib64/ld-linux-x86-64.so.2"),
            ),
            (
                "/lib/x86_64-linux-gnu/libc.so.6",
                Some("usr/lib/x86_64-linux-gnu/libc.so.6"),
            ),
            (
                "/usr/lib/python3.11/json/__init__.py",
                Some("usr/lib/python3.11/json/__init__.py"),
            ),
            (
                "/usr/share/zoneinfo/Europe/Berlin",
                Some("usr/share/zoneinfo/Europe/Berlin"),
            ),
            ("/etc/services", Some("etc/services")),
            (
                "/etc/ld.so.conf.d/libc.conf",
                Some("etc/ld.so.conf.d/libc.conf"),
            ),
            ("/etc/shadow", None),
            ("/etc/bash.bashrc", None),
            ("/sbin/ldconfig", None),
            ("/usr/sbin/chroot", None),
            ("/usr/include/node/node.h", None),
            ("/usr/lib/node_modules/npm/index.js", None),
            ("/usr/share/doc/bash/README", None),
            ("/usr/share/man/man1/ls.1.gz", None),
            ("/usr/share/locale/de/LC_MESSAGES/bash.mo", None),
            ("/usr/lib/python3.11/sitecustomize.py", None),
            ("/usr/lib/python3.11/test/support/__init__.py", None),
            ("/var/cache/ldconfig", None),
            ("/.", None),
        ] {
            assert_eq!(place(listed), wanted.map(PathBuf::from), "{listed}");
        }
    }
}
