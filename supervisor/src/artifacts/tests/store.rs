//! Receiving, keeping and deleting.

use super::make_tar;
use super::make_zip::{self, directory, file, stored, symlink, with_mode, zip};
use super::*;
use std::os::unix::fs::MetadataExt;

#[test]
fn a_bundle_is_unpacked_as_it_was_packed() {
    let ground = Ground::new();
    let packed = zip(&[
        directory("lib/"),
        file("agent.py", b"print(1)"),
        with_mode(0o100_755, stored("bin/run", b"#!/bin/sh")),
        symlink("lib/latest", "../agent.py"),
        file("lib/ä.txt", "ö".as_bytes()),
    ]);
    let artifact = ground.upload(&packed).expect("sound");
    let found = listing(&ground.tree(&artifact.id));
    let found: Vec<_> = found
        .iter()
        .map(|(path, what)| format!("{path}: {what}"))
        .collect();
    assert_eq!(
        found,
        [
            "agent.py: f - print(1)",
            "bin: d",
            "bin/run: f x #!/bin/sh",
            "lib: d",
            "lib/latest: l ../agent.py",
            "lib/ä.txt: f - ö",
        ]
    );
    assert_eq!(artifact.packed_bytes, packed.len() as u64);
    assert_eq!((artifact.unpacked_bytes, artifact.entries), (8 + 9 + 2, 6));
    assert_eq!(
        ground.files.measures(&artifact.id).expect("read"),
        Some(artifact.clone())
    );
    assert_eq!(ground.files.list().expect("listed"), [artifact.id]);
}

#[test]
fn everyone_may_read_and_nobody_gains_by_modes() {
    let ground = Ground::new();
    let archive = make_tar::tar_gz(&[
        make_tar::directory("d").number(100, 8, 0o3700),
        make_tar::file("d/private", b"x").number(100, 8, 0o600),
        make_tar::file("d/open", b"x").number(100, 8, 0o1666),
        make_tar::file("d/run", b"x").number(100, 8, 0o711),
        make_tar::file("old", b"x").number(136, 12, 0),
    ]);
    let artifact = ground.upload(&archive).expect("sound");
    let tree = ground.tree(&artifact.id);
    for (path, mode) in [
        ("", 0o755),
        ("d", 0o755),
        ("d/private", 0o644),
        ("d/open", 0o644),
        ("d/run", 0o755),
    ] {
        let found = fs::metadata(tree.join(path)).expect("there").mode();
        assert_eq!(found & 0o7777, mode, "{path}: {found:o}");
    }
    // .pyc files remember this time of their source.
    assert_eq!(
        fs::metadata(tree.join("d/run")).expect("there").mtime(),
        1_700_000_000
    );
    assert_eq!(
        fs::metadata(tree.join("old")).expect("there").mtime(),
        315_532_800
    );
    // Only the broker itself gets to the trees by name; sessions get a descriptor.
    let parent = ground.directory.path().join("artifacts/sha256");
    assert_eq!(fs::metadata(parent).expect("there").mode() & 0o777, 0o700);
}

#[test]
fn times_of_zip_entries_come_from_the_field_that_has_a_zone() {
    let ground = Ground::new();
    let mut with_zone = file("zone.py", b"1");
    let mut field = vec![1];
    field.extend(1_600_000_001_u32.to_le_bytes());
    with_zone.extra = make_zip::extra(0x5455, &field);
    let artifact = ground
        .upload(&zip(&[with_zone, file("dos.py", b"1")]))
        .expect("sound");
    let time = |name: &str| {
        fs::metadata(ground.tree(&artifact.id).join(name))
            .expect("there")
            .mtime()
    };
    assert_eq!(time("zone.py"), 1_600_000_001);
    // 2024-01-01 in the builder's calendar.
    assert_eq!(time("dos.py"), 1_704_067_200);
}

#[test]
fn the_same_bytes_are_the_same_bundle() {
    let ground = Ground::new();
    let packed = zip(&[file("a", b"1")]);
    let first = ground.upload(&packed).expect("sound");
    let inode = fs::metadata(ground.tree(&first.id)).expect("there").ino();
    let second = ground.upload(&packed).expect("sound");
    assert_eq!(first, second);
    assert_eq!(
        fs::metadata(ground.tree(&first.id)).expect("there").ino(),
        inode
    );
    let id = "a7e4a3ae";
    assert!(
        !first.id.as_str().starts_with(id),
        "the id is a hash, not a constant"
    );
    // Two at the same time: the first to publish stays.
    let other = zip(&[file("a", b"2")]);
    let unpacked = [(); 2].map(|()| {
        let mut upload = ground.files.begin_upload().expect("begins");
        upload.write(&other).expect("written");
        upload.unpack().expect("sound")
    });
    let [one, two] = unpacked.map(|unpacked| unpacked.publish().expect("published"));
    assert_eq!(one, two);
    assert_eq!(
        fs::read_dir(ground.directory.path().join("artifacts/incoming"))
            .expect("listed")
            .count(),
        0
    );
}

#[test]
fn an_upload_that_is_given_up_leaves_nothing() {
    let ground = Ground::new();
    let mut upload = ground.files.begin_upload().expect("begins");
    upload
        .write(&zip(&[file("a", &noise(100_000))]))
        .expect("written");
    drop(upload);
    assert_eq!(ground.all(), Ground::new().all());
    let mut upload = ground.files.begin_upload().expect("begins");
    upload.write(&zip(&[file("a", b"1")])).expect("written");
    let unpacked = upload.unpack().expect("sound");
    assert_ne!(ground.all(), Ground::new().all());
    drop(unpacked);
    assert_eq!(ground.all(), Ground::new().all());
}

#[test]
fn packed_bytes_are_bounded_while_they_come() {
    let packed = zip(&[stored("a", &noise(1000))]);
    let length = packed.len() as u64;
    let ground = Ground::with(Bounds {
        packed: length - 1,
        ..Bounds::default()
    });
    let error = ground.upload(&packed).expect_err("too large");
    assert_eq!(error.code(), proto::code::ErrorCode::PayloadTooLarge);
    assert_eq!(ground.all(), Ground::new().all());
    Ground::with(Bounds {
        packed: length,
        ..Bounds::default()
    })
    .upload(&packed)
    .expect("at the limit");
}

#[test]
fn leftovers_of_an_earlier_daemon_are_removed_at_start() {
    let ground = Ground::new();
    let artifact = ground.upload(&zip(&[file("a", b"1")])).expect("sound");
    let before = ground.all();
    let incoming = ground.directory.path().join("artifacts/incoming");
    fs::create_dir_all(incoming.join("unpack-1/tree/d")).expect("made");
    fs::write(incoming.join("unpack-1/tree/d/f"), b"half").expect("written");
    std::os::unix::fs::symlink(ground.directory.path(), incoming.join("unpack-1/tree/out"))
        .expect("linked");
    fs::write(incoming.join("spool"), b"half").expect("written");
    let again = ArtifactStore::open(
        &ground.directory.path().join("artifacts"),
        Bounds::default(),
    )
    .expect("opens");
    assert_eq!(ground.all(), before);
    assert_eq!(again.list().expect("listed"), [artifact.id]);
}

#[test]
fn a_deleted_bundle_is_gone_and_may_come_again() {
    let ground = Ground::new();
    let packed = zip(&[file("a", b"1")]);
    let artifact = ground.upload(&packed).expect("sound");
    let held = ground.files.tree_dir(&artifact.id).expect("there");
    assert!(ground.files.delete(&artifact.id).expect("deleted"));
    assert!(!ground.files.delete(&artifact.id).expect("gone already"));
    assert!(matches!(
        ground.files.tree_dir(&artifact.id),
        Err(ArtifactError::NotFound(_))
    ));
    assert_eq!(ground.all(), Ground::new().all());
    drop(held);
    ground.upload(&packed).expect("again");
}

#[test]
fn the_trees_descriptor_is_only_a_place() {
    use std::os::fd::AsRawFd;
    let ground = Ground::new();
    let artifact = ground.upload(&zip(&[file("a", b"1")])).expect("sound");
    let tree = ground.files.tree_dir(&artifact.id).expect("there");
    let place = fs::read_link(format!("/proc/self/fd/{}", tree.as_raw_fd())).expect("open");
    assert_eq!(
        place,
        ground.tree(&artifact.id).canonicalize().expect("there")
    );
    let flags = nix::fcntl::fcntl(&tree, nix::fcntl::FcntlArg::F_GETFL).expect("flags");
    assert!(OFlag::from_bits_truncate(flags).contains(OFlag::O_PATH));
}

#[test]
fn files_are_found_inside_only() {
    let ground = Ground::new();
    let artifact = ground
        .upload(&zip(&[
            file("a.py", b"1"),
            with_mode(0o100_755, stored("run", b"#!")),
            symlink("link.py", "a.py"),
            symlink("dangling", "missing"),
            directory("d/"),
        ]))
        .expect("sound");
    let find = |path: &str| ground.files.file(&artifact.id, path).expect("asked");
    assert_eq!(find("a.py"), Some(BundleFile { executable: false }));
    assert_eq!(find("run"), Some(BundleFile { executable: true }));
    assert_eq!(find("link.py"), Some(BundleFile { executable: false }));
    for path in [
        "missing",
        "dangling",
        "d",
        "../tree/a.py",
        "/etc/passwd",
        "../meta.json",
        "",
    ] {
        assert_eq!(find(path), None, "{path}");
    }
}
