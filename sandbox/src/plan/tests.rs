//! Tier 1: the plan itself, line by line. A change of order or of a flag shows here as a change of text.

use super::*;
use std::collections::BTreeSet;

fn spec() -> SessionSpec {
    SessionSpec {
        uid_base: 2_000_000_000,
        tmp_bytes: 64 << 20,
        nofile: 1024,
        nproc: 128,
        staging: PathBuf::from("/run/agentcore/staging"),
        storage: true,
        core_is_piped: false,
        filters: crate::seccomp::filters().expect("filters"),
        lineage: crate::plan::Lineage::Host,
    }
}

#[test]
fn the_plan_is_the_one_that_was_read_and_agreed_to() {
    let plan = compile(&spec()).expect("plan").to_string();
    let golden = include_str!("golden.txt");
    for (number, (now, then)) in plan.lines().zip(golden.lines()).enumerate() {
        assert_eq!(now, then, "line {}", number + 1);
    }
    assert_eq!(plan.lines().count(), golden.lines().count(), "{plan}");
}

#[test]
fn names_are_unique() {
    let names = compile(&spec()).expect("plan").names();
    let unique: BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len());
}

#[test]
fn without_storage_nothing_of_it_is_left() {
    let plan = compile(&SessionSpec {
        storage: false,
        ..spec()
    })
    .expect("plan");
    assert!(
        plan.names()
            .iter()
            .all(|name| !name.starts_with("storage."))
    );
}

#[test]
fn what_a_session_gets_follows_from_its_spec_alone() {
    let line = |spec: &SessionSpec, name: &str| {
        let text = compile(spec).expect("plan").to_string();
        let with = |line: &&str| line.split_whitespace().nth(1) == Some(name);
        text.lines().find(with).map(str::to_owned).expect("line")
    };
    let small = SessionSpec {
        tmp_bytes: 1 << 20,
        ..spec()
    };
    // Few bytes do not mean few inodes: a package of many small files fits.
    assert!(line(&small, "tmp.mount").contains("size=1048576 nr_inodes=1024"));
    let piped = SessionSpec {
        core_is_piped: true,
        ..spec()
    };
    assert!(line(&spec(), "rlimit.core").ends_with(" 0"));
    assert!(line(&piped, "rlimit.core").ends_with(" 1"));
    let other = SessionSpec {
        uid_base: 5,
        ..spec()
    };
    assert!(line(&other, "idmap.uid").ends_with("uid_map: 0 5 1, 1000 6 1"));
}

#[test]
fn privileges_go_before_the_filters_and_exec_is_last() {
    let names = compile(&spec()).expect("plan").names();
    let at = |name| names.iter().position(|n| *n == name).expect("step");
    let order = [
        "ns.user",
        "idmap.setgroups",
        "idmap.gid",
        "dumpable",
        "mounts.private",
        "rootfs.attach",
        "identity",
        "rootfs.pivot",
        "rootfs.detach_old",
        "keyring.session",
        "no_new_privs",
        "caps.permitted",
        "close_range",
        "seccomp.allowed",
        "seccomp.forbidden",
        "exec",
    ];
    assert!(order.map(at).is_sorted(), "{names:?}");
    assert_eq!(names.last(), Some(&"exec"));
}

#[test]
fn a_null_byte_in_a_path_is_no_plan() {
    let spec = SessionSpec {
        staging: PathBuf::from("/run/a\0b"),
        ..spec()
    };
    assert!(compile(&spec).is_err());
}

#[test]
fn a_template_maps_the_uids_of_all_sessions_once() {
    let plan = compile(&SessionSpec {
        lineage: Lineage::Template {
            uids: 1_999_999_984..2_000_001_000,
        },
        ..spec()
    });
    let text = plan.expect("plan").to_string();
    let expected =
        "0 2000000000 1, 1000 2000000001 1, 1999999984 1999999984 16, 2000000002 2000000002 998";
    assert!(
        text.contains(&format!("idmap.uid            uid_map: {expected}\n")),
        "{text}"
    );
}

/// But for where the namespaces are, a session below a template is made as every other.
#[test]
fn a_session_below_a_template_has_every_measure() {
    let lines = |lineage| -> Vec<String> {
        let plan = compile(&SessionSpec { lineage, ..spec() }).expect("plan");
        plan.to_string().lines().map(str::to_owned).collect()
    };
    let fork = Lineage::Fork {
        shares: Shares::of(1280, 12_800),
    };
    let (below, cold) = (lines(fork), lines(Lineage::Host));
    let more: Vec<_> = below.iter().filter(|line| !cold.contains(line)).collect();
    let less: Vec<_> = cold.iter().filter(|line| !below.contains(line)).collect();
    assert_eq!(
        more,
        [
            "usher template.user        the template's",
            "usher template.pid         the template's",
            "usher template.owner       uid 1000, gid 1000",
            "clone ns.net               0x40000000",
            "child inotify.share        10 in /proc/sys/user/max_inotify_instances",
            "child inotify.watches      100 in /proc/sys/user/max_inotify_watches",
            "child net.loopback",
        ]
    );
    assert_eq!(
        less,
        [
            "place ns.net               of its own",
            "place net.loopback",
            "order ns.owner             euid 2000000000",
        ]
    );
}
