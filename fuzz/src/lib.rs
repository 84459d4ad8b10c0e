//! What several fuzz targets share: a place to unpack into, with something beside it that must stay as it is.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use supervisor::artifacts::{Bounds, Measures, unpack};

const CANARY: &[u8] = b"nobody may change this";

/// A directory in memory, so that syncing costs nothing.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("fuzz-").tempdir_in(place).expect("temporary directory")
}

/// Unpacks, and checks that nothing outside was touched, that what is inside is plain, and that the bounds were kept.
pub fn unpack_and_check(packed: &[u8]) {
    let bounds = Bounds {
        packed: 1 << 20,
        unpacked: 256 << 10,
        entries: 100,
        ratio: 100,
        ratio_floor: 64 << 10,
        time: Duration::from_secs(5),
        ..Bounds::default()
    };
    let outside = scratch();
    let canary = outside.path().join("canary");
    fs::write(&canary, CANARY).expect("written");
    let root = outside.path().join("tree");
    fs::create_dir(&root).expect("made");
    let file = tempfile::tempfile_in(outside.path()).expect("made");
    file.write_all_at(packed, 0).expect("written");
    let directory = File::open(&root).expect("opened");
    let outcome = unpack(&file, directory.as_fd(), &bounds);

    assert_eq!(fs::read(&canary).expect("still there"), CANARY);
    assert_eq!(fs::read_dir(outside.path()).expect("listed").count(), 2, "something beside the tree");
    let mut found = Measures { unpacked_bytes: 0, entries: 0 };
    walk(&root, &root, &mut found);
    assert!(found.entries <= bounds.entries && found.unpacked_bytes <= bounds.unpacked);
    match outcome {
        Ok(measures) => assert_eq!(measures.entries, found.entries),
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() < 2000 && !text.contains(char::is_control), "{text:?}");
        }
    }
}

fn walk(root: &Path, directory: &PathBuf, found: &mut Measures) {
    for entry in fs::read_dir(directory).expect("listed") {
        let path = entry.expect("entry").path();
        let meta = fs::symlink_metadata(&path).expect("there");
        found.entries += 1;
        if meta.is_dir() {
            walk(root, &path, found);
        } else if meta.is_symlink() {
            // Of a refused bundle only the lexical rule is certain; see the tests for the other.
            assert!(fs::read_link(&path).expect("link").is_relative());
        } else {
            assert!(meta.is_file(), "{} is special", path.display());
            found.unpacked_bytes += meta.len();
        }
        assert_eq!(meta.permissions().mode() & 0o7000, 0, "{}", path.display());
    }
}
