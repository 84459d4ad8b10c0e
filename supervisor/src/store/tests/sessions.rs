//! Reserving, finding again, ending, listing and forgetting sessions.

use super::*;
use session_core::meter::{Allocated, Meter, Reading, Totals};
use session_core::moment::Moment;

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
    let template = SessionId::parse("sess9").expect("id");
    let launch = Launch {
        launched,
        template: Some(template.clone()),
    };
    let second = SessionId::parse("sess2").expect("id");
    ground
        .store
        .session_launched(&second, launch.clone())
        .await
        .expect("noted");
    let note = FrozenNote {
        causes: vec![FreezeCause::Operator, FreezeCause::Budget],
        at: Timestamp(7),
        since_boot: Some(std::time::Duration::from_millis(8)),
        reason: Some("enough".to_owned()),
    };
    let store = &ground.store;
    let noted = store.session_frozen(&second, Some(note.clone())).await;
    noted.expect("noted");
    let third = SessionId::parse("sess3").expect("id");
    let noted = store.session_frozen(&third, Some(note.clone())).await;
    noted.expect("noted");
    let row = ground
        .store
        .end_session(&third, end(EndReason::OutOfMemory))
        .await
        .expect("ended");
    assert_eq!((row.token, row.phase), (None, Phase::Ended));
    assert_eq!(row.frozen, None, "what is over is not frozen");
    let late = store.session_frozen(&third, Some(note.clone())).await;
    assert!(matches!(late, Err(StoreError::NotFound(_))));
    let late = ground.store.session_launched(&third, launch).await;
    assert!(matches!(late, Err(StoreError::NotFound(_))));

    let ground = ground.reopened().await;
    let live = ground.store.live_sessions().await.expect("list");
    let ids: Vec<_> = live.iter().map(|l| l.session.id.as_str()).collect();
    assert_eq!(ids, ["sess1", "sess2"]);
    assert_eq!(live[0].session.launched, None);
    assert_eq!(live[0].template, None);
    assert_eq!(live[1].template, Some(template));
    assert_eq!(live[0].session.phase, Phase::Launching);
    let found = &live[1];
    assert_eq!(found.session.launched, Some(launched));
    assert_eq!(found.session.phase, Phase::Starting);
    assert_eq!(found.session.frozen, Some(note));
    let thawed = ground.store.session_frozen(&second, None).await;
    thawed.expect("noted");
    let row = ground.store.session(&second).await.expect("found");
    assert_eq!(row.frozen, None);
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
        tidy(&ground.store, later).await;
        let counted = ground.store.read(move |db| {
            Ok(db.query_row(
                "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM runtimes), (SELECT count(*) FROM versions)",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )?)
        });
        counted.await.expect("counted")
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

/// Until there is nothing left to do.
async fn tidy(store: &Store, now: Timestamp) {
    while store.tidy(Retention::BUILT_IN, now).await.expect("tidied") {}
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
        Ok(())
    });
    left.await.expect("written");
    tidy(&ground.store, Timestamp::now()).await;
    let left = ground.store.read(|db| {
        Ok(
            db.query_row("SELECT count(*), min(seq) FROM sessions", [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            })?,
        )
    });
    assert_eq!(left.await.expect("counted"), (10_000, 51));
}

fn claim(id: &str, number: u32) -> crate::store::ClaimedSession {
    let wanted = session("unused", number);
    let waited = SessionId::parse(id).expect("id");
    let nothing = Allocated {
        memory_bytes: 0,
        cpu_millis: 0,
    };
    let mut used = Meter::new(Moment(0), nothing);
    let last = Reading {
        cpu_us: 5_000_000,
        ..Reading::default()
    };
    used.close(Moment(1234), last);
    crate::store::ClaimedSession {
        id: waited.clone(),
        client_id: wanted.client_id.clone(),
        runtime: wanted.runtime.clone(),
        endpoint: wanted.endpoint.clone(),
        owner: wanted.owner.clone(),
        at: Timestamp::now(),
        waited: std::time::Duration::from_millis(1234),
        meter: crate::ledger::record::SavedMeter {
            subject: crate::ledger::record::Subject {
                session: waited,
                client: wanted.client_id,
                runtime: wanted.runtime,
                runtime_id: proto::ids::RuntimeId::parse("agent-0123456789").expect("id"),
                version: wanted.version,
                endpoint: wanted.endpoint,
                owner: crate::owner::Owner::pool(),
                created_at: Timestamp::now(),
            }
            .waiting(),
            boot_id: "boot".to_owned(),
            boot_ms: 0,
            saved_at: Timestamp::now(),
            meter: used.saved(),
            counted: Totals::default(),
            recorded: Totals::default(),
            closed: true,
        },
    }
}

#[tokio::test]
async fn what_waits_in_a_pool_is_claimed_once_and_is_a_session_from_then_on() {
    let ground = Ground::new();
    let artifact = ground.artifact('1').await;
    ground.runtime("agent", &artifact).await;
    let store = &ground.store;
    for (id, number) in [("sess1", 1), ("sess2", 2)] {
        let mut waiting = session(id, number);
        waiting.owner = crate::owner::Owner::pool();
        store.reserve_session(waiting).await.expect("reserved");
    }
    store
        .reserve_session(session("sess3", 3))
        .await
        .expect("reserved");
    let listed = async |pool: bool| -> Vec<String> {
        let filter = SessionFilter {
            pool,
            ..SessionFilter::default()
        };
        let page = PageRequest::parse(None, None).expect("page");
        let page = store.sessions(page, filter).await.expect("listed");
        page.items.iter().map(|row| row.id.to_string()).collect()
    };
    assert_eq!(listed(false).await, ["sess3"]);
    assert_eq!(listed(true).await, ["sess3", "sess2", "sess1"]);

    store
        .claim_session(claim("sess1", 7))
        .await
        .expect("claimed");
    let again = store.claim_session(claim("sess1", 8)).await;
    assert!(matches!(again, Err(StoreError::NotFound(_))), "{again:?}");
    // A caller who has a session of that id already does not get a second one, and the member stays the pool's.
    let twin = store.claim_session(claim("sess2", 3)).await;
    assert!(matches!(twin, Err(StoreError::Conflict(_))), "{twin:?}");
    // Newest first: it is a session since its claim.
    assert_eq!(listed(false).await, ["sess1", "sess3"]);
    let new = store.reserve_session(session("sess4", 4)).await;
    new.expect("reserved");
    assert_eq!(listed(false).await, ["sess4", "sess1", "sess3"]);

    let live = store.live_sessions().await.expect("read");
    let one = |id: &str| {
        live.iter()
            .find(|live| live.session.id.as_str() == id)
            .expect("there")
    };
    assert_eq!(one("sess1").waited.as_millis(), 1234);
    assert_eq!(one("sess1").waited_cpu_us, 5_000_000);
    // Of those that were not claimed nothing was written down.
    let (left, changed) = store.left_meters().await.expect("read");
    let closed: Vec<_> = left.iter().filter(|saved| saved.closed).collect();
    assert_eq!((closed.len(), left.len(), changed.len()), (1, 1, 0));
    assert_eq!(closed[0].last_part().used.cpu_us, 5_000_000);
    assert_eq!(one("sess1").session.owner, Some(session("sess9", 7).owner));
    assert_eq!(one("sess2").waited.as_millis(), 0);
    assert_eq!(
        one("sess2").session.owner,
        Some(crate::owner::Owner::pool())
    );
}
