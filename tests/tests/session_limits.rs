//! Limits of sessions that run: shown as the kernel has them, changed, and still so for the next daemon. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::{Client, expect_problem, session_name};
use e2e::http::{Request, Response};
use e2e::{Daemon, Options, Result, cgroup, ground, puppet, wait};
use proto::api::{EndReason, ResourcesChanged, Session, SessionLimits};
use proto::units::{CpuMillis, MemoryBytes};
use serde_json::{Value, json};

fn patch(client: &Client, path: &str, body: &Value) -> anyhow::Result<Response> {
    let request = Request::new("PATCH", path)
        .header("content-type", "application/json")
        .body(body.to_string());
    client.send(request)
}

fn set(client: &Client, id: &str, body: &Value) -> anyhow::Result<SessionLimits> {
    let answer = patch(client, &format!("/v1/sessions/{id}/limits"), body)?;
    answer.expect(200)?.json()
}

fn limits(client: &Client, id: &str) -> anyhow::Result<SessionLimits> {
    client.get(&format!("/v1/sessions/{id}/limits"))
}

/// What the host says, by another way than the daemon.
fn on_the_host(session: &Session) -> anyhow::Result<(u64, String)> {
    let pid = session.pid.context("pid")?;
    let read = |controller: &str, files: &[&str]| {
        cgroup::value(pid, controller, files).with_context(|| format!("no {controller}"))
    };
    let memory = read("memory", &["memory.max", "memory.limit_in_bytes"])?;
    let pids = read("pids", &["pids.max"])?;
    Ok((memory.trim().parse()?, pids.trim().to_owned()))
}

#[test]
fn limits_are_changed_in_place_and_survive_the_daemon() -> Result {
    ground!(Daemon, Python);
    let options = Options::installed();
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        let resources = json!({"resources": {"memory": "128M", "cpus": 0.5, "pids": 40}});
        puppet::deploy(&client, "grows", resources)?;
        let id = session_name("grows");
        let before = client.start("grows", &id, &puppet::payload("answer = 1"))?;
        let first = limits(&client, &id)?;
        ensure!(
            (first.memory, first.cpus, first.pids)
                == (Some(MemoryBytes::mib(128)), Some(CpuMillis(500)), Some(40)),
            "{first:?}"
        );
        ensure!(
            first.usage.memory_bytes > 0 && first.usage.pids >= 2,
            "{first:?}"
        );
        // More than it had, which it then can have.
        let grown = set(&client, &id, &json!({"memory": "400M", "pids": 60}))?;
        ensure!(grown.memory == Some(MemoryBytes::mib(400)), "{grown:?}");
        ensure!(
            grown.cpus == Some(CpuMillis(500)),
            "what was not named changed: {grown:?}"
        );
        ensure!(on_the_host(&before)? == (400 << 20, "60".to_owned()));
        let threads = "import threading, time\nall = [threading.Thread(target=time.sleep, args=(1,)) for _ in range(45)]\nfor one in all: one.start()\nanswer = len(all)";
        let began = puppet::run(&client, "grows", &id, threads)?;
        ensure!(
            began == json!(45),
            "more than it was launched with: {began}"
        );
        let hoard = "kept['x'] = bytearray(200 << 20)\nanswer = len(kept['x'])";
        puppet::run(&client, "grows", &id, hoard)?;
        // Less than it holds: told, and nothing changes.
        let path = format!("/v1/sessions/{id}/limits");
        let refused = patch(&client, &path, &json!({"memory": "100M", "cpus": 1}))?;
        expect_problem(refused, 409, "memory")?;
        let same = limits(&client, &id)?;
        ensure!(
            (same.memory, same.cpus) == (grown.memory, grown.cpus),
            "{same:?}"
        );
        puppet::run(&client, "grows", &id, "kept.clear()")?;
        let less = set(&client, &id, &json!({"memory": "100M", "cpus": 1}))?;
        ensure!(less.memory == Some(MemoryBytes::mib(100)), "{less:?}");
        ensure!(on_the_host(&before)? == (100 << 20, "60".to_owned()));
        ensure!(
            client
                .logs(&id)?
                .contains("limits are now memory 100M, cpus 1, pids 60")
        );
        daemon.kill()?;
        daemon.restart()?;
        let client = daemon.client();
        let adopted = limits(&client, &id)?;
        ensure!(
            (adopted.memory, adopted.cpus, adopted.pids) == (less.memory, less.cpus, less.pids),
            "{adopted:?}"
        );
        let wider = set(&client, &id, &json!({"cpus": 2}))?;
        ensure!(wider.cpus == Some(CpuMillis(2000)), "{wider:?}");
        // And it is enforced.
        let starve = client.send(Client::invocation("grows", &id, &puppet::payload(hoard)))?;
        ensure!(
            starve.status >= 400,
            "200 MiB fit into 100: {}",
            starve.status
        );
        let ended = client.ended(&id, 20)?;
        ensure!(
            ended.end_reason == Some(EndReason::OutOfMemory),
            "{ended:?}"
        );
        Ok(())
    })
}

#[test]
fn what_cannot_be_is_named_and_changes_nothing() -> Result {
    ground!(Daemon, Python);
    let options = Options::quick().config("[ceilings]\nmemory = \"1G\"\ncpus = 2\n");
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "bounded", json!({}))?;
        let id = session_name("bounded");
        client.start("bounded", &id, &puppet::payload("answer = 1"))?;
        let before = limits(&client, &id)?;
        let path = format!("/v1/sessions/{id}/limits");
        for (body, field) in [
            (json!({"memory": "2G"}), "memory"),
            (json!({"memory": "1M"}), "memory"),
            (json!({"memory": "lots"}), "memory"),
            (json!({"cpus": 3}), "cpus"),
            (json!({"cpus": 0}), "cpus"),
            (json!({"pids": 1}), "pids"),
            (json!({"pids": -1}), "pids"),
            (json!({"tmp_size": "1G"}), "tmp_size"),
            (json!({}), "body"),
        ] {
            let answer = patch(&client, &path, &body)?;
            expect_problem(answer, 400, field).with_context(|| body.to_string())?;
        }
        let runtime = patch(
            &client,
            "/v1/runtimes/bounded/resources",
            &json!({"cpus": 3}),
        )?;
        expect_problem(runtime, 400, "cpus")?;
        let nobody = patch(
            &client,
            "/v1/runtimes/nobody/resources",
            &json!({"cpus": 1}),
        )?;
        expect_problem(nobody, 404, "nobody")?;
        let after = limits(&client, &id)?;
        ensure!(
            (before.memory, before.cpus, before.pids) == (after.memory, after.cpus, after.pids)
        );
        ensure!(client.runtime("bounded")?.version.0 == 1);
        client.stop(&id)?;
        expect_problem(patch(&client, &path, &json!({"pids": 99}))?, 404, &id)?;
        Ok(())
    })
}

#[test]
fn a_runtimes_resources_reach_its_live_sessions_and_those_to_come() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::quick(), |daemon| {
        let client = daemon.client();
        puppet::deploy(&client, "all", json!({"resources": {"memory": "200M"}}))?;
        let (small, large, later) = (
            session_name("small"),
            session_name("large"),
            session_name("later"),
        );
        client.start("all", &small, &puppet::payload("answer = 1"))?;
        let hoard = "kept['x'] = bytearray(120 << 20)";
        let holder = client.start("all", &large, &puppet::payload(hoard))?;
        let answer = patch(
            &client,
            "/v1/runtimes/all/resources",
            &json!({"memory": "100M", "pids": 77}),
        )?;
        let outcome: ResourcesChanged = answer.expect(200)?.json()?;
        ensure!(outcome.runtime.version.0 == 2, "{outcome:?}");
        ensure!(
            outcome.changed.len() == 1 && outcome.unchanged.len() == 1,
            "{outcome:?}"
        );
        ensure!(outcome.unchanged[0].id == holder.id, "{outcome:?}");
        ensure!(
            outcome.unchanged[0].reason.contains("memory"),
            "{outcome:?}"
        );
        client.start("all", &later, &puppet::payload("answer = 1"))?;
        for id in [&small, &later] {
            let has = limits(&client, id)?;
            ensure!(
                (has.memory, has.pids) == (Some(MemoryBytes::mib(100)), Some(77)),
                "{has:?}"
            );
        }
        ensure!(limits(&client, &large)?.memory == Some(MemoryBytes::mib(200)));
        // The command says the same, and that not all were changed.
        let cli = |words: &[&str]| daemon.cli().args(words).output();
        let out = cli(&["runtime", "limits", "all", "--memory", "90M"])?;
        ensure!(out.status.code() == Some(4), "{out:?}");
        let out = cli(&["session", "limits", &small, "--cpus", "0.25", "--json"])?;
        ensure!(out.status.success(), "{out:?}");
        let told: SessionLimits = serde_json::from_slice(&out.stdout)?;
        ensure!(
            (told.memory, told.cpus) == (Some(MemoryBytes::mib(90)), Some(CpuMillis(250))),
            "{told:?}"
        );
        for id in [&small, &large, &later] {
            client.stop(id)?;
        }
        wait::until_true(20, "all to end", || Ok(client.live_sessions()?.is_empty()))?;
        Ok(())
    })
}
