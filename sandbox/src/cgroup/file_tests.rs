//! File tier: both backends over ordinary files in a temporary directory that are laid out as the kernel does.

use super::hierarchy::{Hierarchies, V1Mount};
use super::*;
use std::fs;
use tempfile::TempDir;

const LIMITS: Limits = Limits {
    memory_bytes: 256 << 20,
    cpu_millis: 1500,
    pids: 99,
    cpu_weight: 50,
    io: None,
};

/// A hierarchy's mount point with the instance's directory, and files of that content in both.
fn hierarchy(top: &Path, files: &[(&str, &str)]) {
    for dir in [top.to_owned(), top.join("agentcore-t1")] {
        fill(&dir, files);
    }
}

fn fill(dir: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(dir).expect("temporary directory");
    for (file, text) in files {
        fs::write(dir.join(file), text).expect("file");
    }
}

fn text(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn v2(controllers: &str) -> (TempDir, Hierarchies) {
    let top = TempDir::new().expect("temporary directory");
    let files = [
        ("cgroup.controllers", controllers),
        ("cgroup.subtree_control", ""),
    ];
    hierarchy(top.path(), &files);
    let found = Hierarchies {
        v1: Vec::new(),
        unified: Some(top.path().to_owned()),
    };
    (top, found)
}

#[test]
fn v2_writes_limits_and_reads_counters() {
    let (top, found) = v2("cpuset cpu io memory pids");
    let root = CgroupRoot::open_in(&found, "t1", None).expect("opens");
    let session = root.create("s1").expect("creates");
    let dir = top.path().join("agentcore-t1/s1");
    let controls = [
        "memory.max",
        "memory.swap.max",
        "memory.oom.group",
        "cpu.max",
        "cpu.weight",
        "pids.max",
        "io.max",
    ];
    fill(&dir, &controls.map(|file| (file, "")));
    let io = IoLimits {
        device: (254, 0),
        write_bps: Some(1 << 20),
        ..IoLimits::default()
    };
    session
        .apply(&Limits {
            io: Some(io),
            ..LIMITS
        })
        .expect("applies");
    let written = controls.map(|file| text(dir.join(file)));
    let wanted = [
        "268435456",
        "0",
        "1",
        "150000 100000",
        "50",
        "99",
        "254:0 rbps=max wbps=1048576 riops=max wiops=max",
    ];
    assert_eq!(written, wanted);
    session.spare().expect("writes");
    assert_eq!(text(dir.join("memory.oom.group")), "0");

    fill(
        &dir,
        &[
            (
                "cpu.stat",
                "usage_usec 1234\nuser_usec 1000\nsystem_usec 234\n",
            ),
            ("memory.current", "4096\n"),
            ("memory.peak", "8192\n"),
            ("pids.current", "3\n"),
            (
                "memory.events",
                "low 0\nhigh 0\nmax 7\noom 1\noom_kill 2\noom_group_kill 1\n",
            ),
        ],
    );
    assert_eq!(
        session.counters().expect("reads"),
        Counters {
            cpu_us: 1234,
            memory_bytes: 4096,
            memory_peak_bytes: 8192,
            pids: 3,
            oom_kills: 2
        }
    );
    assert_eq!(session.oom_kills().expect("reads"), 2);
    let gauge = session.gauge().expect("opens");
    fill(
        &dir,
        &[
            ("cpu.stat", "usage_usec 2345\nuser_usec 1000\n"),
            ("memory.stat", "anon 9\nfile 3\nshmem 77\n"),
        ],
    );
    let sample = Sample {
        cpu_us: 2345,
        memory_bytes: 4096,
        peak_bytes: 8192,
    };
    assert_eq!(gauge.read().expect("reads"), sample);
    assert_eq!(session.tmp_bytes().expect("reads"), 77);
    fill(&dir, &[("cpu.stat", "user_usec 1\n")]);
    gauge.read().expect_err("no usage_usec line");
    fill(&dir, &[("cpu.stat", "usage_usec 2345\n")]);
    assert!(session.clone_target().is_some());
    let watch = session.oom_event().expect("nothing to open");
    assert!(
        watch.is_none(),
        "a watch of each session has a limit of its own (fs.inotify.max_user_instances)"
    );
    fill(&dir, &[("memory.events", "max 7\n")]);
    let fault = session.counters().expect_err("no oom_kill line");
    assert!(fault.to_string().contains("s1/memory.events"), "{fault}");
}

#[test]
fn v2_enables_only_what_is_not_enabled_yet() {
    let (top, found) = v2("cpuset cpu memory pids");
    let fill_both = |text| hierarchy(top.path(), &[("cgroup.subtree_control", text)]);
    let found_in = |dir: &str| text(top.path().join(dir).join("cgroup.subtree_control"));
    fill_both("memory cpu");
    CgroupRoot::open_in(&found, "t1", None).expect("opens without io");
    // An ordinary file keeps what was there behind what is written; the kernel takes each write as an order.
    assert_eq!([found_in(""), found_in("agentcore-t1")], ["+pidsy cpu"; 2]);
    fill_both("memory cpu pids");
    CgroupRoot::open_in(&found, "t1", None).expect("opens");
    assert_eq!(
        [found_in(""), found_in("agentcore-t1")],
        ["memory cpu pids"; 2]
    );
}

#[test]
fn v2_names_the_controller_that_a_delegation_lacks() {
    let (top, found) = v2("cpu io memory pids");
    fill(
        &top.path().join("agentcore-t1"),
        &[("cgroup.controllers", "cpu memory\n")],
    );
    let fault = CgroupRoot::open_in(&found, "t1", None).expect_err("no pids below");
    let said = fault.to_string();
    assert!(
        said.contains("`pids`") && said.contains("agentcore-t1"),
        "{said}"
    );
}

#[test]
fn without_a_parent_the_sessions_unit_is_used_where_it_exists() {
    let (top, found) = v2("cpu memory pids");
    let unit = "agentcore.slice/agentcore-sessions.service";
    for below in ["agentcore.slice", unit, &format!("{unit}/agentcore-t1")] {
        let files = [
            ("cgroup.controllers", "cpu memory pids"),
            ("cgroup.subtree_control", ""),
        ];
        fill(&top.path().join(below), &files);
    }
    let root = CgroupRoot::open_in(&found, "t1", None).expect("opens");
    assert_eq!(root.paths(), [top.path().join(unit).join("agentcore-t1")]);
    let root = CgroupRoot::open_in(&found, "t1", Some("")).expect("opens");
    assert_eq!(root.paths(), [top.path().join("agentcore-t1")]);
}

fn hybrid() -> (TempDir, Hierarchies) {
    let top = TempDir::new().expect("temporary directory");
    let names = [
        "cpu,cpuacct",
        "memory",
        "pids",
        "devices",
        "freezer",
        "cpuset",
    ];
    let v1 = names.map(|name| V1Mount {
        controllers: name.split(',').map(str::to_owned).collect(),
        path: top.path().join(name),
    });
    for mount in &v1 {
        hierarchy(&mount.path, &[("cgroup.procs", "")]);
    }
    let cpuset = top.path().join("cpuset");
    fill(&cpuset, &[("cpuset.cpus", "0-3\n"), ("cpuset.mems", "0\n")]);
    fill(
        &cpuset.join("agentcore-t1"),
        &[
            ("cpuset.cpus", ""),
            ("cpuset.mems", ""),
            ("cgroup.clone_children", ""),
        ],
    );
    hierarchy(&top.path().join("unified"), &[("cgroup.controllers", "")]);
    let found = Hierarchies {
        v1: v1.to_vec(),
        unified: Some(top.path().join("unified")),
    };
    (top, found)
}

#[test]
fn v1_writes_limits_in_each_hierarchy() {
    let (top, found) = hybrid();
    let root = CgroupRoot::open_in(&found, "t1", None).expect("opens");
    let cpuset = top.path().join("cpuset/agentcore-t1");
    assert_eq!(text(cpuset.join("cpuset.cpus")), "0-3");
    assert_eq!(text(cpuset.join("cgroup.clone_children")), "1");

    let session = root.create("s1").expect("creates");
    let dir = |hierarchy: &str| top.path().join(hierarchy).join("agentcore-t1/s1");
    fill(
        &dir("memory"),
        &[
            ("memory.limit_in_bytes", ""),
            ("memory.memsw.limit_in_bytes", "9223372036854771712\n"),
            ("memory.kmem.tcp.limit_in_bytes", ""),
        ],
    );
    fill(
        &dir("cpu,cpuacct"),
        &[
            ("cpu.cfs_period_us", ""),
            ("cpu.cfs_quota_us", ""),
            ("cpu.shares", ""),
        ],
    );
    fill(&dir("pids"), &[("pids.max", "")]);
    fill(
        &dir("devices"),
        &[("devices.deny", ""), ("devices.allow", "")],
    );
    session.apply(&LIMITS).expect("applies");
    assert_eq!(
        text(dir("memory").join("memory.limit_in_bytes")),
        "268435456"
    );
    assert!(text(dir("memory").join("memory.memsw.limit_in_bytes")).starts_with("268435456"));
    assert_eq!(
        text(dir("memory").join("memory.kmem.tcp.limit_in_bytes")),
        "268435456"
    );
    assert_eq!(text(dir("cpu,cpuacct").join("cpu.cfs_quota_us")), "150000");
    assert_eq!(text(dir("cpu,cpuacct").join("cpu.shares")), "512");
    assert_eq!(text(dir("pids").join("pids.max")), "99");
    assert_eq!(text(dir("devices").join("devices.deny")), "a");
    assert_eq!(text(dir("devices").join("devices.allow")), "c 136:* rw");
    assert!(
        session.clone_target().is_none(),
        "cloning would miss the v1 hierarchies"
    );

    // Fail closed: a hierarchy that lost the session is an error, not a limit less.
    fs::remove_dir_all(dir("pids")).expect("removes");
    let fault = session.apply(&LIMITS).expect_err("no pids directory");
    assert!(fault.to_string().contains("pids.max"), "{fault}");
    assert_eq!(fault.errno(), libc::ENOENT);
    assert!(
        root.open_existing("s1").is_ok(),
        "so that it can be cleaned up"
    );
}

#[test]
fn io_limits_are_refused_where_no_hierarchy_enforces_them() {
    let (_top, found) = hybrid();
    let root = CgroupRoot::open_in(&found, "t1", None).expect("opens");
    let session = root.create("s1").expect("creates");
    for (hierarchy, files) in [
        ("memory", &["memory.limit_in_bytes"][..]),
        (
            "cpu,cpuacct",
            &["cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.shares"],
        ),
        ("pids", &["pids.max"]),
        ("devices", &["devices.deny", "devices.allow"]),
    ] {
        for file in files {
            fill(
                &_top.path().join(hierarchy).join("agentcore-t1/s1"),
                &[(file, "")],
            );
        }
    }
    let limits = Limits {
        io: Some(IoLimits::default()),
        ..LIMITS
    };
    let fault = session.apply(&limits).expect_err("no blkio");
    assert!(fault.to_string().contains("`blkio`"), "{fault}");
}

#[test]
fn names_and_limits_are_checked() {
    let (_top, found) = v2("cpu memory pids");
    for bad in [
        "",
        ".",
        "..",
        "a/b",
        "a\0b",
        ".hidden",
        "ä",
        &"x".repeat(65),
    ] {
        assert!(
            matches!(
                CgroupRoot::open_in(&found, bad, None),
                Err(CgroupError::Name(_))
            ),
            "{bad:?}"
        );
    }
    let root = CgroupRoot::open_in(&found, "t1", None).expect("opens");
    assert!(matches!(root.create("../x"), Err(CgroupError::Name(_))));
    assert!(matches!(
        root.open_existing("nobody"),
        Err(CgroupError::Unknown(_))
    ));
    assert!(matches!(
        CgroupRoot::open_in(&found, "t1", Some("a/../b")),
        Err(CgroupError::Name(_))
    ));
    let session = root.create("s1").expect("creates");
    for (bad, limit) in [
        (
            Limits {
                memory_bytes: 0,
                ..LIMITS
            },
            "memory",
        ),
        (
            Limits {
                memory_bytes: u64::MAX,
                ..LIMITS
            },
            "memory",
        ),
        (
            Limits {
                cpu_millis: 9,
                ..LIMITS
            },
            "cpu",
        ),
        (Limits { pids: 0, ..LIMITS }, "pids"),
    ] {
        let fault = session.apply(&bad).expect_err("out of bounds");
        assert!(
            matches!(fault, CgroupError::Limit { limit: l, .. } if l == limit),
            "{fault}"
        );
    }
}

#[test]
fn a_symlink_in_place_of_a_session_is_not_followed() {
    let (top, found) = v2("cpu memory pids");
    let root = CgroupRoot::open_in(&found, "t1", None).expect("opens");
    let elsewhere = top.path().join("elsewhere");
    fill(&elsewhere, &[("memory.max", "")]);
    std::os::unix::fs::symlink(&elsewhere, top.path().join("agentcore-t1/s1")).expect("link");
    let fault = root.open_existing("s1").expect_err("a link");
    assert!(matches!(fault, CgroupError::Unknown(_)), "{fault}");
    assert!(root.create("s1").is_err());
    assert_eq!(text(elsewhere.join("memory.max")), "");
}

#[test]
fn v2_limits_are_read_back_and_changed_one_by_one() {
    let (top, found) = v2("cpu memory pids");
    let root = CgroupRoot::open_in(&found, "t1", None).expect("opens");
    let session = root.create("s1").expect("creates");
    let dir = top.path().join("agentcore-t1/s1");
    fill(
        &dir,
        &[
            ("memory.max", "max\n"),
            ("cpu.max", "max 100000\n"),
            ("cpu.weight", "100\n"),
            ("pids.max", "max\n"),
            ("memory.current", "1000000\n"),
            ("memory.stat", "anon 400000\nfile 600000\nshmem 0\n"),
        ],
    );
    let none = Enforced {
        memory_bytes: None,
        cpu_millis: None,
        pids: None,
        cpu_weight: WEIGHT,
    };
    assert_eq!(session.enforced().expect("reads"), none);
    // A file of the kernel's has what was written last, and no more of what was there before.
    fill(
        &dir,
        &["memory.max", "cpu.max", "cpu.weight", "pids.max"].map(|file| (file, "")),
    );
    let soon = || std::time::Instant::now() + std::time::Duration::from_secs(1);
    session.set_memory(64 << 20, soon()).expect("writes");
    session.set_cpu(2500).expect("writes");
    session.set_pids(12).expect("writes");
    session.set_cpu_weight(30).expect("writes");
    assert_eq!(text(dir.join("cpu.max")), "250000 100000");
    let changed = Enforced {
        memory_bytes: Some(64 << 20),
        cpu_millis: Some(2500),
        pids: Some(12),
        cpu_weight: 30,
    };
    assert_eq!(session.enforced().expect("reads"), changed);
    // Below what is held: nothing is written, least of all `memory.max`, which would kill.
    fill(
        &dir,
        &[
            ("memory.stat", "anon 900000\nshmem 90000\n"),
            ("memory.reclaim", ""),
        ],
    );
    let fault = session.set_memory(900_000, soon()).expect_err("in use");
    assert!(
        matches!(
            fault,
            CgroupError::InUse {
                used: 1_000_000,
                ..
            }
        ),
        "{fault}"
    );
    assert_eq!(text(dir.join("memory.reclaim")), "");
    assert_eq!(session.enforced().expect("reads"), changed);
}

#[test]
fn what_all_sessions_may_have_together_is_written_on_the_instance() {
    let (top, found) = v2("cpu memory pids");
    let root = CgroupRoot::open_in(&found, "t1", None).expect("opens");
    let dir = top.path().join("agentcore-t1");
    let files = ["memory.max", "cpu.max", "pids.max", "cpu.weight"];
    let soon = || std::time::Instant::now() + std::time::Duration::from_secs(1);
    let unlimited = ["max\n", "max 100000\n", "max\n", "100\n"];
    let in_use = [
        ("memory.current", "1000000\n"),
        ("memory.stat", "anon 1000000\nfile 0\nshmem 0\n"),
    ];
    for (file, text) in files.into_iter().zip(unlimited).chain(in_use) {
        fill(&dir, &[(file, text)]);
    }
    let slice = Slice {
        memory_bytes: Some(8 << 30),
        cpu_millis: Some(3000),
        pids: Some(5000),
        cpu_weight: 50,
    };
    // A file of the kernel's has what was written last, and no more of what was there before.
    let now = || {
        files.map(|file| {
            let text = text(dir.join(file));
            text.lines().next().unwrap_or_default().to_owned()
        })
    };
    let limit = |slice: &Slice| {
        let outcome = root.limit_all(slice, soon());
        (outcome, now())
    };
    let (outcome, written) = limit(&slice);
    outcome.expect("writes");
    assert!(written[0].starts_with("8589934592"), "{written:?}");
    assert!(written[1].starts_with("300000 100000"), "{written:?}");
    assert!(written[2].starts_with("5000"), "{written:?}");
    assert!(written[3].starts_with("50"), "{written:?}");
    // Below what is held: refused, and nothing has changed, the quota neither.
    for (file, text) in files
        .into_iter()
        .zip(["8589934592\n", "300000 100000\n", "5000\n", "50\n"])
    {
        fill(&dir, &[(file, text)]);
    }
    let less = Slice {
        memory_bytes: Some(4096),
        cpu_millis: Some(1000),
        ..slice
    };
    let (outcome, written) = limit(&less);
    let fault = outcome.expect_err("in use");
    assert!(matches!(fault, CgroupError::InUse { .. }), "{fault}");
    assert!(written[1].starts_with("300000 100000"), "{written:?}");
    assert_eq!(root.all_enforced().expect("reads"), slice);
    // What is not wanted any more is taken away.
    for file in files {
        fill(&dir, &[(file, "")]);
    }
    for (file, text) in files.into_iter().zip(["1\n", "1 100000\n", "1\n", "1\n"]) {
        fill(&dir, &[(file, text)]);
    }
    let (outcome, written) = limit(&Slice::default());
    outcome.expect("writes");
    assert_eq!(written, ["max", "max 100000", "max", "100"]);
}

#[test]
fn pressure_is_that_of_the_last_ten_seconds() {
    let (top, found) = v2("cpu memory pids");
    let root = CgroupRoot::open_in(&found, "t1", None).expect("opens");
    let session = root.create("s1").expect("creates");
    assert_eq!(session.pressure().expect("reads"), None);
    let line = "some avg10=12.50 avg60=1.00 avg300=0.00 total=7\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=7\n";
    let dir = top.path().join("agentcore-t1/s1");
    fill(&dir, &[("memory.pressure", line)]);
    let found = session.pressure().expect("reads").expect("is there");
    assert_eq!((found.memory, found.cpu), (12.5, 0.0));
}

#[test]
fn on_v1_nothing_is_below_a_unit() {
    for (configured, used) in [
        (
            "agentcore.slice/agentcore-sessions.service",
            "agentcore-sessions",
        ),
        ("system.slice/docker-1.2.scope/", "docker-1.2"),
        ("user.slice/mine", "mine"),
        ("machine.slice", "machine"),
        ("teams/agents", "teams/agents"),
        ("", ""),
    ] {
        assert_eq!(super::beside_units(configured), used, "{configured}");
    }
}
