//! What sessions said, judged.

use super::ground::{Ground, Said};

/// The lines of `text` that begin with one of these must be exactly these.
fn has_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(
            text.lines().any(|found| found == *line),
            "no line {line:?} in\n{text}"
        );
    }
}

pub(crate) fn every_measure() {
    let said = Ground::new().launch("look").expect("a session");
    let is = |key: &str, value: &str| assert_eq!(said[key], value, "{key}");
    has_lines(
        &said["status"],
        &[
            "CapInh:\t0000000000000000",
            "CapPrm:\t00000000000000e0",
            "CapEff:\t00000000000000e0",
            "CapBnd:\t0000000000000000",
            "CapAmb:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
            "Seccomp_filters:\t2",
            "Uid:\t0\t0\t0\t0",
            "Gid:\t0\t0\t0\t0",
            "Groups:\t ",
            "Umask:\t0077",
            "SigBlk:\t0000000000000000",
            "NSsid:\t1",
        ],
    );
    is("env", "0");
    assert!(
        said["cmdline"].starts_with("shim: test\0"),
        "{:?}",
        said["cmdline"]
    );
    is("app", "main.py");
    is(
        "devs",
        "fd,full,null,ptmx,pts,random,shm,stderr,stdin,stdout,tty,urandom,zero",
    );
    // The old root is not stacked on the new one.
    is("up", &said["root"]);
    is("net", "none");
    is("w_root", "30");
    is("w_app", "30");
    is("w_dev", "30");
    is("w_tmp", "0");
    is("w_null", "0");
    is("host", "localhost");
    is("lo", "true");
    has_lines(
        &said["limits"],
        &[
            "Max core file size        0                    0                    bytes     ",
            "Max open files            256                  256                  files     ",
            "Max processes             64                   64                   processes ",
            "Max realtime priority     0                    0                    ",
        ],
    );
    null_is_its_own(&said);
    mounts(&said["mountinfo"]);
}

/// The right device, on a file system of the session's own.
fn null_is_its_own(said: &Said) {
    use std::os::linux::fs::MetadataExt;
    let host = std::fs::metadata("/dev/null").expect("stat");
    let (device, on) = said["null"].split_once(' ').expect("two numbers");
    assert_eq!(device, format!("{:x}", host.st_rdev()));
    assert_ne!(on, host.st_dev().to_string());
}

fn mounts(table: &str) {
    let expected = [
        ("/", &["ro", "nosuid", "nodev"][..]),
        ("/app", &["ro", "nosuid", "nodev"]),
        (
            "/proc",
            &[
                "nosuid",
                "nodev",
                "noexec",
                "hidepid=invisible",
                "subset=pid",
            ],
        ),
        ("/dev", &["ro", "nosuid", "noexec", "nr_inodes=32"]),
        ("/dev/pts", &["nosuid", "noexec", "max=64"]),
        ("/dev/shm", &["nosuid", "nodev", "noexec", "size=2048k"]),
        ("/tmp", &["nosuid", "nodev", "size=8192k", "nr_inodes=2048"]),
        (
            "/home/agent",
            &["nosuid", "nodev", "size=8192k", "mode=700"],
        ),
    ];
    assert_eq!(table.lines().count(), expected.len(), "{table}");
    for (point, options) in expected {
        let line = table
            .lines()
            .find(|line| line.split(' ').nth(4) == Some(point))
            .unwrap_or_else(|| panic!("{point} is not mounted:\n{table}"));
        for option in options {
            assert!(
                line.split([' ', ',']).any(|found| found == *option),
                "{point}: no {option} in {line}"
            );
        }
        assert!(
            !line.contains("shared:") && !line.contains("master:"),
            "{line}"
        );
    }
}

pub(crate) fn agents() {
    let ground = Ground::new();
    let secret = ground.base().join("secret");
    std::fs::create_dir(&secret).expect("create");
    std::fs::set_permissions(secret, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .expect("mode");
    let said = ground.launch("agents").expect("a session");
    let agent = &said["agent"];
    has_lines(
        agent,
        &[
            // Three, and the one that lists them.
            "fds 0,1,2,3",
            // PID 1 does not show in /proc.
            "processes false",
            "CapInh:\t0000000000000000",
            "CapPrm:\t0000000000000000",
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "CapAmb:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp_filters:\t2",
            "Uid:\t1000\t1000\t1000\t1000",
            "Gid:\t1000\t1000\t1000\t1000",
            "Groups:\t ",
            "Umask:\t0022",
            "SigBlk:\t0000000000000000",
            "cwd /tmp",
            "env [(\"PATH\", \"/nowhere:usr/bin:/usr/bin\"), (\"SAID\", \"so\")]",
            "leader true",
            "deathsig Ok(Some(SIGKILL))",
            "kill Err(EPERM)",
            "tmp Ok(())",
            "home Ok(())",
        ],
    );
    for (key, expected) in [
        ("missing", "exec 2"),
        ("not_executable", "exec 13"),
        ("no_directory", "cwd 2"),
        // Entered as the agent, not as the shim.
        ("no_entry", "cwd 13"),
        ("root", "fork 1"),
        ("unmapped", "gid 22"),
        ("empty", "exec 2"),
        ("left", "5 true"),
    ] {
        assert_eq!(said[key], expected, "{key}");
    }
    assert!(
        said["tty"].starts_with("controlling true\n"),
        "{}",
        said["tty"]
    );
}

pub(crate) fn calls() {
    let said = Ground::new().launch("agents").expect("a session");
    let (eperm, enosys) = (libc::EPERM, libc::ENOSYS);
    for line in said["calls"].lines() {
        let Some((name, errno)) = line
            .split_once(' ')
            .filter(|(_, e)| e.parse::<i32>().is_ok())
        else {
            continue;
        };
        let expected = match name {
            "getpid" | "inet" => 0,
            // Not carried out: of no descriptor, and of no address.
            "fsync" | "msync" => 0,
            "clone3" | "x32_getpid" | "unknown" => enosys,
            _ => eperm,
        };
        assert_eq!(errno, expected.to_string(), "{name}");
    }
    assert!(said["calls"].lines().count() > 20);
}
