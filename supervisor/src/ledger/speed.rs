//! Queries over a ledger of a million records, and over 50,000 tasks that are over. Not run by itself: `cargo nextest run -p
//! supervisor --run-ignored all a_million`, with `--release` for figures.

use super::record::DAY_MS;
use crate::owner::{Owner, Principal};
use crate::store::{Names, PageRequest, Store, TaskFilter, UsageBy, UsageQuery};
use proto::api::TaskStatus;
use proto::ids::{ClientSessionId, RuntimeName, SessionId};
use rusqlite::Connection;
use session_core::meter::Totals;
use std::path::Path;
use std::time::{Duration, Instant};

/// 50,000 sessions of 20 runtimes and 1,000 owners in 30 days, a million records of them and a million invocations.
const FILL: &str = "
BEGIN;
INSERT INTO usage_subjects (ref, session, client_id, runtime, runtime_id, version, endpoint, owner, created_at)
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
    SELECT i, printf('s%020d', i), printf('client-session-of-the-ledger-speed-%08d', i), printf('r%02d', i % 20),
        printf('r%02d-0123456789', i % 20), 1, 'DEFAULT', printf('[\"uid:%d\",null]', i % 1000), DAY0 + i * 51840 FROM n;
INSERT INTO usage_sessions
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)
    SELECT i, 1 + i / 20 % 50000, DAY0 + i * 2592, 'idle', 9, 8, 7, 6, 5, 4, 3, 2, 1, 2, 3, 4, 5, 6, 7, 8, zeroblob(32) FROM n;
INSERT INTO usage_invocations
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)
    SELECT i, 1 + i / 20 % 50000, DAY0 + i * 2592, NULL, 1, 9, 8, 7, 6, zeroblob(32) FROM n;
INSERT INTO usage_sums
    SELECT 1, u.runtime, s.at / 86400000, count(*), sum(wall_ms), 1, 1, sum(cpu_us), 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, zeroblob(32)
    FROM usage_sessions s JOIN usage_subjects u ON u.ref = s.subject GROUP BY u.runtime, s.at / 86400000;
INSERT INTO usage_sums
    SELECT 2, u.owner, s.at / 86400000, count(*), sum(wall_ms), 1, 1, sum(cpu_us), 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, zeroblob(32)
    FROM usage_sessions s JOIN usage_subjects u ON u.ref = s.subject GROUP BY u.owner, s.at / 86400000;
INSERT INTO usage_sums
    SELECT 0, '', at / 86400000, count(*), sum(wall_ms), 1, 1, sum(cpu_us), 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, zeroblob(32)
    FROM usage_sessions GROUP BY at / 86400000;
COMMIT;
";

const DAY0: i64 = 20_000;

/// 50,000 tasks that are over, of 20 runtimes, ten in each session; one in a hundred failed, one was cancelled.
const TASKS: &str = "
INSERT INTO tasks (id, kind, status, runtime, runtime_id, endpoint, client_id, own_session, owner, digest, headers,
        payload_bytes, payload_filed, retries, backoff_ms, attempts, not_before, created_at, finished_at, deadline_at, expires_at)
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
    SELECT printf('t%025d', i), 0, CASE WHEN i = 20 THEN 5 WHEN i % 100 = 7 THEN 4 ELSE 3 END, printf('r%02d', i % 20),
        printf('r%02d-0123456789', i % 20), 'DEFAULT', printf('client-session-of-the-ledger-speed-%08d', i / 10), 0,
        '[\"uid:7\",null]', zeroblob(32), '[]', 100, 0, 0, 0, 1, 0, DAY0 + i, DAY0 + i, DAY0 + i, DAY0 + 9999999999
    FROM n;
";

/// The caller's name of one of the sessions.
fn client(number: u32) -> String {
    format!("client-session-of-the-ledger-speed-{number:08}")
}

fn owner_key() -> String {
    let owner = Owner {
        principal: Principal::user(7),
        user: None,
    };
    owner.key()
}

fn some(used: Totals) -> usize {
    usize::from(used.wall_ms > 0)
}

fn names() -> Names {
    Names {
        region: "us-local-1".into(),
        account: "000000000000".into(),
    }
}

async fn filled(path: &Path) -> Store {
    Store::open(path, names()).expect("made").close().await;
    let db = Connection::open(path).expect("opens");
    let fill = format!("{FILL}{TASKS}").replace("DAY0", &(DAY0 * DAY_MS).to_string());
    db.execute_batch(&fill).expect("filled");
    drop(db);
    Store::open(path, names()).expect("opens")
}

#[tokio::test]
#[ignore = "makes a database of some hundred megabytes"]
async fn a_million_records_are_asked_in_less_than_50_ms() {
    let ground = tempfile::tempdir().expect("directory");
    let store = filled(&ground.path().join("agentcore.db")).await;
    let all = UsageQuery {
        by: UsageBy::Runtime,
        runtime: None,
        owner: None,
        days: (0, i64::MAX / DAY_MS - 1),
    };
    let by = |by| UsageQuery { by, ..all.clone() };
    let sums = [
        by(UsageBy::Runtime),
        by(UsageBy::User),
        by(UsageBy::Day),
        UsageQuery {
            days: (DAY0 + 3, DAY0 + 5),
            ..by(UsageBy::User)
        },
    ];
    let owner = Owner {
        principal: Principal::user(7),
        user: None,
    };
    let sessions = [
        by(UsageBy::Session),
        UsageQuery {
            runtime: Some(RuntimeName::parse("r07").expect("name")),
            ..by(UsageBy::Session)
        },
        UsageQuery {
            owner: Some(owner),
            ..by(UsageBy::Session)
        },
        UsageQuery {
            days: (DAY0 + 3, DAY0 + 3),
            ..by(UsageBy::Session)
        },
    ];
    let mut slowest = Duration::ZERO;
    let mut took = |what: &str, began: Instant, rows: usize| {
        let took = began.elapsed();
        println!("{what}: {took:?}, {rows} rows");
        assert!(rows > 0, "{what}: nothing");
        slowest = slowest.max(took);
    };
    let page = || PageRequest::parse(Some(1000), None).expect("request");
    // The first of each opens the file's pages, as a daemon's would.
    for _ in 0..2 {
        for query in &sums {
            let began = Instant::now();
            let rows = store.usage_sums(page(), query.clone(), Vec::new()).await;
            took(
                &format!("{:?}", query.by),
                began,
                rows.expect("found").items.len(),
            );
        }
        for query in &sessions {
            let request = PageRequest::default();
            let began = Instant::now();
            let rows = store
                .usage_sessions(request, query.clone(), Vec::new())
                .await;
            took("Session", began, rows.expect("found").items.len());
        }
        let began = Instant::now();
        let key = owner_key();
        let used = store.usage_of_user("r07".into(), key.clone(), DAY0).await;
        took("of a user in a runtime", began, some(used.expect("found")));
        let began = Instant::now();
        let used = store.usage_total(UsageBy::User, key, DAY0).await;
        took("of a user", began, some(used.expect("found")));
        for filter in [
            TaskFilter::default(),
            TaskFilter {
                runtime: Some(RuntimeName::parse("r07").expect("name")),
                ..TaskFilter::default()
            },
            TaskFilter {
                session: Some(ClientSessionId::parse(client(99)).expect("id")),
                ..TaskFilter::default()
            },
            TaskFilter {
                statuses: vec![TaskStatus::Failed],
                ..TaskFilter::default()
            },
            TaskFilter {
                runtime: Some(RuntimeName::parse("r07").expect("name")),
                statuses: vec![TaskStatus::Succeeded, TaskStatus::Lost],
                ..TaskFilter::default()
            },
            // Rare and old.
            TaskFilter {
                runtime: Some(RuntimeName::parse("r00").expect("name")),
                statuses: vec![TaskStatus::Cancelled],
                ..TaskFilter::default()
            },
        ] {
            let began = Instant::now();
            let rows = store.tasks(page(), filter.clone()).await;
            took(
                &format!("{filter:?}"),
                began,
                rows.expect("found").items.len(),
            );
        }
        let one = SessionId::parse("s00000000000000000999").expect("id");
        let began = Instant::now();
        let rows = store.invocations(page(), Some(one), None).await;
        took("invocations", began, rows.expect("found").items.len());
    }
    // The promise is the optimised build's: SQLite is not optimised in the other.
    let bound = if cfg!(debug_assertions) { 100 } else { 50 };
    assert!(slowest < Duration::from_millis(bound), "{slowest:?}");
}
