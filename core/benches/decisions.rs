//! What is decided for every new session and every call: whether one more may begin (asked again for all that wait), how many are
//! to wait in pools, and what becomes of a session. `cargo bench -p session-core`.

#![forbid(unsafe_code)]

use criterion::{Criterion, criterion_group, criterion_main};
use session_core::admission::{Decision, Idle, Policy, Pressure, Readings, Wanted, decide};
use session_core::lifecycle::{Event, Policy as Lifetimes, Session};
use session_core::moment::Moment;
use session_core::pool::{Bounds, Demand, Pressure as Felt, Wish, share_out, target};
use std::hint::black_box;
use std::time::Duration;

const NOW: Moment = Moment(3_600_000);

const WANTED: Wanted = Wanted {
    memory: 512 << 20,
    until: Moment(3_610_000),
    behind: 100,
    behind_memory: 100 * (512 << 20),
};

fn readings(free_places: u32) -> Readings {
    Readings {
        free_places,
        committed: 200 << 30,
        leaving: 2,
        leaving_bytes: 1 << 30,
        host_memory: Some(24 << 30),
        available: Some(12 << 30),
        pressure: Some(Pressure::default()),
        ..Readings::default()
    }
}

fn admission(criterion: &mut Criterion) {
    let idle: Vec<Idle> = (0..2_000_u64)
        .map(|n| Idle {
            // In no order, as a table of sessions is.
            since: Moment(n.wrapping_mul(2_654_435_761) % 3_500_000),
            frozen: n % 3 > 0,
            committed: 64 << 20,
        })
        .collect();
    criterion.bench_function("admission: there is room, 2,000 sessions idle", |bench| {
        let readings = readings(50);
        bench.iter(|| decide(NOW, &Policy::BUILT_IN, black_box(&readings), &WANTED, &idle));
    });
    criterion.bench_function(
        "admission: who of 2,000 idle sessions gives way to 101",
        |bench| {
            let readings = readings(0);
            let decided = decide(NOW, &Policy::BUILT_IN, &readings, &WANTED, &idle);
            assert!(matches!(decided, Decision::Evict(..)), "{decided:?}");
            bench.iter(|| decide(NOW, &Policy::BUILT_IN, black_box(&readings), &WANTED, &idle));
        },
    );
}

fn pools(criterion: &mut Criterion) {
    let bounds = Bounds { min: 0, max: 32 };
    let (lead, unused_after) = (Duration::from_millis(300), Duration::from_secs(600));
    criterion.bench_function("pool: an arrival, and how many are to wait", |bench| {
        let mut demand = Demand::default();
        let mut now = NOW;
        bench.iter(|| {
            now = now + Duration::from_millis(7);
            demand.arrived(black_box(now), lead, bounds.max);
            target(&demand, now, bounds, unused_after, Felt::Calm)
        });
    });
    criterion.bench_function("pool: 100 versions share 64 places", |bench| {
        let wishes: Vec<Wish> = (0..100)
            .map(|n| Wish {
                min: n % 2,
                target: n % 7,
            })
            .collect();
        bench.iter(|| share_out(black_box(&wishes), 64));
    });
}

fn lives(criterion: &mut Criterion) {
    criterion.bench_function("lifecycle: a call begins and ends", |bench| {
        let policy = Lifetimes {
            start_timeout: Duration::from_secs(120),
            idle_timeout: Duration::from_secs(900),
            max_lifetime: Duration::from_secs(28_800),
            stop_grace: Duration::from_secs(15),
            unhealthy_after: Duration::from_secs(60),
            freeze_after: Some(Duration::from_secs(30)),
        };
        let mut session = Session::new(NOW, policy);
        for event in [
            Event::Attached,
            Event::Found {
                idle: Duration::ZERO,
            },
        ] {
            session.step(NOW, event);
        }
        bench.iter(|| {
            session.begin_work(black_box(NOW)).expect("live");
            session.step(NOW, Event::WorkEnds)
        });
    });
}

criterion_group!(benches, admission, pools, lives);
criterion_main!(benches);
