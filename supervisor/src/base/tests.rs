//! Root tier: a base is built from this host's packages, looked at, and used.

use super::build::Tree;
use super::*;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Output, Stdio};
use std::time::Instant;
use tempfile::TempDir;

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED (root tier): needs root for chroot and for files of root");
    }
    root
}

/// Runs a program in the base as an unprivileged user, with nothing mounted.
fn inside(base: &Base, program: &str, args: &[&str]) -> Output {
    Command::new("/usr/sbin/chroot")
        .args(["--userspec=65534:65534", "--groups="])
        .arg(&base.root)
        .arg(program)
        .args(args)
        .env_clear()
        .output()
        .expect("runs chroot")
}

fn succeeds(base: &Base, program: &str, args: &[&str]) -> String {
    let output = inside(base, program, args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Everything below, links not followed.
fn walk(dir: &Path, seen: &mut impl FnMut(&Path, &fs::Metadata)) {
    for entry in fs::read_dir(dir).expect("lists") {
        let path = entry.expect("entry").path();
        let meta = fs::symlink_metadata(&path).expect("is there");
        seen(&path, &meta);
        if meta.is_dir() {
            walk(&path, seen);
        }
    }
}

#[test]
fn the_hosts_packages_make_a_base_that_runs() {
    if !is_root() {
        return;
    }
    // As a service may run. Of the whole process: the other tests do not care either.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let state = TempDir::new().expect("temporary directory");
    let leftover = state.path().join("bases/.new-leftover/usr");
    fs::create_dir_all(&leftover).expect("directory");

    // Two daemons at once: one builds, both get it.
    let started = Instant::now();
    let base = std::thread::scope(|scope| {
        let other = scope.spawn(|| prepare(state.path(), None).expect("builds"));
        let base = prepare(state.path(), None).expect("builds");
        assert_eq!(other.join().expect("joins"), base);
        base
    });
    eprintln!("built in {:?}", started.elapsed());
    let started = Instant::now();
    assert_eq!(prepare(state.path(), None).expect("is there"), base);
    let again = started.elapsed();
    eprintln!("found again in {again:?}");
    let mut left: Vec<_> = fs::read_dir(state.path().join("bases"))
        .expect("lists")
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    left.sort();
    let name = base.root.file_name().expect("has a name");
    assert_eq!(
        left,
        [name, "lock".as_ref()],
        "the base, the lock, and no leftover"
    );

    check_files(&base);
    check_settings(&base);
    check_programs(&base);
    check_python(&base);

    // A base of ours would pass as one of the operator's.
    let given = prepare(Path::new("/nonexistent"), Some(&base.root)).expect("passes");
    assert_eq!((&given.root, &given.versions), (&base.root, &base.versions));
}

fn check_files(base: &Base) {
    let (mut files, mut bytes) = (0, 0);
    walk(&base.root, &mut |path, meta| {
        let kind = meta.file_type();
        assert!(
            kind.is_dir() || kind.is_file() || kind.is_symlink(),
            "{}",
            path.display()
        );
        assert!(!kind.is_socket() && !kind.is_block_device() && !kind.is_char_device());
        assert_eq!((meta.uid(), meta.gid()), (0, 0), "{}", path.display());
        if !kind.is_symlink() {
            let wanted = if meta.mode() & 0o111 != 0 {
                0o755
            } else {
                0o644
            };
            assert_eq!(meta.mode() & 0o7777, wanted, "{}", path.display());
        }
        if kind.is_file() {
            // A hard link would be the host's own file.
            assert_eq!(meta.nlink(), 1, "{}", path.display());
            files += 1;
            bytes += meta.len();
        }
    });
    eprintln!("{files} files, {} MiB", bytes >> 20);
    for point in MOUNT_POINTS {
        assert!(
            fs::symlink_metadata(base.root.join(point)).is_ok_and(|m| m.is_dir()),
            "{point}"
        );
    }
    for absent in [
        "usr/share/doc",
        "usr/share/man",
        "usr/include",
        "usr/lib/node_modules",
        "root",
        "etc/shadow",
        "var/cache",
    ] {
        assert!(!base.root.join(absent).exists(), "{absent}");
    }
    assert!(base.notes.is_empty(), "{:?}", base.notes);
}

fn check_settings(base: &Base) {
    let read = |path: &str| fs::read_to_string(base.root.join(path)).expect(path);
    assert_eq!(read("etc/hostname"), "localhost\n");
    assert!(
        read("etc/resolv.conf")
            .lines()
            .all(|line| line.starts_with('#'))
    );
    assert_eq!(
        read("usr/lib/os-release"),
        fs::read_to_string("/etc/os-release").expect("reads")
    );
    assert_eq!(
        fs::read_link(base.root.join("bin")).expect("is a link"),
        Path::new("usr/bin")
    );
    let own = fs::read_to_string("/etc/hostname").unwrap_or_default();
    let hosts = read("etc/hosts");
    assert!(
        own.trim() == "localhost" || !hosts.contains(own.trim()),
        "{hosts}"
    );
    assert!(base.root.join("etc/ld.so.cache").exists());
}

fn check_programs(base: &Base) {
    let said = succeeds(
        base,
        "/bin/sh",
        &[
            "-c",
            "ls / | grep -c app; id -un 1000; echo x | sed s/x/y/; find /etc -name passwd",
        ],
    );
    assert_eq!(said, "1\nagent\ny\n/etc/passwd");
    assert_eq!(
        succeeds(base, "/usr/bin/bash", &["-c", "echo $BASH_VERSION"])
            .split('(')
            .next(),
        Some(base.versions["bash"].as_str())
    );
    if Path::new("/usr/bin/node").exists() {
        assert_eq!(
            succeeds(
                base,
                "/usr/bin/node",
                &["-e", "console.log(process.versions.node)"]
            ),
            base.versions["node"]
        );
        succeeds(
            base,
            "/usr/bin/node",
            &[
                "-e",
                "require('crypto').randomBytes(8); require('http'); require('zlib')",
            ],
        );
    } else {
        eprintln!("SKIPPED node: not installed here");
        assert_eq!(base.versions.get("node"), None);
    }
}

fn check_python(base: &Base) {
    if !Path::new("/usr/bin/python3").exists() {
        eprintln!("SKIPPED python3: not installed here");
        return;
    }
    let version = succeeds(
        base,
        "/usr/bin/python3",
        &["-c", "import platform; print(platform.python_version())"],
    );
    assert_eq!(base.versions["python3"], version);
    // What the standard library is made of, and its parts that need a shared library each.
    let imports = "import ssl, json, asyncio, sqlite3, ctypes, bz2, lzma, zlib, hashlib, uuid, curses, readline, decimal, \
                   multiprocessing, unittest.mock, zoneinfo, xml.etree.ElementTree, http.server, email, mimetypes, locale; ";
    succeeds(
        base,
        "/usr/bin/python3",
        &[
            "-c",
            &format!("{imports} zoneinfo.ZoneInfo('Europe/Berlin')"),
        ],
    );
    let trusted = "import ssl; p = ssl.get_default_verify_paths(); import os; print(len(os.listdir(p.capath)) > 100)";
    assert_eq!(succeeds(base, "/usr/bin/python3", &["-c", trusted]), "True");

    succeeds(
        base,
        "/usr/bin/python3",
        &[
            "-c",
            "import locale; locale.setlocale(locale.LC_ALL, 'C.UTF-8')",
        ],
    );

    // Ours, found where sessions look; and nothing that is imported has to be compiled.
    let code = "import sys; sys.path.append('/opt/agentcore/python'); import bedrock_agentcore.runtime.app, asyncio, ssl, os; \
                loaded = [m for m in sys.modules.values() if getattr(m, '__cached__', None)]; \
                print(len(loaded) > 50, [m.__name__ for m in loaded if not os.path.exists(m.__cached__)])";
    assert_eq!(succeeds(base, "/usr/bin/python3", &["-c", code]), "True []");
    let stale = inside(
        base,
        "/usr/bin/python3",
        &["-v", "-c", "import asyncio, ssl, json"],
    );
    let said = String::from_utf8_lossy(&stale.stderr);
    assert!(
        said.contains("matches"),
        "python says which compiled files it takes"
    );
    assert!(
        !said.contains("stale") && !said.contains("could not create"),
        "compiled files do not fit"
    );
}

#[test]
fn a_link_in_the_tree_never_leads_to_the_hosts_files() {
    let top = TempDir::new().expect("temporary directory");
    let outside = top.path().join("outside");
    fs::create_dir(&outside).expect("directory");
    fs::write(top.path().join("source"), "x").expect("writes");
    let root = top.path().join("root");
    let mut tree = Tree::plant(root.clone()).expect("plants");
    symlink(&outside, root.join("usr/lib/link")).expect("links");
    symlink(outside.join("file"), root.join("usr/lib/file")).expect("links");
    for below in ["usr/lib/link/file", "usr/lib/file"] {
        tree.copy(&top.path().join("source"), Path::new(below))
            .expect("left out");
        tree.write(Path::new(below), b"x").expect_err("in the way");
    }
    assert_eq!(fs::read_dir(&outside).expect("lists").count(), 0);
    drop(tree);
    assert!(!root.exists(), "an unfinished tree is removed");
    assert!(outside.exists());
}

#[test]
fn libraries_that_no_package_brought_are_found_and_those_of_libraries_too() {
    let top = TempDir::new().expect("temporary directory");
    let mut tree = Tree::plant(top.path().join("root")).expect("plants");
    // ls needs libselinux, which needs libpcre2; all of them libc.
    tree.copy(Path::new("/bin/ls"), Path::new("usr/bin/ls"))
        .expect("copies");
    let missing = library::complete(&mut tree).expect("completes");
    assert_eq!(missing, [""; 0]);
    let mut names: Vec<String> = tree.file_names().collect();
    names.sort();
    for wanted in [
        "libc.so.6",
        "ld-linux-x86-64.so.2",
        "libselinux.so.1",
        "libpcre2-8.so.0",
    ] {
        assert_eq!(
            names.iter().filter(|name| *name == wanted).count(),
            1,
            "{wanted} in {names:?}"
        );
    }
    // A library that this host does not have either is named, with who wants it.
    let broken = top.path().join("broken");
    let program = fs::read("/bin/ls").expect("reads");
    let name = b"libselinux.so.1";
    let at = program
        .windows(name.len())
        .position(|w| w == name)
        .expect("ls needs it");
    let mut changed = program.clone();
    changed[at..at + name.len()].copy_from_slice(b"libnonesuch.so9");
    fs::write(&broken, changed).expect("writes");
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).expect("chmod");
    tree.copy(&broken, Path::new("usr/bin/broken"))
        .expect("copies");
    let missing = library::complete(&mut tree).expect("completes");
    assert_eq!(missing, ["libnonesuch.so9 (wanted by /usr/bin/broken)"]);
}

#[test]
fn copies_have_no_privilege_and_secrets_stay_behind() {
    let top = TempDir::new().expect("temporary directory");
    let source = |name: &str, mode| {
        let path = top.path().join(name);
        fs::write(&path, "x").expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        path
    };
    let root = top.path().join("root");
    let mut tree = Tree::plant(root.clone()).expect("plants");
    for (name, mode, wanted) in [
        ("suid", 0o6755, Some(0o755)),
        ("open", 0o666, Some(0o644)),
        ("odd", 0o555, Some(0o755)),
        ("secret", 0o640, None),
    ] {
        tree.copy(&source(name, mode), Path::new(&format!("usr/bin/{name}")))
            .expect("copies");
        let found = fs::metadata(root.join("usr/bin").join(name))
            .ok()
            .map(|m| m.mode() & 0o7777);
        assert_eq!(found, wanted, "{name}");
    }
    let pipe = top.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("makes");
    tree.copy(&pipe, Path::new("usr/bin/pipe"))
        .expect("left out");
    assert!(!root.join("usr/bin/pipe").exists());
}

#[test]
fn every_fault_of_a_given_base_is_told_at_once() {
    let root = TempDir::new().expect("temporary directory");
    let given = |path: &Path| check_given(path).expect_err("unusable").to_string();
    assert!(given(Path::new("relative")).contains("absolute"));
    assert!(given(&root.path().join("none")).contains("cannot be looked at"));

    fs::create_dir_all(root.path().join("usr/lib")).expect("directory");
    fs::set_permissions(
        root.path().join("usr/lib"),
        fs::Permissions::from_mode(0o777),
    )
    .expect("chmod");
    for point in ["proc", "dev", "tmp", "app", "home", "run", "etc"] {
        fs::create_dir(root.path().join(point)).expect("directory");
    }
    symlink("/tmp", root.path().join("home/agent")).expect("links");
    let said = given(root.path());
    for wanted in [
        "no /usr/bin",
        "/usr/lib must belong to root",
        "/home/agent, /mnt",
    ] {
        assert!(said.contains(wanted), "{said}");
    }
    assert!(!said.contains("/proc"), "{said}");
}

fn check_given(root: &Path) -> Result<Base> {
    prepare(Path::new("/nonexistent"), Some(root))
}

#[test]
fn old_bases_go_unless_a_process_has_them_mounted() {
    if !is_root() {
        return;
    }
    let state = TempDir::new().expect("temporary directory");
    let bases = state.path().join("bases");
    let [current, unused, used] = ["0", "1", "2"].map(|digit| digit.repeat(32));
    for name in [&current, &unused, &used, "operators-own"] {
        fs::create_dir_all(bases.join(name).join("usr")).expect("directory");
    }
    let mut session = Command::new("unshare")
        .args([
            "--mount",
            "sh",
            "-c",
            "mount --bind \"$1\" /mnt && echo mounted && exec sleep 60",
            "sh",
        ])
        .arg(bases.join(&used))
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut said = [0; 8];
    session
        .stdout
        .take()
        .expect("piped")
        .read_exact(&mut said)
        .expect("mounted");
    let keep = Base {
        root: bases.join(&current),
        versions: BTreeMap::new(),
        notes: Vec::new(),
    };
    assert_eq!(prune(state.path(), &keep).expect("prunes"), [unused]);
    for stays in [&current, &used, "operators-own"] {
        assert!(bases.join(stays).join("usr").is_dir(), "{stays}");
    }
    session.kill().expect("kills");
    session.wait().expect("waits");
    assert_eq!(prune(state.path(), &keep).expect("prunes"), [used]);
}
