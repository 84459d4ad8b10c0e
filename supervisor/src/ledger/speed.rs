//! Queries over a ledger of a million records. Not run by itself: `cargo nextest run -p supervisor --run-ignored all a_million`.

use super::record::DAY_MS;
use crate::owner::{Owner, Principal};
use crate::store::{Names, PageRequest, Store, UsageBy, UsageQuery};
use proto::ids::{RuntimeName, SessionId};
use rusqlite::Connection;
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

fn names() -> Names {
    Names {
        region: "us-local-1".into(),
        account: "000000000000".into(),
    }
}

async fn filled(path: &Path) -> Store {
    Store::open(path, names()).expect("made").close().await;
    let db = Connection::open(path).expect("opens");
    let fill = FILL.replace("DAY0", &(DAY0 * DAY_MS).to_string());
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
        let one = SessionId::parse("s00000000000000000999").expect("id");
        let began = Instant::now();
        let rows = store.invocations(page(), Some(one), None).await;
        took("invocations", began, rows.expect("found").items.len());
    }
    assert!(slowest < Duration::from_millis(50), "{slowest:?}");
}
