//! A scrape: what is there now, and the text of all figures, in OpenMetrics or in the older form that every collector reads.

use super::Metrics;
use super::labels::{self, Resource, State, StreamKind, TaskState};
use crate::broker::Broker;
use crate::store::Timestamp;
use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// Content type of OpenMetrics.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Content type of the older text form.
pub const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Metrics {
    /// All figures, as OpenMetrics.
    #[must_use]
    pub fn text(&self, broker: &Broker) -> String {
        let _alone = self.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        let mut live: HashMap<State, i64> = HashMap::new();
        for handle in broker.registry.all() {
            let state = State {
                state: labels::state(handle.view().phase),
                agent: handle.meters.agent.agent.clone(),
            };
            *live.entry(state).or_default() += 1;
        }
        self.sessions.clear();
        for (state, found) in live {
            self.sessions.get_or_create(&state).set(found);
        }
        self.pool_size.clear();
        self.pool_target.clear();
        for (version, pool) in broker.pool.states() {
            let agent = self.agent(&version.name);
            for (state, count) in [("ready", pool.ready), ("starting", pool.starting)] {
                let agent = agent.agent.clone();
                let size = self.pool_size.get_or_create(&State { state, agent });
                size.inc_by(i64::from(count));
            }
            let target = self.pool_target.get_or_create(&agent);
            target.inc_by(i64::from(pool.target));
        }
        let now = broker.clock.now();
        for account in broker.ledger.all() {
            let more = account.untold(now);
            self.used_by(&self.agent(&account.subject.runtime), &more);
        }
        self.look_at_tasks(broker);
        let sockets = self
            .streams
            .get_or_create_owned(&StreamKind { kind: "sockets" });
        sockets.set(count(broker.open.len()));
        // There from the first scrape on.
        self.events();
        let checkpoint = broker.ledger.checkpointed_at();
        self.checkpoint.set(checkpoint.as_secs_f64());
        let target = broker.config().limits.prepared_launches;
        self.prepared_target.set(count(target));
        let misses = broker.slots.missed();
        self.prepared_misses
            .inner()
            .store(misses, Ordering::Relaxed);
        self.prepared.set(count(broker.slots.prepared()));
        for resource in ["cpu", "memory", "io"] {
            // Not there without PSI.
            let text = std::fs::read_to_string(format!("/proc/pressure/{resource}"));
            if let Some(percent) = text.ok().as_deref().and_then(some_avg10) {
                let ratio = self.psi.get_or_create(&Resource { resource });
                ratio.set(percent / 100.0);
            }
        }
        let mut text = String::new();
        // Only a writer could fail, and a string does not.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

impl Metrics {
    fn look_at_tasks(&self, broker: &Broker) {
        for (state, found) in [
            ("queued", broker.tasks.queued()),
            ("running", broker.tasks.running()),
        ] {
            self.tasks
                .get_or_create(&TaskState { state })
                .set(count(found));
        }
        let waited = broker.tasks.longest_wait(Timestamp::now());
        self.queue_age.set(waited.as_secs_f64());
    }
}

fn count(found: usize) -> i64 {
    i64::try_from(found).unwrap_or(i64::MAX)
}

fn some_avg10(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let value = some.split(' ').find_map(|word| word.strip_prefix("avg10="));
    value?.parse().ok()
}

/// The same in the older form: a counter is described by the name that its samples have, and no line ends the text.
#[must_use]
pub fn classic(open_metrics: &str) -> String {
    let mut counters = Vec::new();
    for line in open_metrics.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ")
            && let Some((name, "counter")) = described.split_once(' ')
        {
            counters.push(name);
        }
    }
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let described = line
            .strip_prefix("# HELP ")
            .map(|rest| ("# HELP ", rest))
            .or_else(|| line.strip_prefix("# TYPE ").map(|rest| ("# TYPE ", rest)));
        match described.and_then(|(what, rest)| Some((what, rest.split_once(' ')?))) {
            Some((what, (name, rest))) if counters.contains(&name) => {
                text.push_str(&format!("{what}{name}_total {rest}\n"));
            }
            Some(_) | None if line == "# EOF" => {}
            Some(_) | None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}
