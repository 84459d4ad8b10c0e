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
        per_caller: 64 << 20,
    }
}

fn wanted(key: u8, version: u32) -> Wanted {
    Wanted {
        runtime: "agent-AbCdEf1234".to_owned(),
        key: [key; 32],
        caller: [0xAA; 16],
        version,
        name: c"data".to_owned(),
        bytes: MIN_BYTES,
        scratch: false,
    }
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory.join("agent-AbCdEf1234")) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("entry").file_name().to_string_lossy()[62..].to_owned())
        .map(|name| name.replace(&format!(".{}", "aa".repeat(16)), ""))
        .collect();
    names.sort();
    names
}

fn old(directory: &Path, name: &str) {
    for entry in fs::read_dir(directory.join("agent-AbCdEf1234")).expect("list") {
        let path = entry.expect("entry").path();
        let short = path
            .to_string_lossy()
            .replace(&format!(".{}", "aa".repeat(16)), "");
        if short.ends_with(name) {
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

#[test]
fn what_a_session_has_is_not_removed_under_it() {
    if formatter().is_none() {
        eprintln!("SKIPPED storage: {MKE2FS} is not installed");
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let shelf = shelf(dir.path());
    let image = shelf.take("storage.image", &wanted(1, 1)).expect("made");
    let held = image.file.try_clone().expect("dup");
    image.keep().expect("keep");
    // A new version waits for it, and has its way then.
    let next = shelf.take("storage.image", &wanted(1, 2));
    assert!(matches!(next, Err(StorageFault::Busy)), "{next:?}");
    assert_eq!(names(dir.path()), ["01.1.img"]);
    // One whose runtime is no more keeps a name, and so counts.
    shelf.forget("agent-AbCdEf1234").expect("forget");
    assert_eq!(names(dir.path()), ["01.1.gone"]);
    let narrow = Shelf {
        total: 2 * MIN_BYTES - 1,
        ..shelf.clone()
    };
    let full = narrow.take("storage.image", &wanted(2, 1));
    assert!(matches!(full, Err(StorageFault::Full(_))), "{full:?}");
    shelf.sweep(Duration::from_secs(600)).expect("sweep");
    assert_eq!(names(dir.path()), ["01.1.gone"], "in use");
    let waits = std::thread::spawn({
        let shelf = shelf.clone();
        move || shelf.leave(&wanted(1, 1))
    });
    drop(held);
    waits.join().expect("joined").expect("left");
    assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
    narrow.take("storage.image", &wanted(2, 1)).expect("room");
}

#[test]
fn what_is_not_to_be_kept_goes_with_its_session_or_with_the_next_sweep() {
    if formatter().is_none() {
        eprintln!("SKIPPED storage: {MKE2FS} is not installed");
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let shelf = shelf(dir.path());
    let scratch = Wanted {
        scratch: true,
        ..wanted(1, 1)
    };
    for swept in [false, true] {
        let image = shelf.take("storage.image", &scratch).expect("made");
        let held = image.file.try_clone().expect("dup");
        image.keep().expect("keep");
        assert_eq!(names(dir.path()), ["01.1.new"]);
        shelf.sweep(Duration::from_secs(600)).expect("sweep");
        assert_eq!(names(dir.path()), ["01.1.new"], "in use");
        drop(held);
        if swept {
            shelf.sweep(Duration::from_secs(600)).expect("sweep");
        } else {
            shelf.leave(&scratch).expect("left");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
    }
    // One that is kept stays.
    let image = shelf.take("storage.image", &wanted(2, 1)).expect("made");
    image.keep().expect("keep");
    shelf.leave(&wanted(2, 1)).expect("left");
    assert_eq!(names(dir.path()), ["02.1.img"]);
}

#[test]
fn one_caller_has_a_share_and_others_have_theirs() {
    if formatter().is_none() {
        eprintln!("SKIPPED storage: {MKE2FS} is not installed");
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let shelf = Shelf {
        // And a little: an idle one takes some.
        per_caller: 2 * MIN_BYTES + (2 << 20),
        ..shelf(dir.path())
    };
    let of = |key, caller| Wanted {
        caller: [caller; 16],
        ..wanted(key, 1)
    };
    let take = |key, caller| {
        let image = shelf.take("storage.image", &of(key, caller))?;
        let held = image.file.try_clone().expect("dup");
        image.keep().expect("keep");
        Ok::<_, StorageFault>(held)
    };
    let first = take(1, 0xAA).expect("made");
    let _second = take(2, 0xAA).expect("made");
    match take(3, 0xAA) {
        Err(StorageFault::Full(why)) => assert!(why.contains("storage.per_caller"), "{why}"),
        other => panic!("{other:?}"),
    }
    let _third = take(3, 0xBB).expect("another's share");
    drop(first);
    take(4, 0xAA).expect("what is idle counts with what it takes");
}

#[test]
fn an_image_from_before_there_were_callers_is_found_again() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let runtime = dir.path().join("agent-AbCdEf1234");
    fs::create_dir(&runtime).expect("directory");
    fs::write(runtime.join(format!("{}.1.img", "01".repeat(32))), "kept").expect("written");
    let image = shelf(dir.path()).take("storage.image", &wanted(1, 1));
    let image = image.expect("found");
    assert_eq!(image.file.metadata().expect("metadata").len(), 4);
    image.keep().expect("keep");
    assert_eq!(names(dir.path()), ["01.1.img"]);
}
