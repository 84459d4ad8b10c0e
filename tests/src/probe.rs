//! The probe agent of `tests/agents/probe`, and what its verdicts mean.

use crate::canaries::{Canaries, denied_device, peer};
use crate::client::{Client, session_name};
use crate::daemon::Daemon;
use crate::host;
use anyhow::{Context as _, ensure};
use proto::api::{Runtime, TemplateState};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Limits of a session that is probed, as configuration.
pub const LIMITS: &str =
    r#"{"resources": {"memory": "256M", "cpus": 0.5, "pids": 128, "tmp_size": "16M"}}"#;

/// So many were green here and must stay so; the rest of the catalogue may have nothing to judge.
pub const LEAST: usize = 960;

/// One probe's outcome.
#[derive(Debug, Clone, Deserialize)]
pub struct Row {
    /// `F01.direct`, …
    pub id: String,
    /// PASS, FAIL or INFO.
    pub verdict: String,
    /// What was seen.
    pub detail: String,
}

/// Verdicts of a run.
#[derive(Debug, Clone)]
pub struct Verdicts {
    /// In the catalogue's order.
    pub rows: Vec<Row>,
}

/// Deploys the probe agent.
pub fn deploy(client: &Client, name: &str, more: Value) -> anyhow::Result<Runtime> {
    crate::deploy::agent(client, "probe", name, "main.py", more)
}

/// Has a first session, which is started, and waits until later ones can be forked from the template that is made behind it.
pub fn warm(client: &Client, runtime: &str, call: &Value) -> anyhow::Result<()> {
    let first = session_name("first");
    client.invoke(runtime, &first, call)?;
    crate::wait::until_true(60, "the template", || {
        let template = client.runtime(runtime)?.template.unwrap_or_default();
        ensure!(template.reason.is_none(), "{template:?}");
        Ok(template.state == TemplateState::Ready)
    })?;
    client.stop(&first)?;
    Ok(())
}

/// Runs probes in a session.
pub fn run(
    client: &Client,
    runtime: &str,
    session: &str,
    payload: &Value,
) -> anyhow::Result<Verdicts> {
    Verdicts::read(&client.invoke(runtime, session, payload)?)
}

/// What all probes are told, who run in session `id` of a runtime with [`LIMITS`] and `COLOUR=blue` in its environment: what lies around
/// that they must not find, and what [`LIMITS`] and the plan promise. `other`: a session and what was [planted](plant) in it.
pub fn payload(
    daemon: &Daemon,
    canaries: &Canaries,
    id: &str,
    (other, planted): (&str, &Value),
) -> anyhow::Result<Value> {
    let client = daemon.client();
    let mut told: Map<String, Value> = canaries.json(daemon, json!({"COLOUR": "blue"}))?;
    told.insert("peer".into(), peer(&client.session(other)?, planted)?);
    let shim = client.session(id)?.pid.context("pid")?;
    told.insert("loopback_ports".into(), proxy_ports(shim)?);
    // A fork has one more, which takes `setns` away that its template has.
    let filters = if host::is_forked(shim)? { 3 } else { 2 };
    told.insert("filters".into(), json!(filters));
    told.insert("denied_device".into(), json!(denied_device(shim)?));
    let promised = host::inotify_promised(shim)?;
    let limits = json!({
        "memory_bytes": 256u64 << 20, "cpus": 0.5, "pids": 128,
        "tmp_bytes": 16 << 20, "home_bytes": 16 << 20, "shm_bytes": 4 << 20,
        "nofile": 4096, "core": 0, "rtprio": 0, "nice": 0,
        "inotify": promised.instances, "watches": promised.watches,
    });
    Ok(json!({"run": "all", "canaries": told, "limits": limits, "strict": true}))
}

/// Ports that something else than the agent serves on the session's loopback: the egress proxy, as the agent is told.
fn proxy_ports(shim: i32) -> anyhow::Result<Value> {
    let agent = host::agent(shim).context("the shim has no agent")?;
    let ports: BTreeSet<u16> = host::environment(agent)?
        .iter()
        .filter(|(name, _)| name.to_ascii_uppercase().ends_with("_PROXY"))
        .filter_map(|(_, url)| url.trim_end_matches('/').rsplit_once(':')?.1.parse().ok())
        .collect();
    Ok(json!(ports))
}

/// Asks a session to plant its secrets.
pub fn plant(client: &Client, runtime: &str, session: &str, tag: &str) -> anyhow::Result<Value> {
    let payload =
        json!({"plant": {"tag": tag, "secret": format!("secret-of-{tag}-{}", std::process::id())}});
    let answer = client.invoke(runtime, session, &payload)?;
    ensure!(answer["planted"].is_object(), "{answer}");
    Ok(answer["planted"].clone())
}

impl Verdicts {
    /// From the agent's answer.
    pub fn read(answer: &Value) -> anyhow::Result<Self> {
        ensure!(answer["error"].is_null(), "the probe agent: {answer}");
        let rows = serde_json::from_value(answer["results"].clone())
            .with_context(|| answer.to_string())?;
        Ok(Self { rows })
    }

    /// Rows with this verdict.
    #[must_use]
    pub fn with(&self, verdict: &str) -> Vec<&Row> {
        self.rows.iter().filter(|r| r.verdict == verdict).collect()
    }

    /// Verdict of one id.
    #[must_use]
    pub fn of(&self, id: &str) -> Option<&Row> {
        self.rows.iter().find(|r| r.id == id)
    }

    /// An error unless every verdict of INFO is of one of these ids (a closing `*` stands for any rest).
    pub fn nothing_untold_but(&self, ids: &[(&str, &str)]) -> anyhow::Result<()> {
        let known = |id: &str| {
            ids.iter().any(|(known, _)| match known.strip_suffix('*') {
                Some(prefix) => id.starts_with(prefix),
                None => id == *known,
            })
        };
        let untold: Vec<_> = self
            .with("INFO")
            .into_iter()
            .filter(|row| !known(&row.id))
            .map(|row| format!("{}: {}", row.id, row.detail))
            .collect();
        ensure!(
            untold.is_empty(),
            "{} probes judge nothing:\n  {}",
            untold.len(),
            untold.join("\n  ")
        );
        Ok(())
    }

    /// An error unless at least `least` passed and none failed.
    pub fn all_green(&self, least: usize) -> anyhow::Result<()> {
        let red = self.with("FAIL");
        let told: Vec<_> = red
            .iter()
            .map(|r| format!("{}: {}", r.id, r.detail))
            .collect();
        ensure!(
            red.is_empty(),
            "{} probes are red:\n  {}",
            red.len(),
            told.join("\n  ")
        );
        let green = self.with("PASS").len();
        ensure!(
            green >= least,
            "only {green} probes passed, expected {least}: {:?}",
            self.with("INFO")
        );
        Ok(())
    }
}
