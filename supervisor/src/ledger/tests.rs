//! Tier 2: a ledger in a temporary directory, and somebody who changes it.

use super::record::DAY_MS;
use super::*;
use crate::owner::{Owner, Principal};
use crate::store::{Names, PageRequest, UsageBy, UsageQuery};
use chain::Chain;
use proto::api::LedgerCheck;
use proto::config::Budget;
use proto::ids::{ClientSessionId, EndpointName, RuntimeId, RuntimeName, VersionNumber};
use record::Invocation;
use rusqlite::Connection;
use session_core::meter::Activity;

const NOON: i64 = 20_000 * DAY_MS + DAY_MS / 2;

struct Ground {
    directory: tempfile::TempDir,
    ledger: Ledger,
}

fn subject(number: u32, runtime: &str) -> Subject {
    Subject {
        session: SessionId::parse(format!("s{number:020}")).expect("id"),
        client: ClientSessionId::parse(format!("client-session-of-the-ledger-tests-{number:06}"))
            .expect("id"),
        runtime: RuntimeName::parse(runtime).expect("name"),
        runtime_id: RuntimeId::parse(format!("{runtime}-0123456789")).expect("id"),
        version: VersionNumber(1),
        endpoint: EndpointName::default_endpoint(),
        owner: Owner {
            principal: Principal::user(number % 3),
            user: None,
        },
        created_at: Timestamp(NOON),
    }
}

fn part(number: u32, runtime: &str, at: i64) -> SessionPart {
    let factor = u64::from(number) + 1;
    SessionPart {
        subject: subject(number, runtime),
        at: Timestamp(at),
        reason: Some(EndReason::Idle),
        used: Totals {
            wall_ms: 1000 * factor,
            cpu_us: 7 * factor,
            peak_bytes: 100 * factor,
            invocations: factor,
            ..Totals::default()
        },
    }
}

fn invocation(number: u32) -> Invocation {
    Invocation {
        subject: subject(number, if number.is_multiple_of(2) { "a" } else { "b" }),
        at: Timestamp(NOON),
        task: number.is_multiple_of(2).then(|| format!("task-{number}")),
        count: 1,
        wall_ms: u64::from(number),
        bytes_in: 1,
        bytes_out: 2,
        cpu_us: 3,
    }
}

impl Ground {
    async fn new() -> Self {
        Self::on(tempfile::tempdir().expect("directory")).await
    }

    async fn on(directory: tempfile::TempDir) -> Self {
        let names = Names {
            region: "us-local-1".into(),
            account: "000000000000".into(),
        };
        let store = Store::open(&directory.path().join("agentcore.db"), names).expect("opens");
        let ledger = Ledger::open(directory.path(), store, "boot")
            .await
            .expect("opens");
        Self { directory, ledger }
    }

    /// Ten sessions of two runtimes on three days, ten invocations, and a checkpoint after each half.
    async fn filled() -> Self {
        let ground = Self::new().await;
        for half in [0..5_u32, 5..10] {
            for number in half.clone() {
                let runtime = if number.is_multiple_of(2) { "a" } else { "b" };
                let at = NOON + i64::from(number % 3) * DAY_MS;
                ground.record(part(number, runtime, at)).await;
            }
            let invocations = half.map(invocation).collect();
            let store = &ground.ledger.store;
            store
                .record_invocations(invocations, None)
                .await
                .expect("recorded");
            ground.ledger.checkpoint(None).await.expect("made");
        }
        ground
    }

    async fn record(&self, part: SessionPart) {
        let meter = Meter::new(Moment(0), NOTHING).saved();
        let saved = SavedMeter {
            subject: part.subject.clone(),
            boot_id: "boot".into(),
            boot_ms: 0,
            saved_at: part.at,
            meter,
            counted: Totals::default(),
            recorded: Totals::default(),
            closed: false,
        };
        let parts = vec![(part, saved)];
        self.ledger
            .store
            .record_parts(parts)
            .await
            .expect("recorded");
    }

    /// Closes the daemon, lets somebody at the database, and starts it again.
    async fn tampered(self, sql: &str) -> Self {
        let directory = self.stop().await;
        let db = Connection::open(directory.path().join("agentcore.db")).expect("opens");
        let changed = db.execute_batch(sql);
        changed.expect("somebody changes it");
        drop(db);
        Self::on(directory).await
    }

    async fn stop(self) -> tempfile::TempDir {
        let Self { directory, ledger } = self;
        ledger.store.close().await;
        directory
    }

    async fn verify(&self) -> LedgerCheck {
        self.ledger.verify().await.expect("looked at")
    }
}

const NOTHING: Allocated = Allocated {
    memory_bytes: 0,
    cpu_millis: 0,
};

/// Of everybody and all days.
fn everything(by: UsageBy) -> UsageQuery {
    UsageQuery {
        by,
        runtime: None,
        owner: None,
        days: (0, i64::MAX),
    }
}

fn aged(seconds: u64) -> Resumed {
    Resumed {
        age: Duration::from_secs(seconds),
        ..Resumed::default()
    }
}

#[tokio::test]
async fn what_nobody_touched_holds_and_goes_on_after_a_restart() {
    let ground = Ground::filled().await;
    let check = ground.verify().await;
    assert!(check.ok, "{check:?}");
    assert_eq!(
        (check.sessions, check.invocations, check.checkpoints),
        (10, 10, 2)
    );
    let ground = Ground::on(ground.stop().await).await;
    ground.record(part(77, "a", NOON)).await;
    let check = ground.verify().await;
    assert!(check.ok, "{check:?}");
    assert_eq!(check.sessions, 11);
}

#[tokio::test]
async fn whatever_is_changed_shows_and_is_named() {
    for (sql, chain, record, words) in [
        ("UPDATE usage_sessions SET cpu_us = cpu_us - 1 WHERE seq = 4", "sessions", Some(4), "changed"),
        ("UPDATE usage_sessions SET reason = NULL WHERE seq = 4", "sessions", Some(4), "changed"),
        ("UPDATE usage_sessions SET at = at + 1 WHERE seq = 10", "sessions", Some(10), "changed"),
        ("UPDATE usage_sessions SET mac = zeroblob(32) WHERE seq = 3", "sessions", Some(3), "changed"),
        ("DELETE FROM usage_sessions WHERE seq = 6", "sessions", Some(7), "record 6 is missing"),
        ("DELETE FROM usage_sessions WHERE seq < 3", "sessions", Some(3), "records 1 to 2 are missing"),
        // The last is gone: the chain alone would hold.
        ("DELETE FROM usage_sessions WHERE seq = 10", "sessions", Some(10), "cut off: there were 10 records"),
        ("DELETE FROM usage_sessions", "sessions", Some(1), "cut off"),
        // In another order.
        (
            "UPDATE usage_sessions SET seq = 100 WHERE seq = 2; UPDATE usage_sessions SET seq = 2 WHERE seq = 3;
             UPDATE usage_sessions SET seq = 3 WHERE seq = 100",
            "sessions", Some(2), "changed",
        ),
        // Renumbered over a gap.
        (
            "DELETE FROM usage_sessions WHERE seq = 5; UPDATE usage_sessions SET seq = seq - 1 WHERE seq = 6",
            "sessions", Some(5), "changed",
        ),
        // Of somebody else.
        ("UPDATE usage_subjects SET owner = '[\"uid:9\",null]' WHERE ref = 3", "sessions", Some(3), "changed"),
        ("UPDATE usage_subjects SET runtime = 'other' WHERE ref = 3", "sessions", Some(3), "changed"),
        ("UPDATE usage_subjects SET runtime = '../x' WHERE ref = 3", "sessions", Some(3), "changed"),
        // A copy of a record that holds.
        (
            "INSERT INTO usage_sessions SELECT 11, subject, at, reason, wall_ms, active_ms, frozen_ms, cpu_us, memory_kbs,
                 memory_peak_kbs, memory_aws_kbs, allocated_memory_kbs, allocated_cpu_ms, invocations, bytes_in, bytes_out,
                 egress_in, egress_out, peak_bytes, tmp_bytes, mac FROM usage_sessions WHERE seq = 10",
            "sessions", Some(11), "changed",
        ),
        ("UPDATE usage_invocations SET task = NULL WHERE seq = 1", "invocations", Some(1), "changed"),
        ("UPDATE usage_invocations SET bytes_out = 0 WHERE seq = 9", "invocations", Some(9), "changed"),
        ("DELETE FROM usage_invocations WHERE seq > 7", "invocations", Some(8), "cut off"),
        ("UPDATE usage_sums SET cpu_us = 1 WHERE dimension = 1", "sums", None, "the sum of runtime a"),
        ("DELETE FROM usage_sums WHERE dimension = 2 AND day = 20000", "sums", None, "the sums of users on 2024-10-04"),
        ("DELETE FROM usage_sums", "sums", None, "the sums of 2024-10-04 are not those of its records"),
        // Somebody says that old records were removed for their age.
        (
            "DELETE FROM usage_sessions WHERE seq < 3;
             INSERT INTO usage_anchors SELECT 'sessions', 2, 0, zeroblob(32), zeroblob(32)",
            "sessions", None, "not this daemon's word",
        ),
    ] {
        let ground = Ground::filled().await.tampered(sql).await;
        let check = ground.verify().await;
        let fault = check.fault.unwrap_or_else(|| panic!("not seen: {sql}"));
        assert!(!check.ok);
        assert_eq!((fault.chain.as_str(), fault.record), (chain, record), "{sql}: {fault:?}");
        assert!(fault.message.contains(words), "{sql}: {fault:?}");
    }
}

#[tokio::test]
async fn without_its_key_or_its_checkpoints_nothing_is_believed() {
    let ground = Ground::filled().await;
    let directory = ground.stop().await;
    let file = directory.path().join("ledger.checkpoints");
    let text = std::fs::read_to_string(&file).expect("there");
    std::fs::write(&file, text.replace("\"sessions\":10", "\"sessions\":9")).expect("changed");
    let ground = Ground::on(directory).await;
    let fault = ground.verify().await.fault.expect("seen");
    assert_eq!(
        (fault.chain.as_str(), fault.record),
        ("checkpoints", Some(2))
    );
    let directory = ground.stop().await;
    std::fs::write(&file, text).expect("as it was");
    std::fs::remove_file(directory.path().join("ledger.key")).expect("lost");
    let ground = Ground::on(directory).await;
    assert!(!ground.verify().await.ok, "proven with another key");
}

#[tokio::test]
async fn a_power_cut_is_no_crime() {
    let ground = Ground::filled().await;
    let directory = ground.stop().await;
    let path = directory.path().join("agentcore.db");
    let copy = std::fs::read(&path).expect("as it was at the last checkpoint");
    let ground = Ground::on(directory).await;
    let store = &ground.ledger.store;
    store
        .record_invocations(vec![invocation(90)], None)
        .await
        .expect("recorded");
    ground.record(part(90, "a", NOON)).await;
    // What no checkpoint knows is gone, and others come in its place.
    let directory = ground.stop().await;
    std::fs::write(&path, copy).expect("written");
    let ground = Ground::on(directory).await;
    ground.record(part(91, "a", NOON)).await;
    let check = ground.verify().await;
    assert!(check.ok, "{check:?}");
    assert_eq!((check.sessions, check.invocations), (11, 10));
}

#[tokio::test]
async fn old_records_go_and_what_is_left_holds() {
    let ground = Ground::filled().await;
    let store = &ground.ledger.store;
    let prune = |chain, before, rows| store.prune_usage(chain, Timestamp(before), rows, 7);
    assert_eq!(
        prune(Chain::Sessions, NOON, i64::MAX)
            .await
            .expect("looked"),
        0
    );
    // In the order of the chain: the second is younger, so that only the first goes.
    assert_eq!(
        prune(Chain::Sessions, NOON + 1, i64::MAX)
            .await
            .expect("gone"),
        1
    );
    assert_eq!(prune(Chain::Invocations, 0, 4).await.expect("gone"), 6);
    // Nothing beyond what a checkpoint has proven.
    let far = NOON + 90 * DAY_MS;
    assert_eq!(
        prune(Chain::Sessions, far, i64::MAX).await.expect("gone"),
        6
    );
    assert_eq!(
        prune(Chain::Sessions, far, i64::MAX).await.expect("looked"),
        0
    );
    assert!(store.prune_subjects(0).await.expect("looked").is_some());
    let check = ground.verify().await;
    assert!(check.ok, "{check:?}");
    assert_eq!((check.sessions, check.invocations), (3, 4));
    // The sums still have all of them.
    let page = store.usage_sums(
        PageRequest::default(),
        everything(UsageBy::Runtime),
        Vec::new(),
    );
    let rows = page.await.expect("found").items;
    let sums: Vec<_> = rows
        .iter()
        .map(|row| (row.key.as_str(), row.sessions))
        .collect();
    assert_eq!(sums, [("a", 5), ("b", 5)]);
    ground.record(part(12, "a", NOON)).await;
    let check = ground.verify().await;
    assert!(check.ok, "{check:?}");
}

#[tokio::test]
async fn sums_are_told_by_each_key_page_by_page_and_with_what_lives() {
    let ground = Ground::filled().await;
    let store = &ground.ledger.store;
    let live = || {
        vec![
            LiveUse {
                subject: subject(100, "a"),
                used: Totals {
                    cpu_us: 1000,
                    ..Totals::default()
                },
            },
            LiveUse {
                subject: subject(102, "aa"),
                used: Totals {
                    cpu_us: 500,
                    ..Totals::default()
                },
            },
            // It costs, and is no session.
            LiveUse {
                subject: Subject {
                    owner: Owner::template(),
                    ..subject(103, "aa")
                },
                used: Totals {
                    cpu_us: 20,
                    ..Totals::default()
                },
            },
        ]
    };
    for size in [1, 2, 100] {
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let request = PageRequest::parse(Some(size), token.as_deref()).expect("request");
            let page = store.usage_sums(request, everything(UsageBy::Runtime), live());
            let page = page.await.expect("found");
            found.extend(page.items);
            token = page.next_token;
            if token.is_none() {
                break;
            }
        }
        let told: Vec<_> = found
            .iter()
            .map(|row| (row.key.as_str(), row.sessions, row.live, row.used.cpu_us))
            .collect();
        // 7 × (1 + 3 + 5 + 7 + 9) and 7 × (2 + 4 + 6 + 8 + 10)
        let wanted = [("a", 5, 1, 1175), ("aa", 0, 1, 520), ("b", 5, 0, 210)];
        assert_eq!(told, wanted, "{size} a page");
    }
    let all = PageRequest::default;
    let users = store
        .usage_sums(all(), everything(UsageBy::User), Vec::new())
        .await
        .expect("found");
    assert_eq!(users.items.len(), 3);
    let days = store
        .usage_sums(all(), everything(UsageBy::Day), Vec::new())
        .await
        .expect("found");
    let told: Vec<_> = days
        .items
        .iter()
        .map(|row| (row.key.as_str(), row.sessions))
        .collect();
    assert_eq!(
        told,
        [("2024-10-04", 4), ("2024-10-05", 3), ("2024-10-06", 3)]
    );
    let total = |rows: &[crate::store::SumRow]| rows.iter().map(|row| row.used.cpu_us).sum::<u64>();
    assert_eq!(total(&users.items), 385);
    assert_eq!(total(&days.items), 385);
    let second = UsageQuery {
        days: (20_001, 20_001),
        ..everything(UsageBy::Runtime)
    };
    let rows = store
        .usage_sums(all(), second, live())
        .await
        .expect("found")
        .items;
    let told: Vec<_> = rows
        .iter()
        .map(|row| (row.key.as_str(), row.sessions, row.live))
        .collect();
    assert_eq!(
        told,
        [("a", 1, 0), ("b", 2, 0)],
        "what lives now is not of that day"
    );
    let sessions = store
        .usage_sessions(all(), everything(UsageBy::Session), Vec::new())
        .await
        .expect("found");
    assert_eq!(sessions.items.len(), 10);
    let newest = sessions.items.first().expect("one");
    assert_eq!(
        (newest.subject.clone(), newest.used),
        (subject(9, "b"), part(9, "b", 0).used)
    );
    let one = UsageQuery {
        runtime: Some(RuntimeName::parse("b").expect("name")),
        ..everything(UsageBy::Session)
    };
    let some = store
        .usage_sessions(all(), one, Vec::new())
        .await
        .expect("found");
    assert_eq!(some.items.len(), 5);
    let tasks = store
        .invocations(all(), None, Some("task-4".into()))
        .await
        .expect("found");
    assert_eq!(
        tasks.items.first().map(|row| (row.seq, row.record.clone())),
        Some((5, invocation(4)))
    );
}

#[tokio::test(start_paused = true)]
async fn an_account_goes_on_where_a_killed_daemon_left_it() {
    let ground = Ground::new().await;
    let ledger = &ground.ledger;
    let limits = Allocated {
        memory_bytes: 1_000_000_000,
        cpu_millis: 1000,
    };
    let account = ledger.begin(subject(1, "a"), limits, Moment(0));
    let read = |cpu_us| Reading {
        cpu_us,
        memory_bytes: 100_000_000,
        peak_bytes: 100_000_000,
        tmp_bytes: Some(9),
    };
    account.phase(Moment(0), proto::api::Phase::Busy);
    let charge = account.charge();
    charge.came(10);
    charge.went(20);
    charge.for_task("t");
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(charge);
    let ended = account.read(Moment(1000), read(500));
    assert_eq!(ended.len(), 1);
    let one = &ended.first().expect("one").of;
    assert_eq!(
        (one.cpu_us, one.wall_ms, one.bytes_in, one.bytes_out),
        (500, 1000, 10, 20)
    );
    assert_eq!(one.task.as_deref(), Some("t"));
    let until = ledger.journal.turn();
    let mut waiting = Waiting::default();
    waiting.extend(ended);
    waiting.write(ledger, until).await;
    ledger.save(false).await;
    let directory = ground.stop().await;

    let ground = Ground::on(directory).await;
    let age = aged(9);
    let account = ground
        .ledger
        .resume(subject(1, "a"), limits, Moment(50_000), age);
    account.read(Moment(51_000), read(900));
    let part = ground.ledger.close(
        &account,
        Moment(52_000),
        Counters {
            cpu_us: 1000,
            memory_peak_bytes: 100_000_000,
            ..Counters::default()
        },
        EndReason::Stopped,
    );
    assert_eq!(part.used.cpu_us, 1000);
    assert_eq!(part.used.active_ms, 1000);
    assert_eq!(
        (
            part.used.invocations,
            part.used.bytes_in,
            part.used.bytes_out
        ),
        (1, 10, 20)
    );
    assert_eq!(part.used.tmp_bytes, 9);
    // Three seconds, and the moment between the two daemons.
    assert!(
        (3000..30_000).contains(&part.used.wall_ms),
        "{:?}",
        part.used
    );
    assert!(ground.ledger.live(Moment(53_000)).is_empty());
}

#[tokio::test]
async fn a_meter_that_somebody_changed_is_not_believed() {
    let ground = Ground::new().await;
    for number in 0..2 {
        ground
            .ledger
            .begin(subject(number, "a"), NOTHING, Moment(0));
    }
    ground.ledger.save(true).await;
    let sql = "UPDATE usage_meters SET state = replace(state, '\"cpu_us\":0', '\"cpu_us\":1') WHERE subject = 1";
    let ground = ground.tampered(sql).await;
    assert_eq!(locked(&ground.ledger.left).len(), 1);
}

#[tokio::test]
async fn a_session_that_nobody_saw_end_is_charged_until_it_was_read_last() {
    let ground = Ground::new().await;
    let account = ground.ledger.begin(subject(1, "a"), NOTHING, Moment(0));
    let mark = Reading {
        cpu_us: 5,
        memory_bytes: 200_000_000,
        peak_bytes: 200_000_000,
        tmp_bytes: None,
    };
    account.read(Moment(4000), mark);
    ground.ledger.save(true).await;
    let ground = Ground::on(ground.stop().await).await;
    let last = Counters {
        cpu_us: 8,
        memory_peak_bytes: 200_000_000,
        ..Counters::default()
    };
    let part = ground
        .ledger
        .bury((subject(1, "a"), 0), last, EndReason::ShimDied, false);
    assert_eq!(
        (part.used.wall_ms, part.used.cpu_us, part.used.memory_kbs),
        (4000, 8, 800_000)
    );
    // Of one that was never read, all that is known is what the kernel counted.
    let part = ground
        .ledger
        .bury((subject(2, "a"), 5), last, EndReason::ShimDied, false);
    // Five of them were somebody else's.
    assert_eq!((part.used.wall_ms, part.used.cpu_us), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_invocations_shares_records_and_loses_no_figure() {
    let ground = Ground::new().await;
    let account = ground.ledger.begin(subject(1, "a"), NOTHING, Moment(0));
    ground
        .ledger
        .room
        .store(3, std::sync::atomic::Ordering::Relaxed);
    let charges: Vec<_> = (0..10).map(|_| account.charge()).collect();
    tokio::time::sleep(Duration::from_millis(10)).await;
    for charge in charges {
        charge.went(5);
    }
    let waived = account.charge();
    waived.waive();
    drop(waived);
    let ended = account.read(
        Moment(1000),
        Reading {
            cpu_us: 1000,
            ..Reading::default()
        },
    );
    let ended: Vec<Invocation> = ended.into_iter().map(|each| each.of).collect();
    assert_eq!(
        ended.iter().map(|each| each.count).collect::<Vec<_>>(),
        [1, 1, 1, 7]
    );
    assert_eq!(ended.iter().map(|each| each.bytes_out).sum::<u64>(), 50);
    assert_eq!(ended.iter().map(|each| each.wall_ms).sum::<u64>(), 100);
    assert_eq!(ended.iter().map(|each| each.cpu_us).sum::<u64>(), 1000);
    assert_eq!(account.used(Moment(1000)).invocations, 10);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_when_a_session_ends_ends_with_it() {
    let ground = Ground::new().await;
    let account = ground.ledger.begin(subject(1, "a"), NOTHING, Moment(0));
    let charge = account.charge();
    charge.went(5);
    tokio::time::sleep(Duration::from_millis(30)).await;
    let part = ground.ledger.close(
        &account,
        Moment(1000),
        Counters {
            cpu_us: 60,
            ..Counters::default()
        },
        EndReason::OutOfMemory,
    );
    assert_eq!(
        (part.used.invocations, part.used.bytes_out, part.used.cpu_us),
        (1, 5, 60)
    );
    drop(charge);
    let ended = std::mem::take(&mut *locked(&ground.ledger.ended));
    assert_eq!(ended.len(), 1, "once");
    assert_eq!(
        ended.first().map(|one| (one.of.wall_ms, one.of.cpu_us)),
        Some((30, 60))
    );
    assert_eq!(account.used(Moment(9000)).invocations, 1);
    // What comes too late is in no record, so it is in no journal either.
    let until = ground.ledger.journal.turn();
    drop(account.charge());
    assert_eq!(account.used(Moment(9000)).invocations, 1);
    assert_eq!(ground.ledger.journal.turn(), until);
}

#[test]
fn a_frozen_session_is_not_read() {
    let meter = Meter::new(Moment(0), NOTHING);
    let room = Arc::new(AtomicUsize::new(1));
    let directory = tempfile::tempdir().expect("directory");
    let (journal, _) = journal::Journal::open(directory.path(), 0).expect("opens");
    let account = Account::new(
        subject(1, "a").session,
        subject(1, "a"),
        meter,
        (Totals::default(), Totals::default()),
        (room, Arc::new(journal)),
    );
    assert!(account.awake());
    account.doing(Moment(1), Activity::Frozen);
    assert!(!account.awake());
}

#[tokio::test]
async fn what_a_killed_daemon_had_not_recorded_is_recorded_by_the_next_and_once() {
    let ground = Ground::new().await;
    let limits = NOTHING;
    let account = ground.ledger.begin(subject(1, "a"), limits, Moment(0));
    let call = |bytes| {
        let charge = account.charge();
        charge.went(bytes);
        drop(charge);
    };
    call(1);
    call(2);
    // The third ends while a round is under way, which sees it and leaves it to the next one. The daemon is killed before that.
    let until = ground.ledger.journal.turn();
    call(4);
    let ended = account.unread();
    assert_eq!(ended.len(), 3);
    let mut waiting = Waiting::default();
    waiting.extend(ended);
    waiting.write(&ground.ledger, until).await;
    let rows = ground
        .ledger
        .store
        .invocations(PageRequest::default(), None, None);
    assert_eq!(rows.await.expect("found").items.len(), 2);
    drop(account);
    let directory = ground.stop().await;
    // The end of a line that was being written.
    let file = std::fs::read_dir(directory.path())
        .expect("lists")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().contains("ledger.journal."))
        .max();
    let file = file.expect("a file");
    let mut text = std::fs::read(&file).expect("read");
    text.extend_from_slice(b"s0000000000000000");
    std::fs::write(&file, text).expect("written");
    let ground = Ground::on(directory).await;
    let store = &ground.ledger.store;
    let page = PageRequest::default();
    let rows = store.invocations(page, None, None).await.expect("found");
    let mut bytes: Vec<u64> = rows.items.iter().map(|row| row.record.bytes_out).collect();
    bytes.sort_unstable();
    assert_eq!(bytes, [1, 2, 4]);
    // Its meter was never written down: what it counted is known all the same.
    let age = aged(1);
    let account = ground
        .ledger
        .resume(subject(1, "a"), limits, Moment(1000), age);
    let used = account.used(Moment(1000));
    assert_eq!((used.invocations, used.bytes_out), (3, 7));
    let ground = Ground::on(ground.stop().await).await;
    let store = &ground.ledger.store;
    let rows = store.invocations(PageRequest::default(), None, None).await;
    assert_eq!(rows.expect("found").items.len(), 3, "recorded twice");
    assert!(ground.verify().await.ok);
}

#[tokio::test]
async fn what_waited_for_a_disk_is_recorded_by_whole_files_of_the_journal() {
    let ground = Ground::new().await;
    let account = ground.ledger.begin(subject(1, "a"), NOTHING, Moment(0));
    let journal = &ground.ledger.journal;
    let mut waiting = Waiting::default();
    let mut until = 0;
    for _ in 0..3 {
        (0..400).for_each(|_| drop(account.charge()));
        until = journal.turn();
        waiting.extend(account.unread());
    }
    waiting.write(&ground.ledger, until).await;
    let store = &ground.ledger.store;
    assert_eq!(store.journal_recorded().await.expect("read"), until);
    let ground = Ground::on(ground.stop().await).await;
    // A thousand that had room, and one record of the others.
    assert_eq!(ground.verify().await.invocations, 1000 + 1);
}

#[tokio::test]
async fn what_is_used_before_a_claim_is_the_pools_and_nothing_is_charged_twice() {
    let ground = Ground::new().await;
    let ledger = &ground.ledger;
    let mut nobodys = subject(1, "a");
    nobodys.owner = Owner::pool();
    let waiting = ledger.wait(nobodys, NOTHING, Moment(0));
    assert_ne!(waiting.subject.session, waiting.session);
    let name = |id: &str| {
        let session = SessionId::parse(id).expect("id");
        let own = Subject {
            session,
            ..subject(1, "a")
        };
        own.waiting().session.to_string()
    };
    assert_eq!(name("sabc"), "wabc");
    assert_eq!(name("ssabc"), "wsabc", "the first letter only");
    let read = |cpu_us| Reading {
        cpu_us,
        memory_bytes: 1_000_000,
        peak_bytes: 1_000_000,
        tmp_bytes: None,
    };
    waiting.read(Moment(1000), read(900));
    let (own, closed) = ledger.claim(&waiting, subject(1, "a"), NOTHING, Moment(5000));
    let waited = closed.last_part();
    assert_eq!((waited.used.cpu_us, waited.used.wall_ms), (900, 5000));
    assert!(!waited.ends_a_session());
    // The same counter goes on; a reading from before the claim that comes late changes nothing.
    own.read(Moment(5001), read(899));
    own.read(Moment(6000), read(1000));
    assert_eq!(own.used(Moment(6000)).cpu_us, 100);
    assert_eq!(waiting.read(Moment(6000), read(1000)), []);
    assert!(
        ledger
            .of(&own.session)
            .is_some_and(|of| Arc::ptr_eq(&of, &own))
    );
    let last = Counters {
        cpu_us: 1500,
        ..Counters::default()
    };
    let part = ledger.close(&own, Moment(7000), last, EndReason::Stopped);
    assert_eq!((part.used.cpu_us, part.used.wall_ms), (600, 2000));
    assert!(part.ends_a_session());
    assert_eq!(part.subject, subject(1, "a"));
    // What waits is nobody's session: of the budgets only its runtime's counts it.
    let some = Budget {
        cpu_seconds: Some(1.0),
        ..Budget::default()
    };
    let all = proto::config::Budgets {
        session: some,
        user: some,
        runtime: some,
    };
    let bound = |account: &Account| -> Vec<budgets::Scope> {
        let found = budgets::budgets_of(account, &all, 0);
        found.map(|(holder, _)| holder.scope).collect()
    };
    assert_eq!(bound(&waiting), [budgets::Scope::Runtime]);
    assert_eq!(bound(&own), budgets::Scope::ALL);
}

#[tokio::test]
async fn the_account_of_what_is_nobodys_goes_on_after_a_restart() {
    let ground = Ground::new().await;
    let nobodys = Subject {
        owner: Owner::template(),
        ..subject(1, "a")
    };
    let account = ground.ledger.wait(nobodys.clone(), NOTHING, Moment(0));
    let read = Reading {
        cpu_us: 900,
        memory_bytes: 0,
        peak_bytes: 0,
        tmp_bytes: None,
    };
    account.read(Moment(1000), read);
    ground.ledger.save(false).await;
    drop(account);
    let ground = Ground::on(ground.stop().await).await;
    let age = aged(3600);
    let account = ground.ledger.resume(nobodys, NOTHING, Moment(50_000), age);
    assert_eq!(account.used(Moment(50_000)).cpu_us, 900);
}

#[tokio::test]
async fn what_was_used_before_a_claim_is_recorded_once_whoever_is_killed_when() {
    let read = |cpu_us| Reading {
        cpu_us,
        memory_bytes: 1_000_000,
        peak_bytes: 1_000_000,
        tmp_bytes: None,
    };
    let nobodys = || Subject {
        owner: Owner::pool(),
        ..subject(1, "a")
    };
    // Its daemon ends in order; it is killed before the round after the claim; after that, but before the session's own meter is
    // written down; and in the middle of a round that has seen the session waiting.
    for case in ["settled", "killed", "recorded", "late"] {
        let ground = Ground::new().await;
        let ledger = &ground.ledger;
        let waiting = ledger.wait(nobodys(), NOTHING, Moment(0));
        waiting.read(Moment(1000), read(900));
        ledger.save(false).await;
        waiting.read(Moment(4000), read(1000));
        let late = waiting.to_save(&ledger.boot).expect("it has changed");
        let (own, closed) = ledger.claim(&waiting, subject(1, "a"), NOTHING, Moment(5000));
        assert_eq!(closed.meter.cpu_us(), 1000);
        let told = || {
            let mut live = ledger.live(Moment(5000)).into_iter();
            live.find(|live| live.subject == nobodys().waiting())
        };
        assert_eq!(told().expect("not told").used, closed.last_part().used);
        let saved = ledger.store.save_meters(vec![closed], false);
        saved.await.expect("written down");
        match case {
            "settled" => {
                ledger.record_claimed().await;
                ledger.save(true).await;
            }
            "killed" => {}
            "recorded" => ledger.record_claimed().await,
            _ => {
                let late = ledger.store.save_meters(vec![late], false);
                late.await.expect("tried");
            }
        }
        let recorded = ["settled", "recorded"].contains(&case);
        assert_eq!(told().is_none(), recorded, "{case}");
        drop((own, waiting));
        // Of a second daemon that is killed as soon nothing is recorded again.
        let ground = Ground::on(ground.stop().await).await;
        let ground = Ground::on(ground.stop().await).await;
        let ledger = &ground.ledger;
        let resumed = Resumed {
            cpu_before: 1000,
            ..aged(1)
        };
        let own = ledger.resume(subject(1, "a"), NOTHING, Moment(50_000), resumed);
        own.read(Moment(50_001), read(1700));
        let last = Counters {
            cpu_us: 1800,
            ..Counters::default()
        };
        let last = ledger.close(&own, Moment(50_002), last, EndReason::Stopped);
        assert_eq!(last.used.cpu_us, 800, "{case}");
        ground.record(last).await;
        let store = &ground.ledger.store;
        let sums = store.usage_sums(
            PageRequest::default(),
            everything(UsageBy::Runtime),
            Vec::new(),
        );
        let sums = sums.await.expect("summed").items;
        let sums: Vec<_> = sums
            .iter()
            .map(|row| (row.sessions, row.used.cpu_us))
            .collect();
        assert_eq!(sums, [(1, 1800)], "{case}");
        let check = ground.verify().await;
        assert!(check.ok && check.sessions == 2, "{case}: {check:?}");
    }
}
