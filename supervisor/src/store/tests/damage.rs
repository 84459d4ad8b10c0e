//! Databases that are not what they should be: refused with what to do, left as they are, never replaced by an empty one
//! (security-bar X12).

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A database with content, closed, so that everything is in the one file.
async fn filled() -> (tempfile::TempDir, Vec<u8>) {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    for n in 0..40 {
        ground.runtime(&format!("agent{n}"), &artifact).await;
    }
    ground.runtime("agent", &artifact).await;
    for n in 0..4 {
        ground
            .store
            .reserve_session(session(&format!("sess{n}"), n))
            .await
            .expect("reserved");
    }
    let Ground { directory, store } = ground;
    store.close().await;
    let bytes = fs::read(path(&directory)).expect("read");
    assert!(
        !directory.path().join("agentcore.db-wal").exists(),
        "closing moves the log in"
    );
    (directory, bytes)
}

fn open_bytes(bytes: &[u8]) -> (tempfile::TempDir, Result<Store, StoreError>) {
    let directory = tempfile::tempdir().expect("temporary directory");
    fs::write(path(&directory), bytes).expect("written");
    let opened = Store::open(&path(&directory), names());
    (directory, opened)
}

#[tokio::test]
async fn damaged_files_are_refused_and_left_alone() {
    let (_directory, sound) = filled().await;
    let flip = |from: usize, to: usize| {
        let mut bytes = sound.clone();
        bytes[from..to].iter_mut().for_each(|b| *b ^= 0xff);
        bytes
    };
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("a few bytes", sound[..50].to_vec()),
        ("cut in the first page", sound[..2000].to_vec()),
        ("cut at half", sound[..sound.len() / 2].to_vec()),
        ("last page missing", sound[..sound.len() - 4096].to_vec()),
        ("header zeroed", [&[0; 100][..], &sound[100..]].concat()),
        ("magic flipped", flip(0, 16)),
        ("schema page flipped", flip(100, 4096)),
        ("a b-tree page flipped", flip(4096, 8192)),
        ("text", b"this is not a database at all\n".repeat(200)),
    ] {
        let (directory, opened) = open_bytes(&bytes);
        let Err(error) = opened else {
            panic!("{what}: accepted")
        };
        assert!(
            matches!(
                error,
                StoreError::Corrupt { .. } | StoreError::Foreign { .. }
            ),
            "{what}: {error:?}"
        );
        assert!(
            error.to_string().contains("agentcore.db"),
            "{what}: {error}"
        );
        assert_eq!(
            fs::read(path(&directory)).expect("read"),
            bytes,
            "{what}: changed"
        );
    }
}

/// Whatever bytes are flipped: no panic, and never a database that has silently lost what it held.
#[tokio::test]
async fn two_hundred_mutations_never_give_an_empty_store() {
    let (_directory, sound) = filled().await;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).expect("small")
    };
    let mut refused = 0;
    for round in 0..200 {
        let mut bytes = sound.clone();
        match round % 4 {
            0 => bytes.truncate(next(sound.len())),
            1 => (0..=next(4)).for_each(|_| bytes[next(sound.len())] ^= 1 << next(8)),
            2 => {
                let (from, page) = (
                    next(sound.len() / 4096) * 4096,
                    next(sound.len() / 4096) * 4096,
                );
                bytes.copy_within(from..from + 4096, page);
            }
            _ => {
                let at = next(sound.len() - 64);
                bytes[at..at + 64].fill(0);
            }
        }
        let (_other, opened) = open_bytes(&bytes);
        match opened {
            Err(_) => refused += 1,
            Ok(store) => {
                let request = PageRequest::parse(Some(1000), None).expect("request");
                // A flipped character inside a value is not found by SQLite's check, but the row is still there.
                if let Ok(page) = store.runtimes(request).await {
                    assert_eq!(page.items.len(), 41, "round {round}: rows are missing");
                }
                let _ = store.live_sessions().await;
                store.close().await;
            }
        }
    }
    assert!(refused > 80, "only {refused} of 200 were found out");
}

#[tokio::test]
async fn a_newer_schema_is_refused_untouched() {
    let (directory, _) = filled().await;
    let db = rusqlite::Connection::open(path(&directory)).expect("opens");
    db.pragma_update(None, "user_version", 1000).expect("set");
    db.close().expect("closed");
    let before = fs::read(path(&directory)).expect("read");
    let refused = Store::open(&path(&directory), names()).expect_err("newer");
    assert!(
        matches!(refused, StoreError::Newer { found: 1000, .. }),
        "{refused:?}"
    );
    assert!(
        refused.to_string().contains("newer agentcored"),
        "{refused}"
    );
    assert_eq!(fs::read(path(&directory)).expect("read"), before);
}

#[tokio::test]
async fn databases_of_others_are_refused() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let db = rusqlite::Connection::open(path(&directory)).expect("opens");
    db.execute_batch("CREATE TABLE theirs (x)").expect("made");
    db.close().expect("closed");
    let refused = Store::open(&path(&directory), names()).expect_err("foreign");
    assert!(matches!(refused, StoreError::Foreign { .. }), "{refused:?}");

    let directory = tempfile::tempdir().expect("temporary directory");
    fs::create_dir(path(&directory)).expect("made");
    let refused = Store::open(&path(&directory), names()).expect_err("a directory");
    assert!(matches!(refused, StoreError::Foreign { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_missing_file_beside_its_log_is_not_a_new_start() {
    let directory = tempfile::tempdir().expect("temporary directory");
    fs::write(directory.path().join("agentcore.db-wal"), b"frames").expect("written");
    let refused = Store::open(&path(&directory), names()).expect_err("lost");
    assert!(matches!(&refused, StoreError::Corrupt { detail, .. } if detail.contains("missing")));
    assert!(!path(&directory).exists());
}

#[tokio::test]
async fn the_log_of_another_database_is_not_taken_for_ours() {
    // Two databases of different ages; the log of one beside the file of the other.
    let (directory, sound) = filled().await;
    let other = Ground::new();
    let artifact = other.artifact('7').await;
    other.runtime("stranger", &artifact).await;
    let log = fs::read(other.directory.path().join("agentcore.db-wal")).expect("not yet moved in");
    assert!(!log.is_empty());
    fs::write(directory.path().join("agentcore.db-wal"), log).expect("written");
    let opened = Store::open(&path(&directory), names());
    if let Ok(store) = opened {
        let request = PageRequest::parse(Some(1000), None).expect("request");
        let names: Vec<_> = store.runtimes(request).await.expect("list").items;
        assert_eq!(names.len(), 41, "the other's pages were mixed in");
    } else {
        assert_eq!(fs::read(path(&directory)).expect("read"), sound, "changed");
    }
}

#[tokio::test]
async fn a_half_made_database_is_made_anew_and_only_the_owner_reads_it() {
    let directory = tempfile::tempdir().expect("temporary directory");
    fs::write(directory.path().join("agentcore.db.new"), b"half").expect("written");
    let store = Store::open(&path(&directory), names()).expect("opens");
    store.next_epoch().await.expect("works");
    for name in ["agentcore.db", "agentcore.db-wal", "agentcore.db-shm"] {
        let mode = fs::metadata(directory.path().join(name))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn garbage_in_the_logs_index_is_rebuilt() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    ground.runtime("agent", &artifact).await;
    // A killed daemon leaves file, log and index as they are.
    let copy = tempfile::tempdir().expect("temporary directory");
    for name in ["agentcore.db", "agentcore.db-wal"] {
        fs::copy(ground.directory.path().join(name), copy.path().join(name)).expect("copied");
    }
    fs::write(copy.path().join("agentcore.db-shm"), [0xa5; 32768]).expect("written");
    let store = Store::open(&path(&copy), names()).expect("opens");
    store
        .runtime(&name("agent"))
        .await
        .expect("answered means on disk");
}
