//! The probe agent of `tests/agents/probe`, and what its verdicts mean.

use crate::client::{Client, session_name};
use anyhow::{Context as _, ensure};
use proto::api::{Runtime, TemplateState};
use serde::Deserialize;
use serde_json::{Value, json};

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
pub fn warm(client: &Client, runtime: &str) -> anyhow::Result<()> {
    let first = session_name("first");
    client.invoke(runtime, &first, &json!({"list": true}))?;
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
