//! What is checked when, what is given back, and copies.

use super::*;
use std::fs;

/// Many sessions that are over.
async fn filled(ground: &Ground, rows: u32) {
    let artifact = ground.artifact('1').await;
    ground.runtime("agent", &artifact).await;
    let write = ground.store.write(Durability::Durable, move |db| {
        db.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO sessions (id, client_id, runtime, version, endpoint, uid_base, boot_id, phase, created_at, ended_at, reason, detail)
             SELECT 'row' || i, 'client', 1, 1, 'DEFAULT', 1, 'boot', 'ended', 0, 0, 'idle', hex(randomblob(400)) FROM n",
            [rows],
        )?;
        Ok(())
    });
    write.await.expect("written");
}

fn note(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("agentcore.db.note")
}

#[tokio::test]
async fn a_large_database_is_checked_only_for_a_reason() {
    let ground = Ground::new();
    filled(&ground, 12_000).await;
    let Ground { directory, store } = ground;
    store.close().await;
    let db = path(&directory);
    assert!(
        fs::metadata(&db).expect("there").len() > 8 << 20,
        "not large"
    );
    let suspected = || suspicion::of(&db).expect("looked at");
    assert_eq!(suspected(), None, "nothing has happened to it");
    let sound = fs::read_to_string(note(&directory)).expect("noted");

    // Somebody has put a file there.
    fs::remove_file(note(&directory)).expect("removed");
    assert!(suspected().is_some(), "unknown where it is from");
    fs::write(note(&directory), &sound).expect("written");
    let copy = directory.path().join("copy");
    fs::copy(&db, &copy).expect("copied");
    fs::rename(&copy, &db).expect("put in its place");
    assert!(suspected().is_some_and(|why| why.contains("another file")));

    // Checked and opened, the suspicion is over; and what the store failed of is one.
    let store = Store::open(&db, names()).expect("opens");
    assert_eq!(suspected(), None);
    let code = rusqlite::ffi::SQLITE_IOERR_FSYNC;
    let broken: Result<(), _> = store
        .write(Durability::Durable, move |_| {
            Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None).into())
        })
        .await;
    broken.expect_err("failed");
    store.failed().await;
    assert!(suspected().is_some_and(|why| why.starts_with("failed")));
    drop(store);

    // The host went down while it was in use: another boot, and a log that is not empty.
    let store = Store::open(&db, names()).expect("opens");
    store.next_epoch().await.expect("written");
    let now = fs::read_to_string(note(&directory)).expect("noted");
    let other = now.replacen(now.split(' ').nth(1).expect("a boot"), "another-boot", 1);
    fs::write(note(&directory), other).expect("written");
    assert!(suspected().is_some_and(|why| why.contains("host went down")));
    fs::write(note(&directory), now).expect("written");
    assert_eq!(suspected(), None, "a daemon that was killed is no reason");
    fs::write(directory.path().join("agentcore.db-wal"), b"no log at all").expect("written");
    assert!(suspected().is_some_and(|why| why.contains("log")));
}

#[tokio::test]
async fn what_a_failed_sync_has_left_in_the_log_is_written_anew() {
    let ground = Ground::new();
    filled(&ground, 100).await;
    // As a daemon leaves it that ends at once.
    let kept = tempfile::tempdir().expect("directory");
    for file in fs::read_dir(ground.directory.path()).expect("read") {
        let from = file.expect("entry").path();
        fs::copy(&from, kept.path().join(from.file_name().expect("a name"))).expect("copied");
    }
    let log = kept.path().join("agentcore.db-wal");
    let length = || fs::metadata(&log).expect("there").len();
    assert!(length() > 0, "nothing is in the log");
    fs::write(note(&kept), "failed: the database failed\n").expect("written");
    let store = Store::open(&path(&kept), names()).expect("opens");
    assert_eq!(length(), 0);
    drop(store);
}

#[tokio::test]
async fn a_flipped_page_of_a_large_database_is_found_where_there_is_a_reason_to_look() {
    let ground = Ground::new();
    filled(&ground, 12_000).await;
    let Ground { directory, store } = ground;
    store.close().await;
    let mut bytes = fs::read(path(&directory)).expect("read");
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    fs::write(path(&directory), &bytes).expect("written");
    fs::write(note(&directory), "failed: the database failed\n").expect("written");
    let refused = Store::open(&path(&directory), names()).expect_err("damaged");
    let text = refused.to_string();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
    assert!(
        text.contains("agentcore backup") && text.contains(".recover"),
        "what to do: {text}"
    );
    assert!(
        fs::read(path(&directory)).expect("read") == bytes,
        "changed"
    );
}

#[tokio::test]
async fn what_is_forgotten_is_given_back_to_the_disk() {
    let ground = Ground::new();
    filled(&ground, 12_000).await;
    let pages = async || {
        let count = ground
            .store
            .read(|db| Ok(db.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0))?));
        count.await.expect("counted")
    };
    let before = pages().await;
    let few = Retention {
        sessions: Keep {
            most: 10,
            ..Retention::BUILT_IN.sessions
        },
        ..Retention::BUILT_IN
    };
    let mut slices = 0;
    while ground.store.tidy(few, Timestamp(0)).await.expect("tidied") {
        slices += 1;
    }
    assert!(slices >= 40, "removed in {slices} slices only");
    let after = pages().await;
    assert!(after * 4 < before, "{before} pages became {after}");
    let left = ground.store.session_ids().await.expect("ids");
    assert_eq!(left.len(), 10);
}

#[tokio::test]
async fn a_database_from_before_pages_could_be_given_back_learns_it() {
    let ground = Ground::new();
    let mode = async |store: &Store| {
        let mode = store
            .read(|db| Ok(db.pragma_query_value(None, "auto_vacuum", |row| row.get::<_, i64>(0))?));
        mode.await.expect("read")
    };
    assert_eq!(mode(&ground.store).await, 2);
    let Ground { directory, store } = ground;
    store.close().await;
    let db = rusqlite::Connection::open(path(&directory)).expect("opens");
    db.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = NONE; VACUUM;")
        .expect("made old");
    db.close().expect("closed");
    let store = Store::open(&path(&directory), names()).expect("opens");
    assert_eq!(mode(&store).await, 2);
}

#[tokio::test]
async fn a_long_reader_is_not_waited_for_and_the_log_is_cut_down_afterwards() {
    let ground = Ground::new();
    let reader = rusqlite::Connection::open(path(&ground.directory)).expect("opens");
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM sessions;")
        .expect("reads");
    filled(&ground, 30_000).await;
    let long = ground.store.shorten_log().await.expect("tried");
    assert!(long > 16 << 20, "{long}");
    ground.store.next_epoch().await.expect("writing goes on");
    reader.execute_batch("COMMIT").expect("done");
    let short = ground.store.shorten_log().await.expect("cut down");
    assert!(short < 16 << 20, "{short}");
}

#[tokio::test]
async fn a_copy_is_whole_of_one_moment_and_nobody_waits_for_it() {
    let ground = Ground::new();
    filled(&ground, 20_000).await;
    let copies = ground.directory.path().join("copies");
    let copying = {
        let (store, copies) = (ground.store.clone(), copies.clone());
        tokio::spawn(async move { store.copy(&copies).await })
    };
    let mut during = 0;
    while !copying.is_finished() {
        ground.store.next_epoch().await.expect("writing goes on");
        during += 1;
    }
    let copied = copying.await.expect("task").expect("copied");
    assert!(during > 0, "over before anything was written");
    assert_eq!(fs::read_dir(&copies).expect("listed").count(), 0);
    let restored = tempfile::tempdir().expect("directory");
    let mut file = fs::File::create(path(&restored)).expect("made");
    let mut from = copied.file;
    let bytes = std::io::copy(&mut from, &mut file).expect("copied");
    assert_eq!(bytes, copied.bytes);
    let store = Store::open(&path(&restored), names()).expect("opens");
    assert_eq!(store.session_ids().await.expect("ids").len(), 20_000);
    let epoch = store.next_epoch().await.expect("works");
    assert!(epoch <= during + 1, "of one moment: {epoch} of {during}");
}
