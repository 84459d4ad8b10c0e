//! What an answer promises: group commit, failures that take nothing with them, full disks.

use super::*;

#[tokio::test]
async fn epochs_only_grow() {
    let mut ground = Ground::new();
    let mut last = 0;
    for _ in 0..3 {
        let epoch = ground.store.next_epoch().await.expect("epoch");
        assert!(epoch > last);
        last = epoch;
        ground = ground.reopened().await;
    }
}

#[tokio::test]
async fn a_job_that_fails_takes_nothing_with_it() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    // Queued together, so most share one transaction; every third fails after it has written.
    let tasks: Vec<_> = (0..120)
        .map(|n| {
            let (store, artifact) = (ground.store.clone(), artifact.clone());
            tokio::spawn(async move {
                if n % 3 == 0 {
                    let failed: Result<(), _> = store
                        .write(Durability::Durable, |db| {
                            db.execute("DELETE FROM runtimes", [])?;
                            db.execute("DELETE FROM artifacts", [])?;
                            Err(StoreError::Conflict("on purpose".into()))
                        })
                        .await;
                    assert!(matches!(failed, Err(StoreError::Conflict(_))));
                } else {
                    store
                        .put_runtime(put(&format!("agent{n}"), &artifact))
                        .await
                        .expect("put");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("task");
    }
    let request = PageRequest::parse(Some(1000), None).expect("request");
    assert_eq!(
        ground
            .store
            .runtimes(request)
            .await
            .expect("list")
            .items
            .len(),
        80
    );
}

#[tokio::test]
async fn a_burst_of_durable_writes_shares_its_syncs() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    // The data_version of the reader's connection changes once per commit of the other.
    let versions = Arc::new(std::sync::Mutex::new(HashSet::new()));
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let (store, artifact, versions) = (
                ground.store.clone(),
                artifact.clone(),
                Arc::clone(&versions),
            );
            tokio::spawn(async move {
                store
                    .put_runtime(put(&format!("agent{n}"), &artifact))
                    .await
                    .expect("put");
                let version = store
                    .read(|db| {
                        Ok(db
                            .pragma_query_value(None, "data_version", |row| row.get::<_, i64>(0))?)
                    })
                    .await
                    .expect("version");
                versions.lock().expect("lock").insert(version);
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("task");
    }
    let seen = versions.lock().expect("lock").len();
    assert!(seen < 100, "200 puts took at least {seen} commits");
}

#[tokio::test]
async fn a_lock_of_somebody_else_delays_and_fails_nothing() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    let other = rusqlite::Connection::open(path(&ground.directory)).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let write = {
        let (store, artifact) = (ground.store.clone(), artifact.clone());
        tokio::spawn(async move { store.put_runtime(put("agent", &artifact)).await })
    };
    // Reads go on meanwhile.
    ground.store.artifact(&artifact).await.expect("read");
    assert!(!write.is_finished());
    other.execute_batch("COMMIT").expect("unlocked");
    write.await.expect("task").expect("put");
}

#[tokio::test]
async fn damage_found_while_running_stops_the_store_and_says_so() {
    let ground = Ground::new();
    let broken: Result<(), _> = ground
        .store
        .write(Durability::Durable, |_| {
            let code = rusqlite::ffi::SQLITE_IOERR_FSYNC;
            Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None).into())
        })
        .await;
    assert!(matches!(broken, Err(StoreError::Database(_))));
    assert!(matches!(
        ground.store.failed().await,
        StoreError::Database(_)
    ));
    assert!(matches!(
        ground.store.next_epoch().await,
        Err(StoreError::Stopped)
    ));
}

#[tokio::test]
async fn a_full_disk_fails_the_call_and_room_heals_it() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    let pages = ground.store.write(Durability::Durable, |db| {
        let pages: i64 = db.pragma_query_value(None, "page_count", |row| row.get(0))?;
        // SQLite's own limit makes it answer SQLITE_FULL, as a full file system does.
        db.pragma_update(None, "max_page_count", pages)?;
        Ok(pages)
    });
    pages.await.expect("limited");
    let mut failed = None;
    let mut stored = 0;
    for n in 0..500 {
        match ground
            .store
            .put_runtime(put(&format!("agent{n}"), &artifact))
            .await
        {
            Ok(_) => stored += 1,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    let failed = failed.expect("must become full");
    assert_eq!(
        failed.code(),
        proto::code::ErrorCode::StorageFull,
        "{failed:?}"
    );
    let request = || PageRequest::parse(Some(1000), None).expect("request");
    let listed = ground
        .store
        .runtimes(request())
        .await
        .expect("reads go on")
        .items
        .len();
    assert_eq!(listed, stored, "no partial rows");
    let room = ground.store.write(Durability::Durable, |db| {
        Ok(db.pragma_update(None, "max_page_count", 1_000_000)?)
    });
    room.await.expect("room");
    ground
        .store
        .put_runtime(put("later", &artifact))
        .await
        .expect("works again");
    let listed = ground
        .store
        .runtimes(request())
        .await
        .expect("list")
        .items
        .len();
    assert_eq!(listed, stored + 1);
}

#[tokio::test]
async fn a_read_only_disk_is_told_as_storage() {
    let ground = Ground::new();
    ground
        .store
        .write(Durability::Volatile, |db| {
            Ok(db.pragma_update(None, "query_only", true)?)
        })
        .await
        .expect("set");
    let refused = ground.store.next_epoch().await.expect_err("read-only");
    assert_eq!(
        refused.code(),
        proto::code::ErrorCode::StorageFull,
        "{refused:?}"
    );
}
