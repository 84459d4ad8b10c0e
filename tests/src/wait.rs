//! Waiting for conditions, bounded; never for time to pass.

use std::time::{Duration, Instant};

/// The factor on every waiting time: an emulated machine is ten times slower, and a bound is no promise of speed.
#[must_use]
pub fn patience() -> u32 {
    std::env::var("AGENTCORE_PATIENCE")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(1)
}

/// `seconds`, times [`patience`].
#[must_use]
pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds) * patience()
}

/// Polls `condition` until it gives something; fails after `bound` seconds (times patience) saying `what`.
pub fn until<T>(
    bound: u64,
    what: &str,
    mut condition: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let bound = seconds(bound);
    let began = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(found) = condition()? {
            return Ok(found);
        }
        anyhow::ensure!(
            began.elapsed() < bound,
            "waited {:.1} s in vain for {what}",
            bound.as_secs_f64()
        );
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// [`until`] for a plain yes or no.
pub fn until_true(
    bound: u64,
    what: &str,
    mut condition: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    until(bound, what, || Ok(condition()?.then_some(())))
}
