//! Whether one more session may begin: asked for every new session, and again for all that wait. `cargo bench -p session-core`.

#![forbid(unsafe_code)]

use criterion::{Criterion, criterion_group, criterion_main};
use session_core::admission::{Decision, Idle, Policy, Pressure, Readings, Wanted, decide};
use session_core::moment::Moment;
use std::hint::black_box;

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

criterion_group!(benches, admission);
criterion_main!(benches);
