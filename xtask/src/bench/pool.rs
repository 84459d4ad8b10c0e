//! What a claim costs: the first answer of a new session that waited in its runtime's pool, over the same call to a session that
//! is ready, and `bwrap --unshare-all true` beside it. Each claim is made when the pool is full and the daemon at rest.

use super::samples::Samples;
use super::subject::Subject;
use super::table::{Peer, Promise, Row, Table};
use super::{Effort, peers, wire};
use anyhow::Context as _;
use e2e::client::{SESSION_HEADER, session_name};
use e2e::http::Request;
use e2e::wait;
use proto::api::Runtime;
use std::time::Duration;

/// What is asked.
pub(crate) const BODY: &[u8] = br#"{"prompt": "hello"}"#;

/// Rounds that only fill caches.
const WARM_UP: usize = 3;

/// How many wait.
const MEMBERS: u32 = 4;

pub(crate) fn measure(subject: &Subject, effort: Effort, table: &mut Table) -> anyhow::Result<()> {
    for (runtime, rounds) in [
        ("native", effort.launches),
        ("echo", effort.python_launches.max(10)),
    ] {
        let session = session_name(runtime);
        call(subject, runtime, &session)?;
        let (mut first, mut ready) = (Samples::default(), Samples::default());
        let (mut over, mut bwrap) = (Samples::default(), Samples::default());
        let mut claims = Samples::default();
        for round in 0..rounds + WARM_UP {
            wait::until_true(60, "the pool to be full", || {
                let pool = of(subject, runtime)?.pool.context("no pool")?;
                Ok(pool.ready == MEMBERS && pool.starting == 0)
            })?;
            subject.rest()?;
            let hits = of(subject, runtime)?.pool.context("no pool")?.hits;
            let plain = call(subject, runtime, &session)?;
            let name = session_name(runtime);
            let before = started(subject, runtime)?;
            let claimed = call(subject, runtime, &name)?;
            let claim = started(subject, runtime)? - before;
            let peer = peers::bwrap()?;
            let now = of(subject, runtime)?.pool.context("no pool")?.hits;
            anyhow::ensure!(now == hits + 1, "it was not claimed");
            subject.client().stop(&name)?;
            if round >= WARM_UP {
                first.push_ms(claimed);
                claims.push(claim * 1e3);
                ready.push_ms(plain);
                over.push_ms(claimed.saturating_sub(plain));
                bwrap.push_ms(peer);
            }
        }
        subject.client().stop(&session)?;
        table.add(Row {
            what: format!(
                "claim of a session from the pool, {runtime}, once it is taken: on record, bound to its caller"
            ),
            unit: "ms",
            ours: claims,
            peer: None,
            promise: Promise::AtMost(1.0),
        });
        table.add(Row {
            what: format!(
                "new session from the pool, {runtime}: first answer over a ready session's"
            ),
            unit: "ms",
            ours: over,
            peer: Some(Peer {
                name: "bwrap --unshare-all … true".to_owned(),
                samples: bwrap,
            }),
            promise: Promise::RatioAtMost(1.0 / 3.0),
        });
        table.add(Row {
            what: format!("… its first answer, {runtime}"),
            unit: "ms",
            ours: first,
            peer: Some(Peer {
                name: "a ready session's".to_owned(),
                samples: ready,
            }),
            promise: Promise::Context,
        });
    }
    Ok(())
}

/// Seconds that the daemon has taken for all claims of a runtime so far, as it tells them.
fn started(subject: &Subject, runtime: &str) -> anyhow::Result<f64> {
    let answer = subject.client().send(Request::get("/metrics"))?;
    let text = answer.expect(200)?.text()?;
    let series = text
        .lines()
        .filter(|line| line.starts_with("agentcore_session_start_seconds_sum{"))
        .filter(|line| line.contains("path=\"pool\""))
        .find(|line| line.contains(&format!("agent=\"{runtime}\"")));
    // Nobody has come from the pool yet.
    let Some(series) = series else { return Ok(0.0) };
    let (_, value) = series.rsplit_once(' ').context("a value")?;
    Ok(value.parse()?)
}

fn of(subject: &Subject, runtime: &str) -> anyhow::Result<Runtime> {
    subject.client().runtime(runtime)
}

/// The time to the first byte of an answer, over a new connection.
pub(crate) fn call(subject: &Subject, runtime: &str, session: &str) -> anyhow::Result<Duration> {
    let request = wire::post(
        &format!("/runtimes/{runtime}/invocations"),
        &[(SESSION_HEADER, session)],
        BODY,
    );
    wire::cold(&subject.unix(), &request)
}

/// The configuration for it.
pub(crate) fn config() -> String {
    format!("[pool]\nmin = {MEMBERS}\nmax = {MEMBERS}\n")
}
