//! Tier 2: a database in a temporary directory. (A full disk is tested where a small tmpfs can be mounted: `tests/`.)

mod damage;

use super::*;
use proto::api::{EndReason, Phase, PutRuntime, Usage};
use proto::ids::{
    ArtifactId, ClientSessionId, EndpointName, RuntimeName, SessionId, VersionNumber,
};
use std::collections::HashSet;
use std::path::PathBuf;

struct Ground {
    directory: tempfile::TempDir,
    store: Store,
}

const UIDS: UidBlock = UidBlock {
    first: 1_000_000,
    width: 16,
    ranges: 4,
};

fn names() -> Names {
    Names {
        region: "us-local-1".into(),
        account: "000000000000".into(),
    }
}

fn path(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("agentcore.db")
}

impl Ground {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let store = Store::open(&path(&directory), names()).expect("opens");
        Self { directory, store }
    }

    /// Drops the store and opens the same file again.
    async fn reopened(self) -> Self {
        let Self { directory, store } = self;
        store.close().await;
        let store = Store::open(&path(&directory), names()).expect("opens again");
        Self { directory, store }
    }

    async fn artifact(&self, digit: char) -> ArtifactId {
        let id = ArtifactId::parse(digit.to_string().repeat(64)).expect("id");
        let new = NewArtifact {
            id: id.clone(),
            packed_bytes: 1,
            unpacked_bytes: 2,
            entries: 3,
        };
        self.store.put_artifact(new).await.expect("put");
        id
    }

    async fn runtime(&self, name: &str, artifact: &ArtifactId) -> proto::api::Runtime {
        self.store
            .put_runtime(put(name, artifact))
            .await
            .expect("put")
            .0
    }
}

fn put(name: &str, artifact: &ArtifactId) -> PutRuntime {
    let config =
        serde_json::json!({ "name": name, "entrypoint": "a.py", "resources": { "cpus": 0.5 } });
    PutRuntime {
        artifact: artifact.clone(),
        config: serde_json::from_value(config).expect("config"),
    }
}

fn name(text: &str) -> RuntimeName {
    RuntimeName::parse(text).expect("name")
}

fn session(id: &str, client: u32) -> NewSession {
    NewSession {
        id: SessionId::parse(id).expect("id"),
        client_id: ClientSessionId::parse(format!("client-session-of-the-store-tests-{client:04}"))
            .expect("id"),
        runtime: name("agent"),
        version: VersionNumber(1),
        endpoint: EndpointName::default_endpoint(),
        boot_id: "boot".into(),
        token: "ab".repeat(32),
        uids: UIDS,
    }
}

fn end(reason: EndReason) -> SessionEnd {
    SessionEnd {
        reason,
        was_ready: true,
        detail: Some("because".into()),
        usage: Usage {
            cpu_seconds: 1.5,
            memory_peak_bytes: 7,
            oom_kills: 1,
            ..Usage::default()
        },
        egress_refused: 3,
        log_lines_dropped: 4,
    }
}

#[tokio::test]
async fn versions_count_up_and_stay_as_they_are() {
    let ground = Ground::new();
    let (one, two) = (ground.artifact('1').await, ground.artifact('2').await);
    let (first, created) = ground
        .store
        .put_runtime(put("agent", &one))
        .await
        .expect("put");
    assert!(created);
    assert_eq!(first.version, VersionNumber(1));
    assert_eq!(first.runtime_id.name(), "agent");
    assert_eq!(
        first.arn,
        format!(
            "arn:aws:bedrock-agentcore:us-local-1:000000000000:runtime/{}",
            first.runtime_id
        )
    );
    let (second, created) = ground
        .store
        .put_runtime(put("agent", &two))
        .await
        .expect("put");
    assert!(!created);
    assert_eq!((second.version, &second.artifact), (VersionNumber(2), &two));
    assert_eq!(second.runtime_id, first.runtime_id);

    let ground = ground.reopened().await;
    assert_eq!(
        ground.store.runtime(&name("agent")).await.expect("there"),
        second
    );
    assert_eq!(
        ground
            .store
            .runtime_by_id(&first.runtime_id)
            .await
            .expect("there"),
        second
    );
    let old = ground
        .store
        .version(&name("agent"), VersionNumber(1))
        .await
        .expect("there");
    assert_eq!((old.artifact, old.config), (one, first.config));
    let missing = ground.store.version(&name("agent"), VersionNumber(3)).await;
    assert!(
        matches!(missing, Err(StoreError::NotFound(_))),
        "{missing:?}"
    );
}

#[tokio::test]
async fn a_runtime_needs_an_artifact_that_is_there() {
    let ground = Ground::new();
    let stranger = ArtifactId::parse("f".repeat(64)).expect("id");
    let refused = ground.store.put_runtime(put("agent", &stranger)).await;
    assert!(
        matches!(refused, Err(StoreError::NotFound(_))),
        "{refused:?}"
    );
    // Its savepoint was taken back: no runtime without a version is left.
    assert!(ground.store.runtime(&name("agent")).await.is_err());
    assert!(
        ground
            .store
            .runtimes(PageRequest::default())
            .await
            .expect("list")
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn a_deleted_name_is_free_at_once_and_its_runtime_is_another() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    let old = ground.runtime("agent", &artifact).await;
    ground
        .store
        .delete_runtime(&name("agent"))
        .await
        .expect("deleted");
    assert!(ground.store.runtime(&name("agent")).await.is_err());
    assert!(ground.store.runtime_by_id(&old.runtime_id).await.is_err());
    assert!(
        ground
            .store
            .versions(&name("agent"), PageRequest::default())
            .await
            .is_err()
    );
    let again = ground.store.delete_runtime(&name("agent")).await;
    assert!(matches!(again, Err(StoreError::NotFound(_))));
    let new = ground.runtime("agent", &artifact).await;
    assert_eq!(new.version, VersionNumber(1));
    assert_ne!(new.runtime_id, old.runtime_id);
}

#[tokio::test]
async fn an_artifact_stays_while_something_uses_it() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    ground.runtime("agent", &artifact).await;
    let in_use = ground.store.delete_artifact(&artifact).await;
    assert!(
        matches!(&in_use, Err(StoreError::Conflict(text)) if text.ends_with("version 1 of runtime agent"))
    );
    // A newer version does not free the older one's code.
    let newer = ground.artifact('2').await;
    ground.runtime("agent", &newer).await;
    assert!(ground.store.delete_artifact(&artifact).await.is_err());

    // A live session keeps the code of a deleted runtime.
    let live = ground
        .store
        .reserve_session(session("sess1", 1))
        .await
        .expect("reserved");
    ground
        .store
        .delete_runtime(&name("agent"))
        .await
        .expect("deleted");
    assert!(ground.store.delete_artifact(&artifact).await.is_err());
    ground
        .store
        .delete_artifact(&newer)
        .await
        .expect("nobody uses version 2");
    ground
        .store
        .end_session(&live.id, end(EndReason::Stopped))
        .await
        .expect("ended");
    ground.store.delete_artifact(&artifact).await.expect("free");
    assert!(matches!(
        ground.store.artifact(&artifact).await,
        Err(StoreError::NotFound(_))
    ));
}

#[tokio::test]
async fn putting_an_artifact_twice_keeps_the_first() {
    let ground = Ground::new();
    let id = ArtifactId::parse("a".repeat(64)).expect("id");
    let new = NewArtifact {
        id,
        packed_bytes: 10,
        unpacked_bytes: 20,
        entries: 3,
    };
    let (first, created) = ground.store.put_artifact(new.clone()).await.expect("put");
    let (second, again) = ground.store.put_artifact(new).await.expect("put");
    assert_eq!((created, again), (true, false));
    assert_eq!(first, second);
}

#[tokio::test]
async fn uid_ranges_are_the_lowest_free_ones_and_never_shared() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    ground.runtime("agent", &artifact).await;
    let mut bases = Vec::new();
    for n in 0..UIDS.ranges {
        let row = ground
            .store
            .reserve_session(session(&format!("sess{n}"), n))
            .await;
        bases.push(row.expect("reserved").uid_base);
    }
    assert_eq!(bases, [1_000_000, 1_000_016, 1_000_032, 1_000_048]);
    let full = ground.store.reserve_session(session("sess9", 9)).await;
    assert!(matches!(full, Err(StoreError::NoFreeUids(4))), "{full:?}");

    // What ends is free again; a restart in between changes nothing.
    let ground = ground.reopened().await;
    let second = SessionId::parse("sess1").expect("id");
    ground
        .store
        .end_session(&second, end(EndReason::Idle))
        .await
        .expect("ended");
    let row = ground
        .store
        .reserve_session(session("sess9", 9))
        .await
        .expect("reserved");
    assert_eq!(row.uid_base, 1_000_016);
    // The end of the old session once more does not free the new one's range.
    ground
        .store
        .end_session(&second, end(EndReason::Stopped))
        .await
        .expect("ignored");
    assert!(
        ground
            .store
            .reserve_session(session("sess10", 10))
            .await
            .is_err()
    );
    // A block that was moved leaves out what overlaps ranges of the old one.
    let mut moved = session("sess11", 11);
    moved.uids = UidBlock {
        first: 1_000_056,
        width: 16,
        ranges: 4,
    };
    assert_eq!(
        ground
            .store
            .reserve_session(moved)
            .await
            .expect("reserved")
            .uid_base,
        1_000_072
    );
}

#[tokio::test]
async fn concurrent_reservations_get_different_ranges() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    ground.runtime("agent", &artifact).await;
    let tasks: Vec<_> = (0..300)
        .map(|n| {
            let store = ground.store.clone();
            let mut new = session(&format!("sess{n}"), n);
            new.uids.ranges = 300;
            tokio::spawn(
                async move { store.reserve_session(new).await.expect("reserved").uid_base },
            )
        })
        .collect();
    let mut bases = HashSet::new();
    for task in tasks {
        assert!(bases.insert(task.await.expect("task")));
    }
    assert_eq!(bases.iter().max(), Some(&(1_000_000 + 299 * 16)));
}

#[tokio::test]
async fn a_callers_id_has_one_live_session_per_runtime_and_endpoint() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    ground.runtime("agent", &artifact).await;
    ground
        .store
        .reserve_session(session("sess1", 7))
        .await
        .expect("reserved");
    let twin = ground.store.reserve_session(session("sess2", 7)).await;
    assert!(
        matches!(&twin, Err(StoreError::Conflict(text)) if text.contains("sess1")),
        "{twin:?}"
    );
    let mut elsewhere = session("sess3", 7);
    elsewhere.endpoint = EndpointName::parse("prod").expect("name");
    ground
        .store
        .reserve_session(elsewhere)
        .await
        .expect("another endpoint");
    let first = SessionId::parse("sess1").expect("id");
    ground
        .store
        .end_session(&first, end(EndReason::Stopped))
        .await
        .expect("ended");
    ground
        .store
        .reserve_session(session("sess2", 7))
        .await
        .expect("the old one is over");
    let mut unknown = session("sess4", 8);
    unknown.version = VersionNumber(2);
    let unknown = ground.store.reserve_session(unknown).await;
    assert!(matches!(unknown, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn a_restarted_daemon_learns_all_about_live_sessions() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    let runtime = ground.runtime("agent", &artifact).await;
    let newer = ground.artifact('2').await;
    for n in 1..=3 {
        ground
            .store
            .reserve_session(session(&format!("sess{n}"), n))
            .await
            .expect("reserved");
    }
    ground.runtime("agent", &newer).await;
    let launched = Launched {
        pid: 4711,
        start_time: u64::MAX,
        cgroup_inode: 99,
    };
    let second = SessionId::parse("sess2").expect("id");
    ground
        .store
        .session_launched(&second, launched)
        .await
        .expect("noted");
    let third = SessionId::parse("sess3").expect("id");
    let row = ground
        .store
        .end_session(&third, end(EndReason::OutOfMemory))
        .await
        .expect("ended");
    assert_eq!((row.token, row.phase), (None, Phase::Ended));
    let late = ground.store.session_launched(&third, launched).await;
    assert!(matches!(late, Err(StoreError::NotFound(_))));

    let ground = ground.reopened().await;
    let live = ground.store.live_sessions().await.expect("list");
    let ids: Vec<_> = live.iter().map(|l| l.session.id.as_str()).collect();
    assert_eq!(ids, ["sess1", "sess2"]);
    assert_eq!(live[0].session.launched, None);
    assert_eq!(live[0].session.phase, Phase::Launching);
    let found = &live[1];
    assert_eq!(found.session.launched, Some(launched));
    assert_eq!(found.session.phase, Phase::Starting);
    assert_eq!(
        found.session.token.as_deref(),
        Some("ab".repeat(32).as_str())
    );
    assert_eq!(found.session.runtime_id, runtime.runtime_id);
    // Its own version's, not the newest.
    assert_eq!(
        (&found.artifact, &found.config),
        (&artifact, &runtime.config)
    );
    assert!(!found.runtime_deleted);
    ground
        .store
        .delete_runtime(&name("agent"))
        .await
        .expect("deleted");
    assert!(ground.store.live_sessions().await.expect("list")[1].runtime_deleted);
}

#[tokio::test]
async fn the_end_is_recorded_once_with_its_usage() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    ground.runtime("agent", &artifact).await;
    let row = ground
        .store
        .reserve_session(session("sess1", 1))
        .await
        .expect("reserved");
    let mut failed = end(EndReason::StartTimeout);
    failed.was_ready = false;
    failed.detail = Some("é".repeat(4000));
    failed.usage.cpu_seconds = f64::NAN;
    ground
        .store
        .end_session(&row.id, failed)
        .await
        .expect("ended");
    ground
        .store
        .end_session(&row.id, end(EndReason::Stopped))
        .await
        .expect("ignored");
    let row = ground.store.session(&row.id).await.expect("there");
    let found = row.end.clone().expect("ended");
    assert_eq!(found.reason, EndReason::StartTimeout);
    assert_eq!(found.detail.as_deref(), Some("é".repeat(2048).as_str()));
    assert_eq!(found.usage.memory_peak_bytes, 7);
    let told = row.to_api();
    assert_eq!(told.phase, Phase::Failed);
    assert_eq!((told.uid_base, told.pid), (None, None));
    assert_eq!((told.egress_refused, told.log_lines_dropped), (3, 4));
    assert!(told.ended_at.is_some());
    let unknown = SessionId::parse("nosuch").expect("id");
    let unknown = ground
        .store
        .end_session(&unknown, end(EndReason::Idle))
        .await;
    assert!(matches!(unknown, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn lists_page_without_gaps_or_repeats() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    for n in 0..7 {
        ground.runtime(&format!("agent{n}"), &artifact).await;
    }
    let mut seen = Vec::new();
    let mut token = None;
    loop {
        let request = PageRequest::parse(Some(3), token.as_deref()).expect("request");
        let page = ground.store.runtimes(request).await.expect("page");
        assert!(page.items.len() <= 3);
        seen.extend(page.items.iter().map(|runtime| runtime.name.to_string()));
        token = page.next_token;
        if token.is_none() {
            break;
        }
        // What is deleted behind the page moves nothing.
        let _ = ground.store.delete_runtime(&name("agent0")).await;
    }
    assert_eq!(
        seen,
        [
            "agent0", "agent1", "agent2", "agent3", "agent4", "agent5", "agent6"
        ]
    );
    // A full last page has no successor.
    let request = PageRequest::parse(Some(6), None).expect("request");
    assert_eq!(
        ground
            .store
            .runtimes(request)
            .await
            .expect("page")
            .next_token,
        None
    );
    for (max, token) in [
        (Some(0), None),
        (Some(1001), None),
        (None, Some("x")),
        (None, Some("n.x")),
    ] {
        let listed = match PageRequest::parse(max, token) {
            Ok(request) => ground
                .store
                .sessions(request, SessionFilter::default())
                .await
                .map(|_| ()),
            Err(error) => Err(error),
        };
        assert!(
            matches!(listed, Err(StoreError::Invalid { .. })),
            "{max:?} {token:?}"
        );
    }
}

#[tokio::test]
async fn sessions_are_listed_newest_first_and_filtered() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    ground.runtime("agent", &artifact).await;
    ground.runtime("other", &artifact).await;
    for n in 0..4 {
        let mut new = session(&format!("sess{n}"), n);
        if n == 3 {
            new.runtime = name("other");
        }
        ground.store.reserve_session(new).await.expect("reserved");
    }
    let first = SessionId::parse("sess0").expect("id");
    ground
        .store
        .end_session(&first, end(EndReason::Idle))
        .await
        .expect("ended");
    let ids = async |filter: SessionFilter| {
        let page = ground
            .store
            .sessions(PageRequest::default(), filter)
            .await
            .expect("page");
        page.items
            .iter()
            .map(|row| row.id.to_string())
            .collect::<Vec<_>>()
    };
    let all = SessionFilter::default();
    assert_eq!(ids(all.clone()).await, ["sess3", "sess2", "sess1", "sess0"]);
    let of_agent = SessionFilter {
        runtime: Some(name("agent")),
        ..all.clone()
    };
    assert_eq!(ids(of_agent.clone()).await, ["sess2", "sess1", "sess0"]);
    assert_eq!(
        ids(SessionFilter {
            over: Some(false),
            ..of_agent
        })
        .await,
        ["sess2", "sess1"]
    );
    assert_eq!(
        ids(SessionFilter {
            over: Some(true),
            ..all.clone()
        })
        .await,
        ["sess0"]
    );
    assert_eq!(
        ids(SessionFilter {
            phase: Some(Phase::Ended),
            ..all.clone()
        })
        .await,
        ["sess0"]
    );
    let client = Some(session("xxxx", 2).client_id);
    assert_eq!(
        ids(SessionFilter {
            client_id: client,
            ..all
        })
        .await,
        ["sess2"]
    );
}

#[tokio::test]
async fn ended_sessions_are_kept_for_a_while_and_live_ones_for_ever() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    ground.runtime("agent", &artifact).await;
    for n in 0..2 {
        ground
            .store
            .reserve_session(session(&format!("sess{n}"), n))
            .await
            .expect("reserved");
    }
    let first = SessionId::parse("sess0").expect("id");
    ground
        .store
        .end_session(&first, end(EndReason::Idle))
        .await
        .expect("ended");
    ground
        .store
        .delete_runtime(&name("agent"))
        .await
        .expect("deleted");
    let count = async |later: i64| {
        let later = Timestamp(Timestamp::now().0 + later * 86_400_000);
        let counted = ground.store.write(Durability::Durable, move |db| {
            sessions::prune(db, later)?;
            Ok(db.query_row(
                "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM runtimes), (SELECT count(*) FROM versions)",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )?)
        });
        counted.await.expect("pruned")
    };
    assert_eq!(count(6).await, (2, 1, 1));
    assert_eq!(count(8).await, (1, 1, 1));
    let second = SessionId::parse("sess1").expect("id");
    ground
        .store
        .end_session(&second, end(EndReason::Idle))
        .await
        .expect("ended");
    // The last session row gone, the deleted runtime goes too.
    assert_eq!(count(16).await, (0, 0, 0));
}

#[tokio::test]
async fn no_more_than_ten_thousand_ended_sessions_are_kept() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    ground.runtime("agent", &artifact).await;
    let left = ground.store.write(Durability::Volatile, |db| {
        db.execute_batch(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10050)
             INSERT INTO sessions (id, client_id, runtime, version, endpoint, uid_base, boot_id, phase, created_at, ended_at, reason)
             SELECT 'row' || i, 'client', 1, 1, 'DEFAULT', 1, 'boot', 'ended', 0, 9000000000000, 'idle' FROM n",
        )?;
        sessions::prune(db, Timestamp::now())?;
        Ok(db.query_row("SELECT count(*), min(seq) FROM sessions", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })?)
    });
    assert_eq!(left.await.expect("pruned"), (10_000, 51));
}

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
