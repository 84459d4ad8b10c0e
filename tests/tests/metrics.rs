//! `GET /metrics`: what Prometheus reads, in both its forms, and who may read it. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{Client, SESSION_HEADER, session_name};
use e2e::http::Request;
use e2e::{Daemon, Options, Result, ground, puppet, task, venv, wait};
use proto::api::TaskStatus;
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
        ensure!(of("agentcore_session_memory_gb_seconds_total", &[agent])? > 0.0);
        for stage in ["reserve", "launch", "attach", "ready"] {
            let stage = format!("stage=\"{stage}\"");
            let count = of("agentcore_session_start_stage_seconds_count", &[&stage])?;
            ensure!(count == 1.0, "{stage}: {count}");
        }
        ensure!(of("agentcore_prepared_launches_target", &[])? > 0.0);
        ensure!(of("agentcore_tasks", &["state=\"queued\""])? == 0.0);
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

/// The names that operators expect (field.md §5), once there was something to count for each.
#[test]
fn the_names_are_those_that_operators_expect() -> Result {
    ground!(Daemon, Python);
    let options = Options::installed();
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        task::deploy(&client, "named", json!({"pool": {"max": 1}}))?;
        let (adopted, over) = (session_name("adopted"), session_name("over"));
        let call = |id: &str| client.invoke("named", id, &json!({"code": "answer = 1"}));
        call(&adopted)?;
        daemon.kill()?;
        daemon.restart()?;
        call(&over)?;
        client.stop(&over)?;
        for verb in ["freeze", "thaw"] {
            let path = format!("/v1/sessions/{adopted}/{verb}");
            client.send(Request::post(path, ""))?.expect(200)?;
        }
        let nobodys = "/runtimes/named/invocations?resumable=t0000000000000000000000000";
        let nobodys = Request::post(nobodys, "{}").header(SESSION_HEADER, &over);
        client.send(nobodys)?.expect(404)?;
        let (_, text) = scrape(&client, "*/*")?;
        for (name, kind) in [
            ("agentcore_build_info", "gauge"),
            ("agentcore_sessions", "gauge"),
            ("agentcore_session_start_seconds", "histogram"),
            ("agentcore_session_start_stage_seconds", "histogram"),
            ("agentcore_invocations_total", "counter"),
            ("agentcore_invocation_duration_seconds", "histogram"),
            ("agentcore_time_to_first_byte_seconds", "histogram"),
            ("agentcore_inflight_invocations", "gauge"),
            ("agentcore_streams_open", "gauge"),
            ("agentcore_stream_resumes_total", "counter"),
            ("agentcore_tasks", "gauge"),
            ("agentcore_task_queue_age_seconds", "gauge"),
            ("agentcore_pool_size", "gauge"),
            ("agentcore_pool_target", "gauge"),
            ("agentcore_pool_misses_total", "counter"),
            ("agentcore_prepared_launches_size", "gauge"),
            ("agentcore_prepared_launches_target", "gauge"),
            ("agentcore_prepared_launches_misses_total", "counter"),
            ("agentcore_freezes_total", "counter"),
            ("agentcore_thaw_seconds", "histogram"),
            ("agentcore_sessions_ended_total", "counter"),
            ("agentcore_session_cpu_seconds_total", "counter"),
            ("agentcore_session_memory_gb_seconds_total", "counter"),
            ("agentcore_egress_denied_total", "counter"),
            ("agentcore_admission_total", "counter"),
            ("agentcore_psi_some_ratio", "gauge"),
            ("agentcore_adopted_sessions_total", "counter"),
            ("agentcore_config_last_reload_successful", "gauge"),
            (
                "agentcore_ledger_last_checkpoint_timestamp_seconds",
                "gauge",
            ),
        ] {
            let line = format!("# TYPE {name} {kind}");
            ensure!(
                text.lines().any(|each| each == line),
                "no {line:?} in {text}"
            );
        }
        client.stop(&adopted)?;
        Ok(())
    })
}

#[test]
fn streams_and_tasks_are_told_while_they_last() -> Result {
    ground!(Daemon, Python);
    let options = Options {
        dev: false,
        ..Options::quick().config("[tasks]\nconcurrency = 1")
    };
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        task::deploy(&client, "flows", json!({}))?;
        let shown = |name: &str, labels: &[&str]| -> anyhow::Result<f64> {
            let (_, text) = scrape(&client, "*/*")?;
            value(&text, name, labels).with_context(|| format!("no {name}{labels:?} in {text}"))
        };
        let open = || shown("agentcore_streams_open", &["kind=\"events\""]);
        ensure!(open()? == 0.0);
        // A stream is open as long as somebody reads it, one of a call and one that is kept.
        let events =
            "stream()\nfor n in range(1000):\n  say(b'data: %d\\r\\n\\r\\n' % n); time.sleep(0.1)";
        let id = session_name("flows");
        let begin = |query: &str, more: (&str, &str)| {
            let body = json!({ "code": events }).to_string();
            let request = Request::post(format!("/runtimes/flows/invocations{query}"), body)
                .header("content-type", "application/json")
                .header(SESSION_HEADER, &id);
            client.send(request.header(more.0, more.1))
        };
        let mut plain = begin("", ("accept", "text/event-stream"))?.expect(200)?;
        plain.piece()?;
        ensure!(open()? == 1.0);
        drop(plain);
        wait::until_true(20, "the stream to be closed", || Ok(open()? == 0.0))?;
        let mut kept = begin("?resumable=true", ("accept", "*/*"))?.expect(200)?;
        let number = kept
            .header("x-agentcore-task-id")
            .context("no id")?
            .to_owned();
        kept.piece()?;
        ensure!(open()? == 1.0);
        drop(kept);
        let again = format!("?resumable={number}");
        let mut back = begin(&again, ("last-event-id", "0"))?.expect(200)?;
        back.piece()?;
        begin("?resumable=t0000000000000000000000000", ("accept", "*/*"))?.expect(404)?;
        let resumes = |result: &str| {
            shown(
                "agentcore_stream_resumes_total",
                &[&format!("result=\"{result}\"")],
            )
        };
        ensure!((resumes("resumed")?, resumes("unknown")?) == (1.0, 1.0));
        // What a session uses is told while it runs.
        let used = || {
            shown(
                "agentcore_session_memory_gb_seconds_total",
                &["agent=\"flows\""],
            )
        };
        let before = used()?;
        wait::until_true(10, "the session's memory to be counted", || {
            Ok(used()? > before)
        })?;
        drop(back);
        client.stop(&id)?;
        wait::until_true(20, "the kept stream to be over", || {
            Ok(shown("agentcore_tasks", &["state=\"running\""])? == 0.0)
        })?;
        // One task at a time: the other waits.
        let first = task::submit(&client, "flows", "", "time.sleep(600)")?;
        task::reaches(&client, &first, TaskStatus::Running)?;
        let second = task::submit(&client, "flows", "", "answer = 1")?;
        let tasks = |state: &str| shown("agentcore_tasks", &[&format!("state=\"{state}\"")]);
        // It is on disk when it is answered, and in the queue a little later.
        wait::until_true(10, "one to run and one to wait", || {
            Ok((tasks("queued")?, tasks("running")?) == (1.0, 1.0))
        })?;
        wait::until_true(10, "it to have waited for a second", || {
            Ok(shown("agentcore_task_queue_age_seconds", &[])? >= 1.0)
        })?;
        for task in [&second, &first] {
            client
                .send(Request::post(
                    format!("/v1/tasks/{}/cancel", task.task_id),
                    "",
                ))?
                .expect(200)?;
        }
        ensure!(shown("agentcore_task_queue_age_seconds", &[])? == 0.0);
        wait::until_true(20, "a checkpoint of what was used", || {
            Ok(shown("agentcore_ledger_last_checkpoint_timestamp_seconds", &[])? > 1.7e9)
        })
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
