//! Tier 2: the shelf, without mounting anything. mke2fs runs where the host has it.

use super::shelf::Shelf;
use super::*;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

fn shelf(directory: &Path) -> Shelf {
    Shelf {
        directory: directory.to_owned(),
        total: 64 << 20,
    }
}

fn wanted(key: u8, version: u32) -> Wanted {
    Wanted {
        runtime: "agent-AbCdEf1234".to_owned(),
        key: [key; 32],
        version,
        name: c"data".to_owned(),
        bytes: MIN_BYTES,
    }
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory.join("agent-AbCdEf1234")) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("entry").file_name().to_string_lossy()[62..].to_owned())
        .collect();
    names.sort();
    names
}

fn old(directory: &Path, name: &str) {
    for entry in fs::read_dir(directory.join("agent-AbCdEf1234")).expect("list") {
        let path = entry.expect("entry").path();
        if path.to_string_lossy().ends_with(name) {
            let file = fs::File::options().write(true).open(path).expect("open");
            let then = SystemTime::now() - Duration::from_secs(3600);
            file.set_modified(then).expect("set");
        }
    }
}

#[test]
fn names_are_one_plain_component() {
    for good in ["data", "a", ".cache", "A-b_c.d", &"x".repeat(195)] {
        assert!(is_name(good), "{good}");
    }
    for bad in [
        "",
        ".",
        "..",
        "a/b",
        "a b",
        "ü",
        "lost+found",
        "a\0",
        &"x".repeat(196),
    ] {
        assert!(!is_name(bad), "{bad:?}");
    }
}

#[test]
fn an_image_is_found_again_once_it_is_whole_and_never_had_by_two() {
    if formatter().is_none() {
        eprintln!("SKIPPED storage: {MKE2FS} is not installed");
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let shelf = shelf(dir.path());
    let image = shelf.take("storage.image", &wanted(1, 1)).expect("made");
    assert_eq!(names(dir.path()), ["01.1.new"]);
    let second = shelf.take("storage.image", &wanted(1, 1));
    assert!(matches!(second, Err(StorageFault::Busy)), "{second:?}");
    assert_eq!(names(dir.path()), ["01.1.new"], "and is left alone");
    drop(image);
    assert_eq!(names(dir.path()), [""; 0], "what is not whole is not kept");

    let image = shelf.take("storage.image", &wanted(1, 1)).expect("made");
    let held = image.file.try_clone().expect("dup");
    image.keep().expect("keep");
    assert_eq!(names(dir.path()), ["01.1.img"]);
    // As the loop device holds it.
    let began = std::time::Instant::now();
    let second = shelf.take("storage.image", &wanted(1, 1));
    assert!(matches!(second, Err(StorageFault::Busy)), "{second:?}");
    assert!(began.elapsed() >= LEASE_PATIENCE);
    drop(held);
    shelf.take("storage.image", &wanted(1, 1)).expect("found");
    assert_eq!(names(dir.path()), ["01.1.img"]);
}

#[test]
fn another_version_starts_afresh_and_another_key_is_another_storage() {
    if formatter().is_none() {
        eprintln!("SKIPPED storage: {MKE2FS} is not installed");
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let shelf = shelf(dir.path());
    for (key, version) in [(1, 1), (2, 1), (1, 2)] {
        let image = shelf.take("storage.image", &wanted(key, version));
        image.expect("made").keep().expect("keep");
    }
    assert_eq!(names(dir.path()), ["01.2.img", "02.1.img"]);
    shelf.forget("agent-AbCdEf1234").expect("forget");
    shelf.forget("agent-AbCdEf1234").expect("again");
    assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
}

#[test]
fn what_might_not_fit_is_refused_and_leaves_nothing() {
    if formatter().is_none() {
        eprintln!("SKIPPED storage: {MKE2FS} is not installed");
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let shelf = shelf(dir.path());
    let mut held = Vec::new();
    for key in 1..=4 {
        let image = shelf.take("storage.image", &wanted(key, 1)).expect("made");
        held.push(image.file.try_clone().expect("dup"));
        image.keep().expect("keep");
    }
    let fifth = shelf.take("storage.image", &wanted(5, 1));
    assert!(matches!(fifth, Err(StorageFault::Full(_))), "{fifth:?}");
    assert_eq!(names(dir.path()).len(), 4);
    // Idle ones count with what they take, which is little.
    held.clear();
    shelf.take("storage.image", &wanted(5, 1)).expect("made");
}

#[test]
fn a_sweep_takes_what_was_not_used_for_long_and_nothing_else() {
    if formatter().is_none() {
        eprintln!("SKIPPED storage: {MKE2FS} is not installed");
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let shelf = shelf(dir.path());
    let mut held = Vec::new();
    for key in 1..=3 {
        let image = shelf.take("storage.image", &wanted(key, 1)).expect("made");
        if key == 3 {
            held.push(image.file.try_clone().expect("dup"));
        }
        image.keep().expect("keep");
    }
    let unfinished = dir
        .path()
        .join("agent-AbCdEf1234")
        .join("0".repeat(62) + "09.1.new");
    fs::write(unfinished, "").expect("write");
    old(dir.path(), "01.1.img");
    old(dir.path(), "03.1.img");
    shelf.sweep(Duration::from_secs(600)).expect("sweep");
    assert_eq!(
        names(dir.path()),
        ["02.1.img", "03.1.img"],
        "one is old, one in use"
    );
    held.clear();
    old(dir.path(), "02.1.img");
    shelf.sweep(Duration::from_secs(600)).expect("sweep");
    assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
}
