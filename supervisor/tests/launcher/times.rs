//! Figures, not judgements: how long a launch takes from the broker's order to the running shim. Ignored by default:
//! `cargo test --release -p supervisor --test launcher -- --ignored --nocapture`.

use super::ground::{Ground, LIMITS, id};
use std::time::{Duration, Instant};

const LAUNCHES: u32 = 100;

pub(crate) async fn launches(ground: Ground) {
    tracing_subscriber::fmt()
        .with_env_filter("supervisor=debug")
        .with_writer(std::io::stderr)
        .init();
    let daemon = ground.daemon();
    for prepared in [true, false] {
        let (mut launches, mut removals) = (Vec::new(), Vec::new());
        for _ in 0..LAUNCHES {
            if prepared {
                daemon.client.prepare(id("stimes")).await.expect("prepare");
                // Off the request path: the stager enters its cgroup in peace.
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
            let began = Instant::now();
            daemon
                .launch_with(&ground, "stimes", "stay", 1, LIMITS)
                .await
                .expect("launch");
            launches.push(began.elapsed());
            let began = Instant::now();
            daemon.client.remove(id("stimes")).await.expect("remove");
            removals.push(began.elapsed());
        }
        let what = if prepared { "prepared" } else { "on the spot" };
        println!(
            "launch {what}: {}; removal: {}",
            percentiles(launches),
            percentiles(removals)
        );
    }
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    format!("p50 {:?}, p90 {:?}, p99 {:?}", at(50), at(90), at(99))
}
