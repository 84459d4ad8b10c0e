//! `GET /metrics`: what Prometheus reads, in both its forms, and who may read it. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{Client, session_name};
use e2e::http::Request;
use e2e::{Daemon, Options, Result, ground, puppet, venv, wait};
use serde_json::json;

fn scrape(client: &Client, accept: &str) -> anyhow::Result<(String, String)> {
    let answer = client.send(Request::get("/metrics").header("accept", accept))?;
    let kind = answer.header("content-type").unwrap_or_default().to_owned();
    Ok((kind, answer.expect(200)?.text()?))
}

/// The value of a sample, by its name and the labels that it must have.
fn value(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    text.lines()
        .filter(|line| line.split(['{', ' ']).next() == Some(name))
        .find(|line| labels.iter().all(|label| line.contains(label)))
        .and_then(|line| line.rsplit(' ').next()?.parse().ok())
}

#[test]
fn what_happens_is_counted() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "counted", json!({}))?;
        let id = session_name("counted");
        for _ in 0..3 {
            puppet::run(&client, "counted", &id, "answer = 'x' * 1000")?;
        }
        let raises = client.send(Client::invocation("counted", &id, &puppet::payload("1/0")))?;
        ensure!(raises.status >= 400);
        let nobody = client.send(Client::invocation("nobody", &id, &json!({})))?;
        ensure!(nobody.status == 404);
        let path = format!("/v1/sessions/{id}");
        client
            .send(Request::post(format!("{path}/freeze"), ""))?
            .expect(200)?;
        let (_, text) = scrape(&client, "*/*")?;
        let agent = "agent=\"counted\"";
        let frozen = ["state=\"frozen\"", agent];
        ensure!(
            value(&text, "agentcore_sessions", &frozen) == Some(1.0),
            "{text}"
        );
        client
            .send(Request::post(format!("{path}/thaw"), ""))?
            .expect(200)?;
        let code = "import time\ntime.sleep(60)";
        let call = client.in_background("counted", &id, &puppet::payload(code));
        wait::until_true(10, "the call to be in flight", || {
            let (_, text) = scrape(&client, "*/*")?;
            Ok(value(&text, "agentcore_inflight_invocations", &[agent]) == Some(1.0))
        })?;
        client.stop(&id)?;
        drop(call.join());
        let (_, text) = scrape(&client, "*/*")?;
        let of = |name: &str, labels: &[&str]| {
            value(&text, name, labels).with_context(|| format!("no {name}{labels:?} in {text}"))
        };
        ensure!(
            of(
                "agentcore_invocations_total",
                &[agent, "code=\"200\"", "mode=\"sync\""]
            )? == 3.0
        );
        ensure!(of("agentcore_inflight_invocations", &[agent])? == 0.0);
        ensure!(of("agentcore_invocation_duration_seconds_count", &[agent])? >= 5.0);
        ensure!(of("agentcore_response_bytes_total", &[agent])? >= 3000.0);
        ensure!(of("agentcore_session_start_seconds_count", &[agent])? == 1.0);
        ensure!(of("agentcore_sessions_ended_total", &["reason=\"stopped\""])? == 1.0);
        ensure!(of("agentcore_session_cpu_seconds_total", &[agent])? > 0.0);
        ensure!(of("agentcore_freezes_total", &["cause=\"operator\""])? == 1.0);
        ensure!(of("agentcore_thaw_seconds_count", &[])? == 1.0);
        ensure!(of("agentcore_admission_total", &["decision=\"admitted\""])? == 1.0);
        ensure!(of("agentcore_store_commit_seconds_count", &[])? > 0.0);
        let refused = ["operation=\"InvokeAgentRuntime\"", "code=\"404\""];
        ensure!(of("agentcore_requests_total", &refused)? == 1.0);
        ensure!(of("agentcore_build_info", &["version="])? == 1.0);
        ensure!(
            value(&text, "agentcore_sessions", &[agent]).is_none(),
            "it is over: {text}"
        );
        ensure!(!text.contains(&id), "a session's id is a label");
        Ok(())
    })
}

#[test]
fn prometheus_reads_both_forms() -> Result {
    ground!(Daemon, Python, Registry);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "parsed", json!({}))?;
        let id = session_name("parsed");
        puppet::run(&client, "parsed", &id, "answer = 1")?;
        let forms = [
            ("text/plain", "text/plain; version=0.0.4", "classic"),
            (
                "application/openmetrics-text",
                "application/openmetrics-text",
                "openmetrics",
            ),
        ];
        for (accept, kind, form) in forms {
            let (told, text) = scrape(&client, accept)?;
            ensure!(told.starts_with(kind), "{accept}: {told}");
            let file = daemon.dir().join(form);
            std::fs::write(&file, text)?;
            let said = venv::run(
                "metrics-requirements.txt",
                "metrics_check.py",
                &[form, &file.display().to_string()],
            )?;
            ensure!(said.contains("agentcore_invocations"), "{said}");
        }
        client.stop(&id)?;
        Ok(())
    })
}

#[test]
fn only_operators_read_them_unless_they_are_public() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::signed(), |daemon| {
        ensure!(daemon.tcp()?.send(Request::get("/metrics"))?.status == 403);
        let (_, text) = scrape(&daemon.client(), "*/*")?;
        ensure!(text.contains("agentcore_build_info"));
        Ok(())
    })?;
    let public = Options::signed().config("[metrics]\npublic = true\n");
    Daemon::with(public, |daemon| {
        let (_, text) = scrape(&daemon.tcp()?, "*/*")?;
        ensure!(text.contains("agentcore_build_info"));
        ensure!(daemon.tcp()?.send(Request::get("/v1/info"))?.status == 403);
        Ok(())
    })
}
